"""What a config may ask to be shown of items besides which they are: codes and vectors.

These are options alone, which load nothing that computes; `shown` makes what they ask for.

Axes: V items, X any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from realdataexp.models.batch import Input
from realdataexp.options import (
    Count,
    Decay,
    Depth,
    Options,
    PathText,
    Rate,
    Text,
    Width,
    changed_in,
)  # fmt: skip

Kind = Literal["svd", "lightgcn", "text", "column", "file"]


class LightGCN(Options):
    """How LightGCN is trained."""

    layers: Depth = Field(3, description="steps over the graph")
    epochs: Count = Field(10, description="passes over all training interactions")
    batch: Count = Field(16384, description="interactions of a step")
    negatives: Count = Field(256, description="items drawn that a step's pairs are compared with")
    learning_rate: Rate = Field(0.03, description="of Adam")
    weight_decay: Decay = Field(1e-4, description="on the squared lengths of a step's vectors")
    temperature: Rate = Field(0.2, description="what cosines are divided by in the softmax")


def _as_list(kinds: object) -> object:
    return (kinds,) if isinstance(kinds, str) else kinds


class VectorOptions(Options):
    """Where items' vectors come from."""

    kind: Annotated[
        tuple[Kind, ...], Field(strict=False, min_length=1), BeforeValidator(_as_list)
    ] = Field(
        ("svd",),
        description="svd: of what comes together in training; lightgcn: of who had what there; "
        "text: SVD of the TF-IDF of texts and categories; column: a column of lists; file: given; "
        "several are joined",
    )
    size: Width = Field(64, description="numbers of each kind that is computed, at most")
    lightgcn: LightGCN = Field(LightGCN(), description="how LightGCN is trained")
    text: Text = Field("text", description="column of texts")
    categories: Text | None = Field(
        None, description="column of categories, each of which is a word of kind text; null: none"
    )
    column: Text = Field("vector", description="column of lists of numbers")
    file: PathText | None = Field(
        None,
        description=".npy, in the order of the items' table; or with ids: .parquet (columns item "
        "and vector) or .safetensors (tensors item, whole numbers, and vector)",
    )

    control: Literal["zeros", "shuffled", "noise"] | None = Field(
        None, description="what stands in for them, to see what they are worth; null: nothing"
    )

    @model_validator(mode="after")
    def _has_effect(self) -> VectorOptions:
        for key in ("lightgcn", "text", "categories", "column", "file"):
            kind = "text" if key == "categories" else key
            if key in changed_in(self) and kind not in self.kind:
                raise ValueError(f"{key} has no effect without kind {kind}: leave it out")
        if "file" in self.kind and self.file is None:
            raise ValueError("kind file needs file: the path of the vectors")
        return self

    @property
    def is_given(self) -> bool:
        """Whether they come from elsewhere."""
        return bool({"column", "file"} & {*self.kind})


class CodeOptions(Options):
    """How items come by codes, where none are given."""

    n_codes: Annotated[int, Field(ge=2, le=10**6)] = Field(256, description="codes of a level")
    n_levels: Depth = Field(3, description="levels of k-means; one more where items share all")
    doubled: Literal["code", "refuse"] = Field(
        "code", description="items that share all codes get one code more, or are refused"
    )


class CodesConfig(CodeOptions):
    """Codes of items: given, or made by residual k-means of vectors."""

    column: Text | None = Field(None, description="column of the items' table that has codes")
    file: PathText | None = Field(
        None, description='JSON file of codes, as {"item": ["<a_1>", "<b_7>"], ...}'
    )
    vectors: VectorOptions = Field(
        VectorOptions(), description="what is clustered where codes are not given"
    )

    @model_validator(mode="after")
    def _has_effect(self) -> CodesConfig:
        given = [key for key in ("column", "file") if getattr(self, key) is not None]
        if len(given) == 2:
            raise ValueError("column and file both have codes: leave out one of the two")
        unused = [x for x in ("n_codes", "n_levels", "vectors") if given and x in changed_in(self)]
        if unused:
            raise ValueError(f"{unused[0]} has no effect beside {given[0]}: leave it out")
        return self

    @property
    def is_given(self) -> bool:
        """Whether they come from elsewhere."""
        return bool(self.column or self.file) or self.vectors.is_given


class ItemsConfig(Options):
    """What models are shown of items."""

    codes: CodesConfig | None = Field(None, description="codes of items; null: none")
    vectors: VectorOptions | None = Field(
        None, description="vectors of items, which a model may read as a prefix; null: none"
    )

    @property
    def given(self) -> list[str]:
        """Which of them come from elsewhere, and so were fitted on whatever interactions."""
        both = {"codes": self.codes, "vectors": self.vectors}
        return [name for name, x in both.items() if x is not None and x.is_given]


def inputs_about(options: ItemsConfig) -> dict[str, Input]:
    """About what models will see of a candidate: codes are counted when they are made."""
    found, codes, vectors = {}, options.codes, options.vectors
    if codes is not None:
        found["video_codes"] = Input("candidate", (codes.n_levels + 1,), codes.n_codes)
    if vectors is not None:
        found["video_vector"] = Input("candidate", (len(vectors.kind) * vectors.size,))
    return found


def inputs_of(shown: Mapping[str, np.ndarray]) -> dict[str, Input]:
    """What models see of a candidate, by these tables of all items."""
    return {
        f"video_{name}": Input(
            "candidate", x_VX.shape[1:], int(x_VX.max()) + 1 if name == "codes" else None
        )
        for name, x_VX in shown.items()
    }
