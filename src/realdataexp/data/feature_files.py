"""The asked columns of the user and video feature files, for the ids that occur in the log.

In bounded memory: the rows of the log's users (videos) are spilled to disk, and read back a range
of ids at a time, to be written as blocks of a Parquet file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from realdataexp.data.csv_chunks import Piece, in_order, pieces
from realdataexp.data.csv_files import MAX_NUMBER, diagnose, parse, require_columns, shared_header
from realdataexp.data.ids import IdSet
from realdataexp.data.schema import UNKNOWN, Column
from realdataexp.data.spill import Spill
from realdataexp.errors import InputError, RunError

BLOCK_ROWS = 1 << 18
"""Users or videos in a block of the Parquet file, which is how many are in memory at a time."""

_PLACE = "_place"  # an id's number among those of the log


@dataclass(frozen=True)
class AskedFeature:
    """A feature of the request: where it lives, and whether it is read as a number."""

    column: Column
    is_numerical: bool

    @property
    def dtype(self) -> type[pl.DataType]:
        """Type of its values."""
        return pl.Float32 if self.is_numerical else pl.String


def write_features(
    id_name: str,
    ids: IdSet,
    asked: Sequence[AskedFeature],
    files: Mapping[str, Sequence[Path]],
    path: Path,
) -> dict[str, Any]:
    """Look up the asked features of users or videos and write them as a Parquet file.

    The file has one row per id, ascending: the id (Int64), then one column per feature, named as
    asked; Float32 or String, null where missing.

    Args:
        id_name: "user_id" or "video_id".
        ids: those that occur in the log.
        asked: features of this side, in the order their columns shall have.
        files: paths of the shards per file stem.
        path: the file; beside it the looked-up rows lie meanwhile.

    Returns:
        The stats: `files` (rows per file name), `without_features` (ids without a row, per file
        stem), `features` (n_missing and n_unknown per feature).

    Raises:
        InputError: see `parse`; and a repeated id, or a text column asked as numerical.
    """
    stats: dict[str, Any] = {"files": {}, "without_features": {}, "features": {}}
    for feature in asked:
        stats["features"][feature.column.name] = {"n_missing": 0, "n_unknown": 0}
    spills: dict[str, Spill] = {}
    try:
        for stem in dict.fromkeys(feature.column.file for feature in asked):
            here = [feature for feature in asked if feature.column.file == stem]
            spills[stem] = Spill(path.parent, f".{stem}", _PLACE)
            _spill_file(files[stem], id_name, ids, here, spills[stem], stats)
            spills[stem].seal()
            stats["without_features"][stem] = len(ids.members)
        _write_blocks(id_name, ids, asked, files, spills, path, stats)
    finally:
        for spill in spills.values():
            spill.remove()
    return stats


def _spill_file(
    paths: Sequence[Path],
    id_name: str,
    ids: IdSet,
    asked: Sequence[AskedFeature],
    spill: Spill,
    stats: dict[str, Any],
) -> None:
    """Spill the features in one file of the log's ids, and count its rows."""
    sources = {feature.column.source for feature in asked}
    categories = {feature.column.source for feature in asked if not feature.is_numerical}
    require_columns(paths[0], shared_header(paths), [id_name, *sorted(sources)])
    for feature in asked:
        if feature.is_numerical and feature.column.is_text:
            raise InputError(_text_as_number(paths[0], feature.column))
    dtypes: dict[str, type[pl.DataType]] = {id_name: pl.Int64}
    dtypes |= {name: pl.String if name in categories else pl.Float64 for name in sorted(sources)}
    read = partial(_read_piece, dtypes=dtypes, id_name=id_name, ids=ids, asked=asked)
    for path in paths:
        stats["files"][path.name] = 0
        for n_rows, frame, n_unknown in in_order(read, pieces(path)):
            stats["files"][path.name] += n_rows
            spill.append(frame)
            for name, n in n_unknown.items():
                stats["features"][name]["n_unknown"] += n


def _read_piece(
    piece: Piece,
    dtypes: Mapping[str, type[pl.DataType]],
    id_name: str,
    ids: IdSet,
    asked: Sequence[AskedFeature],
) -> tuple[int, pl.DataFrame, dict[str, int]]:
    """Rows read; the features of the log's ids, by place; how many of them said "unknown"."""
    raw = parse(piece, dtypes, [id_name])
    for feature in asked:
        column = raw[feature.column.source]
        numbers = _number(column) if feature.is_numerical else None
        # a text where it is asked in both kinds
        if numbers is not None and (
            numbers.null_count() > column.null_count()
            or (numbers.fill_nan(None).abs() > MAX_NUMBER).any()
        ):
            fault = diagnose(piece, [column.name], [id_name])
            raise InputError(fault or f"{piece.path}: column {column.name!r} is not numerical")
    place = pl.Series(_PLACE, ids.numbers(raw[id_name].to_numpy()))
    rows = raw.with_columns(place).filter(pl.col(_PLACE) >= 0)
    typed = {feature: _typed(rows[feature.column.source], feature) for feature in asked}
    frame = pl.DataFrame([rows[_PLACE], *(values for values, _ in typed.values())])
    if not frame[_PLACE].is_sorted():
        frame = frame.sort(_PLACE)
    return raw.height, frame, {feature.column.name: n for feature, (_, n) in typed.items()}


