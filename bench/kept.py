"""Studies that take long: a run folder that is kept is not run again."""

from __future__ import annotations

import sys
from pathlib import Path

import realdataexp as rx


def result_of(config: rx.Config, folder: Path, name: str) -> rx.Result:
    """A study's result: of its folder if that is there, else of a new run; ends at another's."""
    if not (folder / "result.json").exists():
        print(f"{name} ...", file=sys.stderr, flush=True)
        return rx.run(config, out=folder)
    result = rx.Result(folder)
    if result.summary["config"] != config.decisive() or result.summary["status"] != "complete":
        sys.exit(f"{folder}: holds another experiment; move it away")
    return result
