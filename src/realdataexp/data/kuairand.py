"""Import of KuaiRand's tables, once, through the cache: from a folder of CSV files, or made."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import polars as pl

from realdataexp.data import cache, schema
from realdataexp.data.csv_files import (
    MAX_NUMBER,
    DTypes,
    Piece,
    diagnose,
    in_order,
    parse,
    pieces,
    require_columns,
    shared_header,
)
from realdataexp.data.ingest import (
    LATE,
    PLACE,
    FeatureBlock,
    FeatureSource,
    IdSet,
    LogLayout,
    sorted_by,
    write_features,
    write_log,
)
from realdataexp.data.integrity import (
    check_shards,
    expected_rows,
    require_import_space,
    rows_about,
    total_faults,
)
from realdataexp.data.log import DataSet
from realdataexp.errors import InputError, Warnings

DTYPES: dict[str, type[pl.DataType]] = {
    **dict.fromkeys((*schema.LOG_FLAGS, "tab"), pl.Int8),
    **dict.fromkeys(("user_id", "video_id", "date", "play_time_ms", "duration_ms"), pl.Int32),
    **dict.fromkeys(("profile_stay_time", "comment_stay_time"), pl.Int32),
    "hourmin": pl.Int16,
    "time_ms": pl.Int64,
}

# The early period is 0: it sorts first, and of a row found in two logs its copy is kept.
_CODES = {"standard_early": 0, "standard_late": 1, "random": 2}
_FILE_NAME = re.compile(
    rf"(?P<stem>{'|'.join(schema.STEMS)})(?:_part(?P<before>\d+))?"
    rf"_(?P<version>{'|'.join(schema.VERSIONS)})(?:_part(?P<after>\d+))?\.csv"
)
_T = TypeVar("_T")
Then = Callable[[pl.DataFrame, Piece | None], _T]
"""Called with a block of rows, and the piece of a file that it was read from."""


@dataclass(frozen=True)
class ImportRequest:
    """What to read from where.

    Attributes:
        path: KuaiRand folder; holds `data/*.csv` or the `*.csv` directly.
        logs: which of `schema.LOGS`.
        numerical: features to read as numbers, named as in the config (`schema.resolve_feature`).
        categorical: features to read as categories.
        targets: log columns to read as labels, of `schema.LABEL_COLUMNS`.
    """

    path: Path
    logs: tuple[str, ...]
    numerical: tuple[str, ...]
    categorical: tuple[str, ...]
    targets: tuple[str, ...]


@dataclass(frozen=True)
class AskedFeature:
    """A feature of the request: where it lives, and whether it is read as a number."""

    column: schema.Column
    is_numerical: bool

    @property
    def dtype(self) -> type[pl.DataType]:
        """Type of its values."""
        return pl.Float32 if self.is_numerical else pl.String


# ---- where the tables come from -----------------------------------------------------------------


class Source(Protocol):
    """KuaiRand's tables by their file stems."""

    @property
    def version(self) -> str:
        """Theirs."""

    @property
    def made(self) -> Mapping[str, int] | None:
        """For synthetic data, the rows of each file stem."""

    def files(self, stem: str) -> Sequence[Path]:
        """Paths of the files of a stem, in order; of their names where none is on disk."""

    def header(self, stem: str, needed: Collection[str]) -> Sequence[str]:
        """The columns; raises an InputError where a needed one is absent."""

    def n_rows_about(self, stem: str) -> int:
        """How many rows there are, roughly."""

    def check(self, stems: Collection[str]) -> list[str]:
        """Look at the files before they are read; returns those that may be cut."""

    def read_log(
        self, logs: Mapping[str, int], targets: Sequence[str]
    ) -> Iterator[tuple[str, pl.DataFrame]]:
        """Blocks of some logs with their file's name, each sorted by user.

        Args:
            logs: the value of `LATE` in each log's rows.
            targets: columns that must be there.
        """

    def read(
        self,
        stem: str,
        dtypes: DTypes,
        ids: Collection[str],
        then: Then[_T],
    ) -> Iterator[tuple[str, _T]]:
        """What a function makes of each block of these columns, with its file's name.

        Raises:
            InputError: see `parse`.
        """


