"""Reading a run folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from realdataexp.data.parquet import read_parquet
from realdataexp.errors import InputError


def read_result(run_dir: Path) -> dict[str, Any]:
    """result.json of a run folder.

    Raises:
        InputError: there is none, or it is not what a run writes.
    """
    path = run_dir / "result.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: not there; give a run folder made by run") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error}); run again") from error
    if not isinstance(result, dict) or "schema_version" not in result:
        raise InputError(f"{path}: is not a result of realdataexp; give a run folder made by run")
    return result


def read_table(run_dir: Path, name: str) -> pl.DataFrame:
    """One of the Parquet tables of a run folder, such as "outcomes".

    Raises:
        InputError: it is missing or damaged.
    """
    path = run_dir / f"{name}.parquet"
    try:
        return read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read ({reason}); run again") from error


def is_complete(run_dir: Path) -> bool:
    """Whether a run folder holds the result of a run that came to its end."""
    return (run_dir / "result.json").exists() and read_result(run_dir).get("status") == "complete"


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Let ``write`` fill a temporary sibling and rename it to ``path``; returns ``path``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
