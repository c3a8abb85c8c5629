"""The files of a KuaiRand folder, found by their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from realdataexp.data import schema
from realdataexp.errors import InputError

_FILE_NAME = re.compile(
    rf"(?P<stem>{'|'.join(schema.STEMS)})(?:_part(?P<before>\d+))?"
    rf"_(?P<version>{'|'.join(schema.VERSIONS)})(?:_part(?P<after>\d+))?\.csv"
)


@dataclass(frozen=True)
class Files:
    """The files of one KuaiRand version: the shards, in order, of each file stem."""

    version: str
    shards: dict[str, tuple[Path, ...]]


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
