"""KuaiRand's tables, imported once, through the cache: from a folder of CSV files, or made."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

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
    read_header,
    require_columns,
    shared_header,
)
from realdataexp.data.ingest import (
    LATE,
    PLACE,
    FeatureSource,
    IdSet,
    doubts,
    sorted_by,
    write_features,
    write_log,
)
from realdataexp.data.log import DataSet
from realdataexp.data.schema import Column
from realdataexp.errors import InputError, Warnings
from realdataexp.files import require_space

DTYPES: dict[str, type[pl.DataType]] = {
    **dict.fromkeys((*schema.LOG_FLAGS, "tab"), pl.Int8),
    **dict.fromkeys(("user_id", "video_id", "date", "play_time_ms", "duration_ms"), pl.Int32),
    **dict.fromkeys(("profile_stay_time", "comment_stay_time"), pl.Int32),
    "hourmin": pl.Int16,
    "time_ms": pl.Int64,
}
MARKER = "SYNTHETIC"
"""File of a synthetic folder: JSON, rows of each file stem."""

# The early period is 0: it sorts first, and of a row found in two logs its copy is kept.
_CODES = {"standard_early": 0, "standard_late": 1, "random": 2}
_FILE_NAME = re.compile(
    rf"(?P<stem>{'|'.join(schema.STEMS)})(?:_part(?P<before>\d+))?"
    rf"_(?P<version>{'|'.join(schema.VERSIONS)})(?:_part(?P<after>\d+))?\.csv"
)
_TEXTS = {
    "duplicate_rows": "{duplicate_rows:,} of {n_rows_read:,} log rows repeat another row exactly "
    "({duplicate_rows_across_logs:,} of them a row of another log) and were dropped"
}
_ROW_BYTES = 50  # of the log while it is sorted: all its columns, and what of them is null
_SAMPLE_BYTES = 1 << 20
_FEATURE_BYTES = {True: 4, False: 16}  # of a number, and about those of a category
_T = TypeVar("_T")
Then = Callable[[pl.DataFrame, Piece | None], _T]
"""Called with a block of rows, and the piece of a file that it was read from."""


@dataclass(frozen=True)
class ImportRequest:
    """What to read from where.

    Attributes:
        path: KuaiRand folder; holds `data/*.csv` or the `*.csv` directly.
        logs: which of `schema.LOGS`.
        numerical, categorical: features, named as in the config (`schema.resolve_feature`).
        targets: log columns to read as labels, of `schema.LABEL_COLUMNS`.
        times: whether the rows' times are kept too.
    """

    path: Path
    logs: tuple[str, ...]
    numerical: tuple[str, ...]
    categorical: tuple[str, ...]
    targets: tuple[str, ...]
    times: bool = False

    @property
    def log_stems(self) -> list[str]:
        """The stems of the logs' files."""
        return [schema.LOG_STEMS[log] for log in self.logs]

    def stems(self) -> set[str]:
        """The stems of all files that are to be read."""
        return {*self.log_stems, *(feature.file for feature in self.features())}

    def features(self, side: str = "") -> list[Column]:
        """Those of the users or the videos, or all, numerical first; InputError where unknown."""
        numbers = [replace(schema.resolve_feature(x), is_numerical=True) for x in self.numerical]
        asked = [*numbers, *map(schema.resolve_feature, self.categorical)]
        return [feature for feature in asked if side in ("", feature.side)]


# ---- where the tables come from -----------------------------------------------------------------


