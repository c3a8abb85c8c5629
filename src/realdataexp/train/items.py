"""What models are shown of items besides which they are: codes and vectors.

Axes: V items, L codes of an item, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from realdataexp.errors import Warnings
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
    at: Callable[[str], Path] = Path,
) -> dict[str, np.ndarray]:
    """The tables ``codes`` (int64 V, L) and ``vector`` (float32 V, D), as far as asked for.

    ``at`` says where a path of the options is.
    """
    found: dict[str, np.ndarray] = {}
    if options.codes is not None:
        found["codes"] = _codes(options.codes, split, items, seed, warnings, at).code_VL
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
