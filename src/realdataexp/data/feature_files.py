"""The asked columns of the user and video feature files, for the ids that occur in the log."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from realdataexp.data.csv_files import diagnose, read_csv, require_columns, shared_header
from realdataexp.data.schema import UNKNOWN, Column
from realdataexp.errors import InputError


@dataclass(frozen=True)
class AskedFeature:
    """A feature of the request: where it lives, and whether it is read as a number."""

    column: Column
    is_numerical: bool


def join_features(
    ids: pl.Series, asked: Sequence[AskedFeature], files: Mapping[str, Sequence[Path]]
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Look up the asked features of users or videos.

    Args:
        ids: the ids that occur in the log, ascending; its name is the id column's.
        asked: features of this side, in the order their columns shall have.
        files: paths of the shards per file stem.

    Returns:
        One row per id: the id, then one column per feature, named as asked; Float32 or String,
        null where missing. And the stats: `files` (rows per file name), `without_features`
        (ids without a row, per file stem), `features` (n_missing and n_unknown per feature).

    Raises:
        InputError: see `read_csv`; and a repeated id, or a text column asked as numerical.
    """
    table = pl.DataFrame({ids.name: ids.cast(pl.Int64)})
    stats: dict[str, Any] = {"files": {}, "without_features": {}, "features": {}}
    for stem in dict.fromkeys(feature.column.file for feature in asked):
        here = [feature for feature in asked if feature.column.file == stem]
        raw = _read_file(files[stem], ids.name, here, stats["files"])
        raw = table.select(ids.name).join(
            raw.with_columns(pl.lit(True).alias("_found")),
            on=ids.name,
            how="left",
            maintain_order="left",
        )
        stats["without_features"][stem] = raw["_found"].null_count()
        for feature in here:
            values, n_unknown = _typed(raw[feature.column.source], feature)
            stats["features"][feature.column.name] = {
                "n_missing": values.null_count(),
                "n_unknown": n_unknown,
            }
            table = table.with_columns(values)
    return table.select(ids.name, *(feature.column.name for feature in asked)), stats


def _read_file(
    paths: Sequence[Path], id_name: str, asked: Sequence[AskedFeature], rows: dict[str, int]
) -> pl.DataFrame:
    """Read the asked columns of all shards; numbers as Float64, categories as String."""
    sources = {feature.column.source for feature in asked}
    categories = {feature.column.source for feature in asked if not feature.is_numerical}
    numbers = [feature for feature in asked if feature.is_numerical]
    require_columns(paths[0], shared_header(paths), [id_name, *sorted(sources)])
    for feature in numbers:
        if feature.column.is_text:
            raise InputError(_text_as_number(paths[0], feature.column))
    dtypes: dict[str, type[pl.DataType]] = {id_name: pl.Int64}
    dtypes |= {name: pl.String if name in categories else pl.Float64 for name in sorted(sources)}
    parts = []
    for path in paths:
        part = read_csv(path, dtypes, [id_name])
        for feature in numbers:  # asked in both kinds, so read as text and checked here
            column = part[feature.column.source]
            if column.dtype == pl.String and _number(column).null_count() > column.null_count():
                fault = diagnose(path, [column.name], [id_name])
                raise InputError(fault or f"{path}: column {column.name!r} is not numerical")
        rows[path.name] = part.height
        parts.append(part)
    frame = pl.concat(parts, how="vertical_relaxed")
    if frame[id_name].n_unique() < frame.height:
        raise InputError(_repeated_id(paths, parts, frame[id_name]))
    return frame


def _typed(raw: pl.Series, feature: AskedFeature) -> tuple[pl.Series, int]:
    """Return the feature's values, null where missing, and how many said "unknown"."""
    name = feature.column.name
    if feature.is_numerical:
        values = _number(raw)
        values = values.set(~values.is_finite(), None)
        unknown = values == float(UNKNOWN)
    else:
        # "1.0" and "1" are one category: an integer column with gaps is written with fractions.
        values = raw.str.strip_chars().str.replace(r"^([+-]?\d+)\.0*$", "${1}")
        values = values.set(values == "", None)
        unknown = values == str(UNKNOWN)
    if feature.column.side == "user":
        n_unknown = int(unknown.sum())
        values = values.set(unknown, None)
    else:
        n_unknown = 0
    dtype = pl.Float32 if feature.is_numerical else pl.String
    return values.cast(dtype).alias(name), n_unknown


def _number(column: pl.Series) -> pl.Series:
    return column.cast(pl.Float64, strict=False)


def _text_as_number(path: Path, column: Column) -> str:
    words = pl.scan_csv(path, infer_schema=False).select(column.source).drop_nulls()
    only_words = words.filter(pl.col(column.source).cast(pl.Float64, strict=False).is_null())
    example = only_words.head(1).collect()
    said = f", e.g. {example.item()!r}" if example.height else ""
    return (
        f"feature.numerical: {column.name!r} is a text column of {path}{said}; "
        "list it under feature.categorical"
    )


def _repeated_id(paths: Sequence[Path], parts: Sequence[pl.DataFrame], ids: pl.Series) -> str:
    first = ids.filter(ids.is_duplicated())[0]
    holders = [
        path.name
        for path, part in zip(paths, parts, strict=True)
        if (part[ids.name] == first).any()
    ]
    return (
        f"{paths[0].parent}: {ids.name} {first} has more than one row in {', '.join(holders)}; "
        "keep one row an id"
    )
