"""Checkpoints: tensors as safetensors, the rest as JSON; an index names the latest."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from realdataexp.runs.folder import disk_faults, sync, write_json


def has_checkpoint(folder: Path) -> bool:
    """Whether a run folder holds a whole checkpoint."""
    return (folder / "checkpoints" / "index.json").is_file()


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]
) -> None:
    """Write ``checkpoints/step_<n>/`` whole, then name it in ``checkpoints/index.json``.

    Args:
        folder: the run folder.
        step: steps done.
        tensors: everything that changes while running, by name.
        state: the rest, as JSON.
    """
    root = folder / "checkpoints"
    final, temporary = root / f"step_{step}", root / f".step_{step}.{os.getpid()}.tmp"
    with disk_faults(final):
        try:
            temporary.mkdir(parents=True)
            path = temporary / "state.safetensors"
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
            path.chmod(temporary.stat().st_mode & 0o666)  # safetensors writes for the owner alone
            sync(path)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            write_json(temporary / "state.json", {**state, "step": step, "sha256": digest})
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    write_json(root / "index.json", {"latest": final.name})