@dataclass(frozen=True)
class Files:
    """The files of one KuaiRand version: the shards, in order, of each file stem."""

    version: str
    shards: dict[str, tuple[Path, ...]]

    @property
    def made(self) -> Mapping[str, int] | None:
        """What a synthetic folder says of its files' rows, per stem; None for other folders."""
        return expected_rows(self.shards[schema.USER_FEATURES][0].parent)

    def files(self, stem: str) -> Sequence[Path]:
        """Paths of the files of a stem."""
        return self.shards[stem]

    def header(self, stem: str, needed: Collection[str]) -> Sequence[str]:
        """The one header of all shards of a stem."""
        header = shared_header(self.shards[stem])
        require_columns(self.shards[stem][0], header, needed)
        return header

    def n_rows_about(self, stem: str) -> int:
        """How many rows there are, judged by the length of the first ones."""
        return rows_about(self.shards[stem])

    def check(self, stems: Collection[str]) -> list[str]:
        """See `check_shards`."""
        return check_shards({stem: self.shards[stem] for stem in sorted(stems)}, self.version)

    def read_log(
        self, logs: Mapping[str, int], targets: Sequence[str]
    ) -> Iterator[tuple[str, pl.DataFrame]]:
        """All official columns that the files have: all tell whether two rows are the same."""
        for log, code in logs.items():
            header = self.header(schema.LOG_STEMS[log], [*schema.LOG_IDS, *targets])
            dtypes = {name: DTYPES[name] for name in schema.LOG_COLUMNS if name in header}
            late = pl.lit(code, pl.Int8).alias(LATE)

            def then(frame: pl.DataFrame, _: Piece | None, late: pl.Expr = late) -> pl.DataFrame:
                return sorted_by(frame.with_columns(late), "user_id")

            yield from self.read(schema.LOG_STEMS[log], dtypes, schema.LOG_IDS, then)

    def read(
        self,
        stem: str,
        dtypes: DTypes,
        ids: Collection[str],
        then: Then[_T],
    ) -> Iterator[tuple[str, _T]]:
        """What a function makes of each piece of the files; two threads read and call it."""

        def read_piece(piece: Piece) -> _T:
            return then(parse(piece, dtypes, ids), piece)

        for path in self.shards[stem]:
            for made in in_order(read_piece, pieces(path)):
                yield path.name, made


def find_files(path: Path, logs: Sequence[str], need_statistic: bool) -> Files:
    """Find the version and the files of a KuaiRand folder by their names.

    A file is whole (`<stem>_27k.csv`) or in parts (`<stem>_27k_part1.csv`, ...; the part may also
    stand before the version).

    Args:
        path: folder that holds `data/*.csv` or the `*.csv` directly.
        logs: which of `schema.LOGS` are wanted.
        need_statistic: whether the video statistics are wanted.

    Raises:
        InputError: no such folder, several versions in it, or missing files (all of them named).
    """
    if not path.is_dir():
        raise InputError(
            f"{path}: no such folder; set dataset.path (or --data) to an unpacked KuaiRand "
            "folder, or fetch one: realdataexp download pure DIR"
        )
    folder = path / "data" if _recognised(path / "data") else path
    found = _recognised(folder)
    versions = sorted({match["version"] for match in found.values()})
    there = ", ".join(sorted(p.name for p in folder.iterdir())[:20]) or "nothing"
    if not versions:
        raise InputError(
            f"{path}: no KuaiRand files such as {schema.USER_FEATURES}_pure.csv here or in its "
            f"folder data; there is: {there}"
        )
    if len(versions) > 1:
        raise InputError(f"{folder}: files of several versions ({', '.join(versions)}); keep one")
    wanted = [schema.LOG_STEMS[log] for log in logs] + [schema.USER_FEATURES, schema.VIDEO_BASIC]
    wanted += [schema.VIDEO_STATISTIC] if need_statistic else []
    shards = {stem: _shards(folder, found, stem) for stem in wanted}
    missing = [f"{stem}_{versions[0]}.csv" for stem in wanted if not shards[stem]]
    if missing:
        raise InputError(
            f"{folder}: missing {', '.join(missing)}; there is: {there}; fetch the archive again "
            "or leave out of the config what needs these files"
        )
    return Files(versions[0], shards)


def _recognised(folder: Path) -> dict[Path, re.Match[str]]:
    if not folder.is_dir():
        return {}
    matches = {path: _FILE_NAME.fullmatch(path.name) for path in sorted(folder.iterdir())}
    return {path: match for path, match in matches.items() if match and path.is_file()}