def _write_blocks(
    id_name: str,
    ids: IdSet,
    asked: Sequence[AskedFeature],
    files: Mapping[str, Sequence[Path]],
    spills: Mapping[str, Spill],
    path: Path,
    stats: dict[str, Any],
) -> None:
    """Put the files' features side by side, a block of ids at a time, and count what is missing."""
    schema: dict[str, type[pl.DataType]] = {id_name: pl.Int64}
    schema |= {feature.column.name: feature.dtype for feature in asked}
    arrow = pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    n_written = 0
    with pq.ParquetWriter(path, arrow) as writer:
        for first in range(0, len(ids.members), BLOCK_ROWS):
            block = pl.DataFrame({id_name: ids.members[first : first + BLOCK_ROWS]})
            place = pl.int_range(first, first + block.height, dtype=pl.Int32, eager=True)
            block = block.with_columns(place.alias(_PLACE))
            for stem, spill in spills.items():
                rows = spill.read(first, first + block.height)
                if rows is None:
                    continue
                _refuse_repeated(rows[_PLACE].to_numpy(), id_name, ids, files[stem])
                stats["without_features"][stem] -= rows.height
                block = block.join(rows, on=_PLACE, how="left", maintain_order="left")
            for name in schema.keys() - block.columns:
                block = block.with_columns(pl.lit(None, schema[name]).alias(name))
            for feature in asked:
                name = feature.column.name
                stats["features"][name]["n_missing"] += block[name].null_count()
            block = block.select(list(schema))
            writer.write_table(block.to_arrow(compat_level=pl.CompatLevel.oldest()))
            n_written += block.height
    if n_written != len(ids.members):
        raise RunError(f"{path.name}: {n_written} rows were written for {len(ids.members)} ids")


def _typed(raw: pl.Series, feature: AskedFeature) -> tuple[pl.Series, int]:
    """Return the feature's values, null where missing, and how many said "unknown"."""
    if feature.is_numerical:
        values = _number(raw)
        is_finite = values.is_finite()
        values = values if is_finite.all() else values.set(~is_finite, None)
    else:
        # "1.0" and "1" are one category: an integer column with gaps is written with fractions.
        values = raw.str.strip_chars().str.replace(r"^([+-]?\d+)\.0*$", "${1}")
        values = values.set(values == "", None)
    n_unknown = 0
    if feature.column.side == "user":
        unknown = values == (float(UNKNOWN) if feature.is_numerical else str(UNKNOWN))
        n_unknown = int(unknown.sum())
        values = values.set(unknown, None)
    return values.cast(feature.dtype).alias(feature.column.name), n_unknown


def _number(column: pl.Series) -> pl.Series:
    return column.cast(pl.Float64, strict=False)


def _text_as_number(path: Path, column: Column) -> str:
    said = ""
    for piece in pieces(path):
        words = parse(piece, {column.source: pl.String}).to_series().drop_nulls()
        words = words.filter(_number(words).is_null())
        if len(words):
            said = f", e.g. {words[0]!r}"
            break
    return (
        f"feature.numerical: {column.name!r} is a text column of {path}{said}; "
        "list it under feature.categorical"
    )


def _refuse_repeated(places: np.ndarray, id_name: str, ids: IdSet, paths: Sequence[Path]) -> None:
    """Raise an InputError with the least id that has two rows in a file, and the parts."""
    first = int(places.min())
    repeated = np.flatnonzero(np.bincount(places - first) > 1)
    if not repeated.size:
        return
    twin = ids.members[first + repeated[0]]
    holders = [path.name for path in paths if _holds(path, id_name, twin)]
    raise InputError(
        f"{paths[0].parent}: {id_name} {twin} has more than one row in {', '.join(holders)}; "
        "keep one row an id"
    )


def _holds(path: Path, id_name: str, wanted: int) -> bool:
    read = partial(parse, dtypes={id_name: pl.Int64}, ids=[id_name])
    return any((frame[id_name] == wanted).any() for frame in in_order(read, pieces(path)))
