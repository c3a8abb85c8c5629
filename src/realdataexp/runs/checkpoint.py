"""Checkpoints: safetensors and JSON only, so that loading one can run no code.

    checkpoints/
        index.json       the latest, the best by each metric, and all that are kept, oldest first
        step_50/         state.safetensors, state.json, digests.json (SHA-256 of the two)
        rows/            the tables' rows since the checkpoint before, written once

A checkpoint is written beside its place, synced and renamed, and only then named in the index: what
the index names was whole when it was written. Digests tell what was damaged since.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from realdataexp.errors import InputError, Warnings
from realdataexp.runs.folder import disk_faults, write_json, write_tensors

_TENSORS, _STATE, _DIGESTS = "state.safetensors", "state.json", "digests.json"


class DamagedError(Exception):
    """A checkpoint is not what was written; the message is one line."""


@dataclass(frozen=True)
class Checkpoint:
    """What was loaded.

    Attributes:
        name: of its folder.
        tensors: everything that changes while running, by name, on the CPU.
        state: the rest.
    """

    name: str
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with ``prefix.``, without it."""
        n = len(prefix) + 1
        return {k[n:]: t for k, t in self.tensors.items() if k.startswith(f"{prefix}.")}


@dataclass
class Checkpoints:
    """The checkpoints of one run folder.

    Attributes:
        folder: the run folder.
        keep_last: how many of the latest are kept; the best are kept besides.
        primary_metric: named in the index.
        kept: names of the checkpoints that are kept, oldest first.
        best: metric -> {"checkpoint", "value"} of the best so far.
    """

    folder: Path
    keep_last: int
    primary_metric: str
    kept: list[str] = field(default_factory=list)
    best: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The folder ``checkpoints``."""
        return self.folder / "checkpoints"

    def improvements(
        self, values: Mapping[str, float], is_higher_better: Mapping[str, bool]
    ) -> dict[str, float]:
        """The metrics whose value is better than any before; NaN is none."""
        better = {}
        for name, value in values.items():
            best = self.best[name]["value"] if name in self.best else None
            sign = 1.0 if is_higher_better[name] else -1.0
            if math.isfinite(value) and (best is None or sign * value > sign * best):
                better[name] = value
        return better

    def save(
        self,
        name: str,
        tensors: Mapping[str, Tensor],
        state: Mapping[str, Any],
        best: Mapping[str, float] | None = None,
    ) -> None:
        """Write a checkpoint whole, name it in the index, and prune those no longer kept.

        Args:
            name: of its folder.
            tensors: everything that changes while running, by name.
            state: the rest, as JSON.
            best: metrics, with their values, by which it is the best so far.
        """
        for metric, value in (best or {}).items():
            self.best[metric] = {"checkpoint": name, "value": value}
        final, temporary = self.root / name, self.root / f".{name}.{os.getpid()}.tmp"
        with disk_faults(final):
            try:
                temporary.mkdir(parents=True)
                write_tensors(temporary / _TENSORS, tensors)
                write_json(temporary / _STATE, {**state, "best": self.best})
                digests = {x: file_digest(temporary / x) for x in (_TENSORS, _STATE)}
                write_json(temporary / _DIGESTS, digests)
                shutil.rmtree(
                    final, ignore_errors=True
                )  # of a run that was killed before naming it
                temporary.rename(final)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        self.kept = [x for x in self.kept if x != name] + [name]
        bests = {entry["checkpoint"] for entry in self.best.values()}
        last = self.kept[-self.keep_last :]
        self.kept = [x for x in self.kept if x in last or x in bests]
        index = {"latest": name, "primary_metric": self.primary_metric}
        write_json(self.root / "index.json", {**index, "best": self.best, "kept": self.kept})
        for path in self.root.iterdir():
            if path.is_dir() and path.name not in (*self.kept, "rows"):
                shutil.rmtree(path, ignore_errors=True)

    def newest(self, warnings: Warnings) -> Checkpoint | None:
        """The latest checkpoint that is intact; None where none was made yet.

        Raises:
            InputError: there are checkpoints, but none that can be used: a line for each.
        """
        faults: list[str] = []
        for name in reversed(self._names(faults)):
            try:
                found = self._load(name)
            except DamagedError as error:
                faults.append(str(error))
                continue
            for fault in faults:
                warnings.add("damaged_checkpoint", f"{fault}; {name} is used")
            return found
        if faults:
            raise InputError("\n".join(f"{fault}; run the config again" for fault in faults))
        return None

    def _names(self, faults: list[str]) -> list[str]:
        """Names of the checkpoints, oldest first; of what lies there if the index is damaged."""
        path = self.root / "index.json"
        try:
            names = json.loads(path.read_text(encoding="utf-8"))["kept"]
            if all(isinstance(x, str) and Path(x).name == x for x in names):
                return list(names)
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        faults.append(f"{path}: damaged")
        there = [x for x in self.root.glob("*_*") if (x / _DIGESTS).is_file()]
        order = {"pretrain": 0, "step": 1}
        parts = {x.name: x.name.partition("_") for x in there}
        names = [n for n, (kind, _, i) in parts.items() if kind in order and i.isdecimal()]
        return sorted(names, key=lambda n: (order[parts[n][0]], int(parts[n][2])))

    def _load(self, name: str) -> Checkpoint:
        folder = self.root / name
        try:
            digests = read_json(folder / _DIGESTS)
            for file in (_TENSORS, _STATE):
                if not isinstance(digests, dict) or digests.get(file) != file_digest(folder / file):
                    raise DamagedError(f"{folder / file}: is not what was written")
            state = read_json(folder / _STATE)
            for file in state["rows"]:
                path = self.root / "rows" / Path(file["name"]).name
                if file_digest(path) != file["sha256"]:
                    raise DamagedError(f"{path}: is not what was written")
            tensors = load_file(folder / _TENSORS)
        except FileNotFoundError as error:
            raise DamagedError(f"{error.filename}: missing") from error
        except (KeyError, TypeError) as error:
            raise DamagedError(f"{folder / _STATE}: is not the state of a run") from error
        except (OSError, SafetensorError) as error:
            text = " ".join(str(error).split())
            raise DamagedError(f"{folder / _TENSORS}: cannot be read: {text}") from error
        return Checkpoint(name, tensors, state)


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """A JSON file's value.

    Raises:
        DamagedError: it is not JSON.
        OSError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: not JSON") from error


def has_checkpoint(folder: Path) -> bool:
    """Whether a run folder holds a whole checkpoint."""
    return (folder / "checkpoints" / "index.json").is_file()