def _shards(folder: Path, found: dict[Path, re.Match[str]], stem: str) -> tuple[Path, ...]:
    """Return the whole file (as its only shard) or the parts 1..n in order."""
    numbered = sorted(
        (int(match["before"] or match["after"] or 0), path)
        for path, match in found.items()
        if match["stem"] == stem
    )
    numbers = [number for number, _ in numbered]
    if numbers not in ([], [0], list(range(1, len(numbers) + 1))):
        names = ", ".join(path.name for _, path in numbered)
        raise InputError(
            f"{folder}: {stem} is neither one file nor parts 1 to n, but {names}; fetch the "
            "missing parts or remove what is double"
        )
    return tuple(path for _, path in numbered)


# ---- the import ---------------------------------------------------------------------------------


def prepare(
    request: ImportRequest, cache_path: Path, warnings: Warnings, force: bool = False
) -> DataSet:
    """Open the data set of a request, from the cache or by importing the CSV files into it.

    Exact duplicates of log rows are dropped: rows equal in all 19 columns (those that the files
    have), whatever columns the request needs, also when they come from different logs. Fewer
    columns would not do: in KuaiRand-Pure 418 rows are told apart by `date` and `hourmin` alone.
    Views of one video at different times all stay. Targets outside the valid range, and empty
    ones, are missing (NaN), as is -124 in the user file (null).

    `stats` holds `version`, `files` (rows per file), `n_rows_read`, `n_rows`, `n_users`,
    `n_videos`, `n_early_rows`, `duplicate_rows`, `duplicate_rows_across_logs`, `targets`
    (per target mean, n_missing, n_empty, n_out_of_range), `features` (per feature n_missing,
    n_unknown), `without_features` (ids of the log without a row, per feature file), `official`
    (the version's published totals).

    Args:
        request: what to read.
        cache_path: folder of the cache.
        warnings: takes what is doubtful in the data; a warm start reports it again.
        force: import again even if the cache has it.

    Raises:
        InputError: something is wrong with the request, the files or the cache folder.
    """
    asked = _check(request)
    stems = {feature.column.file for feature in asked}
    files = find_files(request.path, request.logs, schema.VIDEO_STATISTIC in stems)
    stems |= {schema.LOG_STEMS[log] for log in request.logs}
    try:
        sources = [
            cache.source_key(path)
            for stem, paths in files.shards.items()
            if stem in stems
            for path in paths
        ]
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
    return open_source(request, files, sources, cache_path, warnings, force)


def open_source(
    request: ImportRequest,
    source: Source,
    sources: Sequence[Any],
    cache_path: Path,
    warnings: Warnings,
    force: bool = False,
) -> DataSet:
    """Open the data set of a request from the cache, or by importing what a source has.

    Args:
        request: what to read; its path is for the log.
        source: where it comes from.
        sources: JSON-able; what the source's content is a function of.
        cache_path: folder of the cache.
        warnings: takes what is doubtful in the data.
        force: import again even if the cache has it.
    """
    asked = _check(request)
    names = {
        "logs": request.logs,
        "numerical": request.numerical,
        "categorical": request.categorical,
        "targets": request.targets,
    }
    entry = cache_path / cache.fingerprint(names, sources)
    about = {"request": {"path": str(request.path), **names}, "sources": sources}
    fill = partial(_import, request, asked, source, about)
    return cache.open_or_import(entry, request.path, fill, warnings, force)


def _check(request: ImportRequest) -> list[AskedFeature]:
    """Resolve the asked names, numerical first; raise one InputError with every fault."""
    faults, asked = [], []
    known = {"dataset.logs": schema.LOGS, "target": tuple(schema.LABEL_COLUMNS)}
    for what, names in (("dataset.logs", request.logs), ("target", request.targets)):
        for name in names:
            if name not in known[what]:
                hint = schema.nearest(name, known[what]) or f"; known: {', '.join(known[what])}"
                faults.append(f"{what}: unknown {name!r}{hint}")
    if not request.logs:
        faults.append(f"dataset.logs: empty; choose of {', '.join(schema.LOGS)}")
    for names, is_numerical in ((request.numerical, True), (request.categorical, False)):
        for name in names:
            try:
                asked.append(AskedFeature(schema.resolve_feature(name), is_numerical))
            except InputError as error:
                faults.append(f"feature: {error}")
    given = Counter((*request.numerical, *request.categorical))
    for what, counts in (
        ("feature", given),
        ("dataset.logs", Counter(request.logs)),
        ("target", Counter(request.targets)),
    ):
        faults += [f"{what}: {name!r} is listed {n} times" for name, n in counts.items() if n > 1]
    if faults:
        raise InputError(*faults)
    return asked