class Files:
    """KuaiRand's tables: the CSV files of one version, in order, of each file stem."""

    def __init__(self, version: str, shards: Mapping[str, Sequence[Path]]) -> None:
        self.version, self.shards = version, shards

    def made(self) -> Mapping[str, int] | None:
        """What a synthetic folder says of its files' rows; None for other folders."""
        folder = self.shards[schema.USER_FEATURES][0].parent
        for marker in (folder / MARKER, folder.parent / MARKER):
            if marker.is_file():
                try:
                    return {str(k): int(v) for k, v in json.loads(marker.read_text()).items()}
                except (ValueError, AttributeError, TypeError) as error:
                    raise InputError(f"{marker}: cannot be read ({error}); remove it") from error
        return None

    def sources(self, stems: Collection[str]) -> list[dict[str, Any]]:
        """What the content of some tables is a function of."""
        paths = [path for stem, shards in self.shards.items() if stem in stems for path in shards]
        try:
            return [cache.source_key(path) for path in paths]
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error

    def n_rows_about(self, stem: str) -> int:
        """How many rows there are, judged by the length of the first ones."""
        n_rows = 0.0
        for path in self.shards[stem]:
            with path.open("rb") as file:
                sample = file.read(_SAMPLE_BYTES)
            n_rows += path.stat().st_size * sample.count(b"\n") / max(1, len(sample))
        return int(n_rows)

    def read_log(
        self, logs: Mapping[str, int], targets: Sequence[str]
    ) -> Iterator[tuple[str, pl.DataFrame]]:
        """Blocks of some logs with their file's name, each sorted by user.

        They have all official columns that the files have: all tell whether two rows are the same.
        ``logs`` has the value of `LATE` in each log's rows; the targets' columns must be there.
        """
        for log, code in logs.items():
            stem = schema.LOG_STEMS[log]
            header = shared_header(self.shards[stem])
            require_columns(self.shards[stem][0], header, [*schema.LOG_IDS, *targets])
            dtypes = {name: DTYPES[name] for name in schema.LOG_COLUMNS if name in header}
            late = pl.lit(code, pl.Int8).alias(LATE)

            def then(frame: pl.DataFrame, _: Piece | None, late: pl.Expr = late) -> pl.DataFrame:
                return sorted_by(frame.with_columns(late), "user_id")

            yield from self.read(stem, dtypes, schema.LOG_IDS, then)

    def read(
        self, stem: str, dtypes: DTypes, ids: Collection[str], then: Then[_T]
    ) -> Iterator[tuple[str, _T]]:
        """What a function makes of each block of these columns, with its file's name.

        Two threads read pieces of the files and call it.
        """
        paths = self.shards[stem]
        require_columns(paths[0], shared_header(paths), dtypes)

        def read_piece(piece: Piece) -> _T:
            return then(parse(piece, dtypes, ids), piece)

        for path in paths:
            for made in in_order(read_piece, pieces(path)):
                yield path.name, made

    def check(self, stems: Collection[str]) -> list[str]:
        """Look for missing, repeated and cut parts, without reading the files.

        Returns:
            Files whose last row may be cut.
        """
        unended = []
        for stem in sorted(stems):
            paths = self.shards[stem]
            n_known = schema.KNOWN_PARTS.get(self.version, {}).get(stem, 1)
            if schema.PART in paths[0].name and len(paths) < n_known:
                raise InputError(
                    f"{paths[0].parent}: {stem} has {n_known} parts in KuaiRand-"
                    f"{self.version.upper()}, here are only "
                    f"{', '.join(path.name for path in paths)}; fetch the others"
                )
            keys: dict[tuple[int, str], Path] = {}
            for path in paths:
                key = cache.file_key(path)
                twin = keys.setdefault((key["size"], key["ends"]), path)
                with path.open("rb") as file:
                    has_rows = len(file.readline()) < key["size"]
                if twin is not path and has_rows:
                    raise InputError(
                        f"{path}: is the same file as {twin.name} (equal size, start and end); "
                        "fetch both parts again"
                    )
                unended += [path.name] if _is_unended(path) else []
        return unended


