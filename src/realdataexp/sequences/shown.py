"""What models are shown of items besides which they are: codes and vectors.

Axes: V items, L codes of an item, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from realdataexp.errors import Warnings
from realdataexp.models.batch import Input
from realdataexp.options import Options, PathText, Text, changed_in
from realdataexp.sequences.codes import (
    CodeOptions,
    Codes,
    given_codes,
    read_codes,
    residual_kmeans,
)
from realdataexp.sequences.histories import Split
from realdataexp.sequences.items import Items
from realdataexp.sequences.vectors import VectorOptions, make_vectors


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


class ItemsConfig(Options):
    """What models are shown of items."""

    codes: CodesConfig | None = Field(None, description="codes of items; null: none")
    vectors: VectorOptions | None = Field(
        None, description="vectors of items, which a model may read as a prefix; null: none"
    )

    @property
    def has_given_vectors(self) -> bool:
        """Whether vectors come from elsewhere, fitted on whatever interactions."""
        return self.vectors is not None and bool({"column", "file"} & {*self.vectors.kind})


def shown_of(
    options: ItemsConfig,
    split: Split,
    items: Items,
    seed: int,
    warnings: Warnings,
    at: Callable[[str], Path],
) -> dict[str, np.ndarray]:
    """The tables ``codes`` (int32 V, L) and ``vector`` (float32 V, D), as far as asked for.

    ``at`` says where a path of the options is.
    """
    found: dict[str, np.ndarray] = {}
    if options.codes is not None:
        codes = _codes(options.codes, split, items, seed, warnings, at)
        found["codes"] = codes.code_VL.astype(np.int32)
    if options.vectors is not None:
        found["vector"] = make_vectors(split, items, options.vectors, seed, at)
    return found


def _codes(
    options: CodesConfig,
    split: Split,
    items: Items,
    seed: int,
    warnings: Warnings,
    at: Callable[[str], Path],
) -> Codes:
    if options.column is not None:
        where = f"{items.source}: column {options.column!r}"
        return given_codes(items.codes(options.column), options, seed, where)
    if options.file is not None:
        path = at(options.file)
        return given_codes(read_codes(path, items.names, warnings), options, seed, str(path))
    return residual_kmeans(make_vectors(split, items, options.vectors, seed, at), options, seed)


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