def _import(
    request: ImportRequest,
    asked: Sequence[AskedFeature],
    source: Source,
    about: dict[str, Any],
    directory: Path,
) -> dict[str, Any]:
    """Write a data set's tables into a directory; return the cache's meta data."""
    stems = {*(schema.LOG_STEMS[log] for log in request.logs), *(x.column.file for x in asked)}
    unended, made = source.check(stems), source.made
    require_import_space(
        directory.parent,
        sum(source.n_rows_about(schema.LOG_STEMS[log]) for log in request.logs),
        source.n_rows_about(schema.VIDEO_BASIC),
        len(request.targets),
        [feature.is_numerical for feature in asked if feature.column.side == "video"],
    )
    users, videos, stats = _import_log(request, source, directory)
    stats = {"version": source.version, **stats, "without_features": {}, "features": {}}
    for side, ids in (("user", users), ("video", videos)):
        features = [feature for feature in asked if feature.column.side == side]
        tables = {
            stem: _feature_source(
                f"{side}_id", ids, [x for x in features if x.column.file == stem], source
            )
            for stem in dict.fromkeys(feature.column.file for feature in features)
        }
        counts = write_features(
            pl.Series(f"{side}_id", ids.members, pl.Int64),
            tables,
            [feature.column.name for feature in features],
            directory / f"{side}s.parquet",
        )
        for key, values in counts.items():
            stats[key] |= values
    faults = total_faults(source.version, request.logs, stats, made)
    stats["official"] = schema.KNOWN_TOTALS[source.version]
    return {
        **about,
        "version": source.version,
        "targets": list(request.targets),
        "stats": stats,
        "warnings": _doubts(stats, unended, faults),
    }


def _import_log(
    request: ImportRequest, source: Source, directory: Path
) -> tuple[IdSet, IdSet, dict[str, Any]]:
    """Write every chosen log."""
    names = [path.name for log in request.logs for path in source.files(schema.LOG_STEMS[log])]
    targets = {name: (name, *schema.LABEL_COLUMNS[name]) for name in request.targets}
    layout = LogLayout("user_id", "video_id", "time_ms", targets, schema.LOG_COLUMNS)

    logs = {log: _CODES[log] for log in request.logs}
    blocks = source.read_log(logs, request.targets)
    users, videos, stats = write_log(blocks, names, layout, directory)
    if not stats["n_rows_read"]:
        raise InputError(f"{', '.join(names)}: no rows below the header; fetch the files again")
    return users, videos, stats


def _feature_source(
    id_name: str, ids: IdSet, asked: Sequence[AskedFeature], source: Source
) -> FeatureSource:
    """The asked features of one file stem, for the ids of the log."""
    stem = asked[0].column.file
    files = source.files(stem)
    sources = {feature.column.source for feature in asked}
    categories = {feature.column.source for feature in asked if not feature.is_numerical}
    source.header(stem, [id_name, *sorted(sources)])
    for feature in asked:
        if feature.is_numerical and feature.column.is_text:
            raise InputError(_text_as_number(source, feature.column))
    dtypes: dict[str, type[pl.DataType]] = {id_name: pl.Int64}
    dtypes |= {name: pl.String if name in categories else pl.Float64 for name in sorted(sources)}
    then = partial(_typed_block, id_name=id_name, ids=ids, asked=asked)

    def blocks() -> Iterator[FeatureBlock]:
        for name, (n_rows, frame, n_unknown) in source.read(stem, dtypes, [id_name], then):
            yield FeatureBlock(name, n_rows, frame, n_unknown)

    def repeated(number: int) -> InputError:
        twin = ids.members[number]
        found = source.read(
            stem, {id_name: pl.Int64}, [id_name], lambda frame, _: (frame[id_name] == twin).any()
        )
        holders = dict.fromkeys(name for name, is_in in found if is_in)
        return InputError(
            f"{files[0].parent}: {id_name} {twin} has more than one row in {', '.join(holders)}; "
            "keep one row an id"
        )

    types = {feature.column.name: feature.dtype for feature in asked}
    return FeatureSource([path.name for path in files], types, blocks(), repeated)