def _is_unended(path: Path) -> bool:
    """Whether no line break ends the file; raises an InputError if its last row is cut."""
    with path.open("rb") as file:
        header = file.readline()
        file.seek(max(len(header), path.stat().st_size - (1 << 16)))
        line = file.read().rpartition(b"\n")[2].decode(errors="replace")
    if not line:
        return False
    n_fields, n_columns = len(next(csv.reader([line]))), len(read_header(path))
    if n_fields < n_columns or line.count('"') % 2:
        raise InputError(
            f"{path}: is cut in its last row, {line[:60]!r}: {n_fields} of {n_columns} fields; "
            "fetch the file again"
        )
    return True


def find_files(path: Path, logs: Sequence[str], need_statistic: bool) -> Files:
    """Find the version and the files of a KuaiRand folder by their names.

    A file is whole (`<stem>_27k.csv`) or in parts (`<stem>_27k_part1.csv`, ...; the part may also
    stand before the version), in the folder or in its folder `data`.

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
    versions = sorted({version for _, version, _ in found.values()})
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
    shards: dict[str, list[Path]] = {}
    for stem in wanted:  # the whole file, as its only shard, or the parts 1 to n in order
        parts = {file: number for file, (of, _, number) in found.items() if of == stem}
        shards[stem] = sorted(parts, key=lambda file: (parts[file], file))
        if sorted(parts.values()) not in ([], [0], list(range(1, len(parts) + 1))):
            names = ", ".join(file.name for file in shards[stem])
            raise InputError(
                f"{folder}: {stem} is neither one file nor parts 1 to n, but {names}; fetch the "
                "missing parts or remove what is double"
            )
    missing = [f"{stem}_{versions[0]}.csv" for stem in wanted if not shards[stem]]
    if missing:
        raise InputError(
            f"{folder}: missing {', '.join(missing)}; there is: {there}; fetch the archive again "
            "or leave out of the config what needs these files"
        )
    return Files(versions[0], shards)


def _recognised(folder: Path) -> dict[Path, tuple[str, str, int]]:
    """Stem, version and part (0: the whole) of each file that is KuaiRand's by its name."""
    found = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _FILE_NAME.fullmatch(path.name)
        if match and path.is_file():
            part = int(match["before"] or match["after"] or 0)
            found[path] = match["stem"], match["version"], part
    return found


# ---- the import ---------------------------------------------------------------------------------


def prepare(
    request: ImportRequest,
    cache_path: Path,
    warnings: Warnings,
    force: bool = False,
    files: Files | None = None,
) -> DataSet:
    """Open the data set of a request, from the cache or by importing its folder, or other files.

    Exact duplicates of log rows are dropped: rows equal in all 19 columns (those that the files
    have), whatever columns the request needs, also when they come from different logs. Fewer
    columns would not do: in KuaiRand-Pure 418 rows are told apart by `date` and `hourmin` alone.
    Views of one video at different times all stay. Targets outside the valid range, and empty
    ones, are missing (NaN), as is -124 in the user file (null).

    `stats` holds `version`, `files` (rows per file), `n_rows_read`, `n_rows`, `n_users`,
    `n_videos`, `n_early_rows`, `duplicate_rows`, `duplicate_rows_across_logs`, `targets`
    (per target mean, n_missing, n_empty, n_out_of_range), `features` (per feature n_missing,
    n_unknown), `without_features` (ids of the log without a row, per feature file), `official`
    (the version's published totals). What is doubtful in the data is warned of; a warm start
    reports it again. With ``force`` they are imported again even if the cache has them.

    Raises:
        InputError: something is wrong with the request, the files or the cache folder.
    """
    stems = request.stems()
    files = files or find_files(request.path, request.logs, schema.VIDEO_STATISTIC in stems)
    asked = {x: getattr(request, x) for x in ("logs", "numerical", "categorical", "targets")}
    if request.times:
        asked["times"] = True
    fill, sources = partial(_import, request, files), files.sources(stems)
    return cache.open_or_import(cache_path, asked, request.path, sources, fill, warnings, force)


