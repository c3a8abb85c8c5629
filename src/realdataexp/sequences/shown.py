"""What models are shown of items besides which they are: codes and vectors.

Axes: V items, L codes of an item, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from realdataexp.errors import Warnings
from realdataexp.sequences.codes import Codes, given_codes, read_codes, residual_kmeans
from realdataexp.sequences.histories import Split
from realdataexp.sequences.item_options import CodesConfig, ItemsConfig
from realdataexp.sequences.items import Items
from realdataexp.sequences.vectors import make_vectors


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


def shown_in_loop(
    options: ItemsConfig,
    split: Split,
    items: Items,
    seed: int,
    warnings: Warnings,
    at: Callable[[str], Path],
) -> dict[str, np.ndarray]:
    """`shown_of` for a world, where ``split`` is what was known before the test."""
    for name in options.given:
        warnings.add(
            "given_items",
            f"dataset.{name}: made elsewhere; if what is replayed went into them, the models that "
            "read them know what comes",
        )
    return shown_of(options, split, items, seed, warnings, at)


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