def _typed_block(
    raw: pl.DataFrame,
    piece: Piece | None,
    id_name: str,
    ids: IdSet,
    asked: Sequence[AskedFeature],
) -> tuple[int, pl.DataFrame, dict[str, int]]:
    """Rows read; the features of the log's ids, by place; how many of them said "unknown"."""
    for feature in asked:
        column = raw[feature.column.source]
        numbers = _number(column) if feature.is_numerical else None
        # a text where it is asked in both kinds
        if numbers is not None and (
            numbers.null_count() > column.null_count()
            or (numbers.fill_nan(None).abs() > MAX_NUMBER).any()
        ):
            fault = piece and diagnose(piece, [column.name], [id_name])
            raise InputError(fault or f"column {column.name!r} is not numerical")
    place = pl.Series(PLACE, ids.numbers(raw[id_name].to_numpy()))
    rows = raw.with_columns(place).filter(pl.col(PLACE) >= 0)
    typed = {feature: _typed(rows[feature.column.source], feature) for feature in asked}
    frame = pl.DataFrame([rows[PLACE], *(values for values, _ in typed.values())])
    n_unknown = {feature.column.name: n for feature, (_, n) in typed.items()}
    return raw.height, sorted_by(frame, PLACE), n_unknown


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
        unknown = values == (float(schema.UNKNOWN) if feature.is_numerical else str(schema.UNKNOWN))
        n_unknown = int(unknown.sum())
        values = values.set(unknown, None)
    return values.cast(feature.dtype).alias(feature.column.name), n_unknown


def _number(column: pl.Series) -> pl.Series:
    return column.cast(pl.Float64, strict=False)


def _text_as_number(source: Source, column: schema.Column) -> str:
    def words(frame: pl.DataFrame, _: Piece | None) -> pl.Series:
        texts = frame.to_series().drop_nulls()
        return texts.filter(_number(texts).is_null())

    found = source.read(column.file, {column.source: pl.String}, (), words)
    said = next((f", e.g. {texts[0]!r}" for _, texts in found if len(texts)), "")
    return (
        f"feature.numerical: {column.name!r} is a text column of "
        f"{source.files(column.file)[0]}{said}; list it under feature.categorical"
    )


def _doubts(
    stats: dict[str, Any], unended: Sequence[str], faults: Sequence[str]
) -> list[dict[str, str]]:
    """Warnings of an import, as code and message.

    Args:
        stats: those of `prepare`.
        unended: files that end without a line break.
        faults: totals that differ from the known ones.
    """
    doubts = []

    def doubt(code: str, message: str) -> None:
        doubts.append({"code": code, "message": message})

    for name in unended:
        doubt("unended_file", f"{name}: does not end with a line break; its last row may be cut")
    if faults:
        doubt(
            "other_totals",
            f"known totals of KuaiRand-{stats['version'].upper()}: {'; '.join(faults)}; a file "
            "may be incomplete: realdataexp download checks the archive",
        )
    if stats["duplicate_rows"]:
        doubt(
            "duplicate_rows",
            f"{stats['duplicate_rows']:,} of {stats['n_rows_read']:,} log rows repeat another row "
            f"exactly ({stats['duplicate_rows_across_logs']:,} of them a row of another log) and "
            "were dropped",
        )
    for name, target in stats["targets"].items():
        low, high = schema.LABEL_COLUMNS[name]
        if target["n_out_of_range"]:
            doubt(
                "out_of_range_values",
                f"{name}: {target['n_out_of_range']:,} values are outside {low:g} to {high:g} "
                "and count as missing",
            )
        if target["n_empty"]:
            doubt("empty_values", f"{name}: {target['n_empty']:,} rows have no value")
    for stem, n in stats["without_features"].items():
        who = "users" if stem == schema.USER_FEATURES else "videos"
        if n:
            doubt(
                f"{who}_without_features",
                f"{n:,} of {stats[f'n_{who}']:,} {who} in the log have no row in {stem}; "
                "their features are missing",
            )
    return doubts