def _import(request: ImportRequest, source: Files, directory: Path) -> dict[str, Any]:
    """Write a data set's tables into a directory; return the cache's meta data."""
    unended = source.check(request.stems())
    made = source.made()
    _require_space(directory.parent, request, source)
    names = [path.name for stem in request.log_stems for path in source.shards[stem]]
    targets = {name: (name, *schema.LABEL_COLUMNS[name]) for name in request.targets}
    blocks = source.read_log({log: _CODES[log] for log in request.logs}, request.targets)
    own = blocks, names, targets, schema.LOG_COLUMNS, directory, request.times
    users, videos, log = write_log(*own)
    if not log["n_rows_read"]:
        raise InputError(f"{', '.join(names)}: no rows below the header; fetch the files again")
    stats = {"version": source.version, **log, "without_features": {}, "features": {}}
    for side, ids in (("user", users), ("video", videos)):
        asked = request.features(side)
        tables = {
            stem: _feature_source(f"{side}_id", ids, [x for x in asked if x.file == stem], source)
            for stem in dict.fromkeys(feature.file for feature in asked)
        }
        order = [feature.name for feature in asked]
        known = pl.Series(f"{side}_id", ids.members, pl.Int64)
        counts = write_features(known, tables, order, directory / f"{side}s.parquet")
        for key, values in counts.items():
            stats[key] |= values
    faults = _total_faults(source.version, request.logs, stats, made)
    stats["official"] = schema.KNOWN_TOTALS[source.version]
    return {
        "version": source.version,
        "targets": list(request.targets),
        "stats": stats,
        "warnings": _doubts(stats, unended, faults),
    }


def _require_space(folder: Path, request: ImportRequest, source: Files) -> None:
    """Raise an InputError where an import would fill the disk."""
    n_rows = sum(map(source.n_rows_about, request.log_stems))
    log = n_rows * (4 + 4 * len(request.targets) + 8 * request.times)
    features = 8 + sum(_FEATURE_BYTES[x.is_numerical] for x in request.features("video"))
    features *= min(n_rows, source.n_rows_about(schema.VIDEO_BASIC))
    require_space(folder, int(1.1 * (log + max(n_rows * _ROW_BYTES, 2 * features))))


def _feature_source(
    id_name: str, ids: IdSet, asked: Sequence[Column], source: Files
) -> FeatureSource:
    """The asked features of one file stem, for the ids of the log."""
    stem = asked[0].file
    files = source.shards[stem]
    dtypes: dict[str, type[pl.DataType]] = {id_name: pl.Int64}
    categories = {feature.source for feature in asked if not feature.is_numerical}
    for name in sorted({feature.source for feature in asked}):
        dtypes[name] = pl.String if name in categories else pl.Float64
    then = partial(_typed_block, id_name=id_name, ids=ids, asked=asked)

    types = {x.name: pl.Float32 if x.is_numerical else pl.String for x in asked}
    blocks = source.read(stem, dtypes, [id_name], then)
    return FeatureSource([path.name for path in files], types, blocks, files[0].parent)


def _typed_block(
    raw: pl.DataFrame,
    piece: Piece | None,
    id_name: str,
    ids: IdSet,
    asked: Sequence[Column],
) -> tuple[int, pl.DataFrame, dict[str, int]]:
    """Rows read; the features of the log's ids, by place; how many of them said "unknown"."""
    for feature in asked:
        column = raw[feature.source]
        if not feature.is_numerical:
            continue
        numbers = column.cast(pl.Float64, strict=False)
        is_text = numbers.null_count() > column.null_count()  # it is asked in both kinds
        if is_text or (numbers.fill_nan(None).abs() > MAX_NUMBER).any():
            fault = piece and diagnose(piece, [column.name], [id_name])
            raise InputError(fault or f"column {column.name!r} is not numerical")
    place = pl.Series(PLACE, ids.numbers(raw[id_name].to_numpy()))
    rows = raw.with_columns(place).filter(pl.col(PLACE) >= 0)
    values = {x.name: _value_and_unknown(x) for x in asked}
    frame = rows.select(PLACE, **{name: value for name, (value, _) in values.items()})
    n_unknown = rows.select(**{name: is_unknown.sum() for name, (_, is_unknown) in values.items()})
    return raw.height, sorted_by(frame, PLACE), n_unknown.row(0, named=True)


