"""Are the files of a KuaiRand folder whole? What tells before an import, and what after it."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from realdataexp.data import schema
from realdataexp.data.cache import file_key
from realdataexp.data.csv_files import last_line, read_header
from realdataexp.data.disk import require_space
from realdataexp.errors import InputError

MARKER = "SYNTHETIC"
"""File of a synthetic folder: JSON, rows of each file stem."""

_ROW_BYTES = 50  # of the log while it is sorted: all its columns, and what of them is null
_SAMPLE_BYTES = 1 << 20
_FEATURE_BYTES = {True: 4, False: 16}  # of a number, and about those of a category


def check_shards(shards: Mapping[str, Sequence[Path]], version: str) -> list[str]:
    """Look for missing, repeated and cut parts, without reading the files.

    Args:
        shards: paths per file stem, in order.
        version: theirs.

    Returns:
        Files that end without a line break but with a last row of all columns.

    Raises:
        InputError: fewer parts than the version has, a part that is there twice, or a last row
            that is cut.
    """
    unended = []
    for stem, paths in shards.items():
        n_known = schema.KNOWN_PARTS.get(version, {}).get(stem, 1)
        if schema.PART in paths[0].name and len(paths) < n_known:
            raise InputError(
                f"{paths[0].parent}: {stem} has {n_known} parts in KuaiRand-{version.upper()}, "
                f"here are only {', '.join(path.name for path in paths)}; fetch the others"
            )
        _refuse_repeated(paths)
        unended += [path.name for path in paths if _is_unended(path)]
    return unended


def _refuse_repeated(paths: Sequence[Path]) -> None:
    """Parts with the same size and the same ends are one part under two names."""
    seen: dict[tuple[int, str], Path] = {}
    for path in paths:
        key = file_key(path)
        twin = seen.setdefault((key["size"], key["ends"]), path)
        if twin is not path and _has_rows(path):
            raise InputError(
                f"{path}: is the same file as {twin.name} (equal size, start and end); fetch "
                "both parts again"
            )


def _has_rows(path: Path) -> bool:
    with path.open("rb") as file:
        file.readline()
        return bool(file.read(1))


def _is_unended(path: Path) -> bool:
    """Whether no line break ends the file; raises an InputError if its last row is cut."""
    line = last_line(path)
    if not line or not _has_rows(path):
        return False
    n_fields, n_columns = len(next(csv.reader([line]))), len(read_header(path))
    if n_fields < n_columns or line.count('"') % 2:
        raise InputError(
            f"{path}: is cut in its last row, {line[:60]!r}: {n_fields} of {n_columns} fields; "
            "fetch the file again"
        )
    return True


def require_import_space(
    folder: Path,
    n_rows: int,
    n_videos: int,
    n_targets: int,
    video_features: Sequence[bool],
) -> None:
    """Raise an InputError where an import would fill the disk.

    Args:
        folder: where it writes.
        n_rows: rows of the log.
        n_videos: rows of one video feature table.
        n_targets: how many labels are asked.
        video_features: of each asked video feature, whether it is numerical.
    """
    log = n_rows * (4 + 4 * n_targets)
    features = min(n_rows, n_videos) * (8 + sum(_FEATURE_BYTES[kind] for kind in video_features))
    require_space(folder, int(1.1 * (log + max(n_rows * _ROW_BYTES, 2 * features))))


def rows_about(paths: Sequence[Path]) -> int:
    """How many rows files hold, judged by the length of the first ones."""
    n_rows = 0.0
    for path in paths:
        with path.open("rb") as file:
            sample = file.read(_SAMPLE_BYTES)
        n_rows += path.stat().st_size * sample.count(b"\n") / max(1, len(sample))
    return int(n_rows)


def expected_rows(folder: Path) -> dict[str, int] | None:
    """What a synthetic folder says of its files' rows, per stem; None for other folders.

    Raises:
        InputError: the marker cannot be read.
    """
    for place in (folder, folder.parent):
        marker = place / MARKER
        if marker.is_file():
            try:
                return {str(k): int(v) for k, v in json.loads(marker.read_text()).items()}
            except (ValueError, AttributeError, TypeError) as error:
                raise InputError(f"{marker}: cannot be read ({error}); remove it") from error
    return None


def total_faults(
    version: str, logs: Sequence[str], stats: Mapping[str, Any], made: Mapping[str, int] | None
) -> list[str]:
    """Compare the rows that were read, before duplicates were dropped, with known totals.

    Args:
        version: of the files.
        logs: the logs that were read.
        stats: those of the import.
        made: for synthetic data, the rows of each file stem.

    Returns:
        What differs, as "1,436,609 standard rows, found 12".
    """
    found: dict[str, int] = {}
    for name, n in stats["files"].items():
        stem = next(stem for stem in schema.STEMS if name.startswith(stem))
        found[stem] = found.get(stem, 0) + n
    pairs = _known_pairs(version, logs, stats, found) if made is None else [
        (f"rows in {stem}", made[stem], n) for stem, n in found.items() if stem in made
    ]  # fmt: skip
    return [f"{known:,} {what}, found {n:,}" for what, known, n in pairs if known != n]


def _known_pairs(
    version: str, logs: Sequence[str], stats: Mapping[str, Any], found: Mapping[str, int]
) -> list[tuple[str, int, int]]:
    """What is counted, how many are known, how many there are; for what was read in full."""
    known = schema.KNOWN_TOTALS[version]
    pairs = []
    kinds = {"standard": ("standard_early", "standard_late"), "random": ("random",)}
    for kind, parts in kinds.items():
        if set(parts) <= set(logs):
            n_rows = sum(found[schema.LOG_STEMS[part]] for part in parts)
            pairs.append((f"{kind} rows", known[f"{kind}_rows"], n_rows))
            if set(parts) == set(logs):
                pairs.append((f"{kind} videos", known[f"{kind}_videos"], stats["n_videos"]))
    if schema.USER_FEATURES in found:
        pairs.append(("users in the user file", known["users"], found[schema.USER_FEATURES]))
    if set(logs) == set(schema.LOGS):
        pairs.append(("users in the log", known["users"], stats["n_users"]))
    return pairs
