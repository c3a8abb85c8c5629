"""Checks of a config against its data that need no import: names, files, columns.

Each fault starts with the config path that causes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from realdataexp.config import Config
from realdataexp.config.draft import apply_override, read_draft
from realdataexp.data import schema
from realdataexp.data.csv_files import read_header
from realdataexp.data.kuairand import Files, find_files
from realdataexp.data.tables import TablesRequest, table_faults
from realdataexp.errors import InputError
from realdataexp.worlds.si2023 import OUTCOMES


def data_faults(config: Config) -> list[str]:
    """What is wrong with the config's columns and files, as far as file headers tell."""
    if config.dataset.si2023 is not None:
        return [
            f"{where} = {target!r}: si2023 has the outcomes {', '.join(OUTCOMES)}"
            for target, where in config.targets.items()
            if target not in OUTCOMES
        ]
    path = config.data_dir()
    if config.dataset.tables is not None:
        if path is None:
            return ["dataset.path = null: no data; give --data DIR with the folder of the tables"]
        return table_faults(TablesRequest.of(config))
    targets, features, faults = _named_columns(config)
    if config.dataset.synthetic is not None:
        return faults
    if path is None:
        return [*faults, "dataset.path = null: no data; give --data DIR with a KuaiRand folder"]
    need_statistic = any(column.file == schema.VIDEO_STATISTIC for _, column in features)
    try:
        files = find_files(path, config.dataset.logs, need_statistic)
    except InputError as error:
        return [*faults, *error.faults]
    headers = {}
    for stem, shards in files.shards.items():
        try:
            headers[stem] = read_header(shards[0])
        except InputError as error:
            faults += error.faults
    logs = [schema.LOG_STEMS[log] for log in config.dataset.logs]
    wanted = [(where, name, logs) for where, name in targets]
    wanted += [(where, column.source, [column.file]) for where, column in features]
    for where, column, stems in wanted:
        faults += _lacking(where, column, [s for s in stems if s in headers], headers, files)
    return faults


def _named_columns(
    config: Config,
) -> tuple[list[tuple[str, str]], list[tuple[str, schema.Column]], list[str]]:
    """The label columns and the features that are known, each with its place; and the faults."""
    targets, features, faults = [], [], []
    for target, place in config.targets.items():
        where = f"{place} = {target!r}"
        if target in schema.LABEL_COLUMNS:
            targets.append((where, target))
        else:
            known = tuple(schema.LABEL_COLUMNS)
            hint = schema.nearest(target, known) or f"; there are {', '.join(known)}"
            faults.append(f"{where}: no such column in the logs{hint}")
    for kind in ("numerical", "categorical"):
        for name in getattr(config.features, kind):
            place = config.place_of_feature(name)
            where = f"{place} = {name!r}"
            try:
                column = schema.resolve_feature(name)
            except InputError as error:
                reason = str(error).replace(f" {name!r}", "", 1)
                hint = "" if ";" in reason else "; use a column of the user or the video files"
                faults.append(f"{where}: {reason}{hint}")
                continue
            if column.is_text and kind == "numerical":
                words = f"{place.partition('.numerical')[0]}.categorical"
                faults.append(f"{where}: holds words, not numbers; list it in {words}")
            features.append((where, column))
    return targets, features, faults


def _lacking(
    where: str, column: str, stems: list[str], headers: dict[str, tuple[str, ...]], files: Files
) -> Iterator[str]:
    """A fault for the first of a file's kinds whose header lacks a column."""
    lacking = [stem for stem in stems if column not in headers[stem]]
    if lacking:
        first = lacking[0]
        names = ", ".join(str(files.shards[stem][0]) for stem in lacking)
        yield (
            f"{where}: {names} has no column {column!r}{schema.nearest(column, headers[first])}; "
            "leave it out of the config or mend the file"
        )


def without_faults(source: str, data: Any, overrides: Sequence[str] = ()) -> Config | None:
    """A config without its faulty settings, so that the rest can be checked; None if none is.

    Args:
        source: A YAML file or the name of a built-in config.
        data: Replaces `dataset.path`.
        overrides: ``key.sub=value`` each; those that cannot be made are left out.
    """
    try:
        draft = read_draft(source)
    except InputError:
        return None
    for text in overrides:
        with suppress(InputError):
            apply_override(draft, text)
    values = draft.values
    if data is not None and isinstance(values.get("dataset"), dict):
        values["dataset"]["path"] = str(data)
    for _ in range(3):  # leaving one setting out can show another fault
        try:
            return Config.model_validate(values)
        except ValidationError as error:
            for item in error.errors():
                if not _leave_out(values, item["loc"]):
                    return None
    return None


def _leave_out(values: Any, loc: tuple[Any, ...]) -> bool:
    """Take a setting out, or the block it is in; whether that is possible."""
    path = []
    for part in loc:
        is_there = part in values if isinstance(values, dict) else False
        if isinstance(values, list) and isinstance(part, int):
            is_there = part < len(values)
        if not is_there:
            break
        path.append((values, part))
        values = values[part]
    for parent, part in reversed(path):
        if isinstance(parent, dict):
            del parent[part]
            return True
    return False