def _value_and_unknown(feature: Column) -> tuple[pl.Expr, pl.Expr]:
    """The feature's value, null where it is missing, and whether it says "unknown"."""
    raw, unknown = pl.col(feature.source), schema.UNKNOWN
    if feature.is_numerical:
        number = raw.cast(pl.Float64, strict=False)
        value, is_unknown = pl.when(number.is_finite()).then(number), number == float(unknown)
    else:
        # "1.0" and "1" are one category: an integer column with gaps is written with fractions.
        text = raw.str.strip_chars().str.replace(r"^([+-]?\d+)\.0*$", "${1}")
        value, is_unknown = pl.when(text != "").then(text), text == str(unknown)
    if feature.side == "video":
        is_unknown = pl.lit(False)
    dtype = pl.Float32 if feature.is_numerical else pl.String
    return pl.when(~is_unknown).then(value).cast(dtype), is_unknown


# ---- what is said of an import ------------------------------------------------------------------


def _total_faults(
    version: str, logs: Sequence[str], stats: Mapping[str, Any], made: Mapping[str, int] | None
) -> list[str]:
    """Which totals, before duplicates were dropped, differ from those known of what was read.

    For synthetic data these are the rows that were made of each file stem.
    """
    found: Counter[str] = Counter()
    for name, n in stats["files"].items():
        found[next(stem for stem in schema.STEMS if name.startswith(stem))] += n
    pairs = [] if made is None else [
        (f"rows in {stem}", made[stem], n) for stem, n in found.items() if stem in made
    ]  # fmt: skip
    known = schema.KNOWN_TOTALS[version] if made is None else {}
    kinds = {"standard": {"standard_early", "standard_late"}, "random": {"random"}}
    for kind, parts in kinds.items() if known else ():
        if parts <= set(logs):
            n_rows = sum(found[schema.LOG_STEMS[part]] for part in parts)
            pairs.append((f"{kind} rows", known[f"{kind}_rows"], n_rows))
        if parts == set(logs):
            pairs.append((f"{kind} videos", known[f"{kind}_videos"], stats["n_videos"]))
    if known and schema.USER_FEATURES in found:
        pairs.append(("users in the user file", known["users"], found[schema.USER_FEATURES]))
    if known and set(logs) == set(schema.LOGS):
        pairs.append(("users in the log", known["users"], stats["n_users"]))
    return [f"{known:,} {what}, found {n:,}" for what, known, n in pairs if known != n]


def _doubts(
    stats: dict[str, Any], unended: Sequence[str], faults: Sequence[str]
) -> list[dict[str, str]]:
    """Warnings: of files that may be cut, of totals that differ from the known ones, of counts."""
    own = [
        ("unended_file", f"{name}: does not end with a line break; its last row may be cut")
        for name in unended
    ]
    if faults:
        said = (
            f"known totals of KuaiRand-{stats['version'].upper()}: {'; '.join(faults)}; a file "
            "may be incomplete: realdataexp download checks the archive"
        )
        own.append(("other_totals", said))
    for name, target in stats["targets"].items():
        if n := target["n_out_of_range"]:
            low, high = schema.LABEL_COLUMNS[name]
            said = f"{name}: {n:,} values are outside {low:g} to {high:g} and count as missing"
            own.append(("out_of_range_values", said))
    tables = stats["without_features"]
    sides = {x: "users" if x == schema.USER_FEATURES else "videos" for x in tables}
    counted = doubts(stats, _TEXTS, sides, "n_empty")
    return [*({"code": code, "message": message} for code, message in own), *counted]
