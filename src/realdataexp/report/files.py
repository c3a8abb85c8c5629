"""Reading a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from realdataexp.data.parquet import read_parquet
from realdataexp.errors import InputError
from realdataexp.files import read_json, require_regular

REMEDY = "copy the run folder to another place"
"""What to do where a page or plot cannot be written into a run folder."""

# what a reader may raise on a value that no run writes
_ODD = (
    KeyError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError,
    MemoryError, pl.exceptions.PolarsError, pl.exceptions.PanicException,
)  # fmt: skip


class _Lenient(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")


class _Entry(_Lenient):
    """What a design comes to for a label: numbers, texts, or null where there is none."""

    __pydantic_extra__: dict[str, str | float | bool | None]
    design: str
    label: str


class _Warning(_Lenient):
    code: str
    message: str


class _Label(_Lenient):
    name: str
    target: str


class _Loop(_Lenient):
    batch_size: int = 1
    n_candidate: int = 1


class _Experiment(_Lenient):
    replications: int = 1


class _Config(_Lenient):
    labels: list[_Label] = []
    simulation: _Loop = _Loop()
    experiment: _Experiment = _Experiment()


class _Device(_Lenient):
    name: str


class _Result(_Lenient):
    """Of what type each part of result.json is; what is missing is told by who needs it."""

    schema_version: int
    mode: str = ""
    seed: int = 0
    status: str = ""
    n_steps_done: int = 0
    config: _Config = _Config()
    gte_results: dict[str, float | None] = {}
    estimates: list[_Entry] = []
    comparison: list[_Entry] = []
    inference: list[_Entry] = []
    plan: list[_Entry] = []
    warnings: list[_Warning] = []
    device: _Device | None = None
    timing: dict[str, float | None] = {}
    versions: dict[str, str | None] = {}


def read_result(run_dir: Path) -> dict[str, Any]:
    """result.json of a run folder.

    Raises:
        InputError: there is none, or it is not what a run writes.
    """
    path = run_dir / "result.json"
    try:
        result = read_json(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: not there; give a run folder made by run") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read as JSON ({reason}); run again") from error
    if not isinstance(result, dict) or "schema_version" not in result:
        raise InputError(f"{path}: is not a result of realdataexp; give a run folder made by run")
    try:
        _Result.model_validate(result)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise InputError(
            f"{path}: {where}: not what a run writes ({fault['msg']}); run again"
        ) from error
    return dict(result)


def read_table(run_dir: Path, name: str) -> pl.DataFrame:
    """One of the Parquet tables of a run folder, such as "outcomes".

    Raises:
        InputError: it is missing or damaged.
    """
    path = run_dir / f"{name}.parquet"
    try:
        require_regular(path)
        return read_parquet(path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({reason}); run again") from error


@contextmanager
def odd_files_named(*run_dirs: Path) -> Iterator[None]:
    """Say of files that are sound, but hold what no run writes, that they do.

    Raises:
        InputError: instead of what a reader stumbled over.
    """
    try:
        yield
    except _ODD as error:
        kind = "lacks" if isinstance(error, KeyError) else f"{type(error).__name__}:"
        fault = " ".join(f"{kind} {error}".split())
        raise InputError(
            f"{', '.join(map(str, run_dirs))}: holds what no run writes ({fault[:200]}); run again"
        ) from error


def is_complete(run_dir: Path) -> bool:
    """Whether a run folder holds the result of a run that came to its end."""
    try:
        return bool(read_result(run_dir).get("status") == "complete")
    except InputError:
        return False  # none, or one that resuming the run writes anew
