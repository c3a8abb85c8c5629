"""Checkpoints: safetensors and JSON only, so that loading one can run no code.

    checkpoints/
        index.json       the latest, all that are kept, oldest first, and the best networks
        step_50/         state.safetensors, state.json, digests.json (SHA-256 of the two)
        best/            the networks alone that are best by some metric
        rows/            the tables' rows since the checkpoint before, written once

A checkpoint is written beside its place, synced and renamed, and only then named in the index: what
the index names was whole when it was written. Digests tell what was damaged since.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import polars as pl
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from realdataexp.errors import InputError, Warnings, is_out_of_memory
from realdataexp.files import disk_faults, read_json, require_regular, sync_names, write_json
from realdataexp.metrics import Metric, is_higher_better
from realdataexp.runs.folder import write_tensors

_TENSORS, _STATE, _DIGESTS = "state.safetensors", "state.json", "digests.json"
PRETRAIN: Final = "pretrain"  # the phases
LOOP: Final = "loop"
_BEST = "best"
_KINDS = (PRETRAIN, "step")  # pretrain_<iteration> come before step_<n>
# what loading a state that does not fit may raise
_UNFIT = (
    KeyError, ValueError, TypeError, AttributeError, IndexError, OverflowError, RuntimeError,
    pl.exceptions.PolarsError, SafetensorError,
)  # fmt: skip


class DamagedError(Exception):
    """A checkpoint is not what was written; the message is one line."""


class ForeignError(Exception):
    """A checkpoint is intact, but no state of this run; the message is one line."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything that changes while running: tensors by name, on the CPU, and the rest."""

    name: str
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with ``prefix.``, without it."""
        n = len(prefix) + 1
        return {k[n:]: t for k, t in self.tensors.items() if k.startswith(f"{prefix}.")}


@contextmanager
def of_this_run(checkpoint: Checkpoint) -> Iterator[None]:
    """Say of a state that lacks something, or has another shape, that it is foreign."""
    try:
        yield
    except _UNFIT as error:
        if is_out_of_memory(error):
            raise
        text = " ".join(str(error).split())
        if isinstance(error, ValidationError):
            (first, *_) = error.errors()
            text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise ForeignError(f"{checkpoint.name}: not a state of this run: {text}") from error


@dataclass
class Checkpoints:
    """The checkpoints of one run folder.

    Attributes:
        keep_last: how many of the latest are kept.
        metrics: those of one's own, by name.
        kept: names of the checkpoints that are kept, oldest first.
        best: of the ``loop`` (of all worlds, at one step), and of each ``start_<k>``: metric ->
            {"networks", "value"} of the best so far, with the file in ``checkpoints``.
    """

    folder: Path
    keep_last: int
    primary_metric: str
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    best: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        """The folder ``checkpoints``."""
        return self.folder / "checkpoints"

    def keep_best(
        self, scope: str, values: Mapping[str, float], name: str, make: Callable[[], Any]
    ) -> bool:
        """Write networks, made only then, that are the best yet by some metric; whether they are.

        ``values`` are what they reached by label.metric; NaN is no value. The next ``save``, or
        ``write_index_and_prune``, names the file and removes those that are best by none any more.
        """
        before, place = self.best.get(scope, {}), f"{_BEST}/{name}.safetensors"
        better = {}
        for metric, value in values.items():
            sign = 1.0 if is_higher_better(metric.partition(".")[2], self.metrics) else -1.0
            is_first = metric not in before
            if math.isfinite(value) and (is_first or sign * value > sign * before[metric]["value"]):
                better[metric] = {"networks": place, "value": value}
        if better:
            with disk_faults(self.root):
                self.root.mkdir(exist_ok=True)  # but not the run folder, should that be gone
                (self.root / _BEST).mkdir(exist_ok=True)
            make().write(self.root / place)
            self.best = self.best | {scope: before | better}
        return bool(better)

    def save(self, name: str, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint whole, name it in the index, and prune those no longer kept."""
        final, temporary = self.root / name, self.root / f".{name}.{os.getpid()}.tmp"
        with disk_faults(final):
            try:
                self.root.mkdir(exist_ok=True)  # but not the run folder, should that be gone
                temporary.mkdir()
                write_tensors(temporary / _TENSORS, tensors)
                write_json(temporary / _STATE, {**state, "best": self.best})
                digests = {x: file_digest(temporary / x) for x in (_TENSORS, _STATE)}
                write_json(temporary / _DIGESTS, digests)
                sync_names(temporary)
                # of a run that was killed before naming it, or damaged
                shutil.rmtree(final, ignore_errors=True)
                temporary.rename(final)
                sync_names(self.root)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        self.kept = [*[x for x in self.kept if x != name], name][-self.keep_last :]
        self.write_index_and_prune()

    def write_index_and_prune(self) -> None:
        """Write the index of what is kept, and remove the rest."""
        starts = [self.best[scope] for scope in self.best if scope != LOOP]
        index = {
            "latest": self.kept[-1],
            "kept": self.kept,
            "primary_metric": self.primary_metric,
            "best": self.best.get(LOOP, {}),
            "best_starts": starts,
        }
        write_json(self.root / "index.json", index)
        for path in self.root.iterdir():
            if path.is_dir() and path.name not in (*self.kept, "rows", _BEST):
                shutil.rmtree(path, ignore_errors=True)
        named = {entry["networks"] for of in self.best.values() for entry in of.values()}
        for path in (self.root / _BEST).glob("*"):
            if f"{_BEST}/{path.name}" not in named:
                path.unlink(missing_ok=True)

    def newest(self, warnings: Warnings) -> Checkpoint | None:
        """The latest checkpoint that is intact; None where none was made yet.

        Raises:
            InputError: there are checkpoints, but none is intact: a line for each.
            ForeignError: it is intact, but not what a run writes.
        """
        faults: list[str] = []
        names = self._names(faults)
        while names:
            name = names[-1]
            try:
                found = self._load(name)
            except DamagedError as error:
                faults.append(str(error))
                names.pop()
                continue
            for fault in faults:
                warnings.add("damaged_checkpoint", f"{fault}; {name} is used")
            self.kept = [x for x in names if (self.root / x).is_dir()]
            return found
        if faults:
            raise InputError(*(f"{fault}; run the config again" for fault in faults))
        return None

    def _names(self, faults: list[str]) -> list[str]:
        """Names of the checkpoints that the index names, and of those that lie there, in order."""
        path, names = self.root / "index.json", []
        try:
            names = read_json(path)["kept"]
            if not (isinstance(names, list) and names and all(map(_place, names))):
                raise ValueError("names no checkpoints")
        except FileNotFoundError:
            pass  # killed before the first index, if there is a checkpoint
        except (OSError, KeyError, TypeError, ValueError):
            faults.append(f"{path}: damaged")
            names = []
        # the index may lack the newest, by a kill, or name one that is gone
        return sorted({*names, *_whole(self.root)}, key=lambda name: _place(name) or ())

    def _load(self, name: str) -> Checkpoint:
        folder = self.root / name
        try:
            try:
                digests = read_json(folder / _DIGESTS)
            except ValueError as error:
                raise DamagedError(f"{folder / _DIGESTS}: {error}") from error
            for file in (_TENSORS, _STATE):
                _check_digest(folder / file, isinstance(digests, dict) and digests.get(file))
            try:
                state = read_json(folder / _STATE)
                rows = [(str(x["name"]), x["sha256"]) for x in state["rows"]]
            except (ValueError, KeyError, TypeError) as error:
                raise ForeignError(f"{name}: {_STATE} is no state of a run") from error
            for file, digest in rows:
                _check_digest(self.root / "rows" / Path(file).name, digest)
            return Checkpoint(name, load_file(folder / _TENSORS), state)
        except FileNotFoundError as error:
            raise DamagedError(f"{error.filename}: missing") from error
        except OSError as error:
            raise DamagedError(f"{error.filename or folder}: cannot be read") from error
        except SafetensorError as error:
            text = " ".join(str(error).split())
            raise ForeignError(f"{name}: {_TENSORS} is no safetensors file: {text}") from error


def _place(name: Any) -> tuple[int, int] | None:
    """By what checkpoints are in order, oldest first; None for what is no checkpoint's name."""
    kind, _, number = name.partition("_") if isinstance(name, str) else ("", "", "")
    is_name = kind in _KINDS and number.isascii() and number.isdecimal()
    return (_KINDS.index(kind), int(number)) if is_name else None


def _whole(root: Path) -> list[str]:
    """Names of the checkpoints that lie whole in a folder."""
    return [path.parent.name for path in root.glob(f"*/{_DIGESTS}") if _place(path.parent.name)]


def _check_digest(path: Path, digest: Any) -> None:
    if file_digest(path) != digest:
        raise DamagedError(f"{path}: is not what was written")


def file_digest(path: Path) -> str:
    """SHA-256 of a regular file."""
    require_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_checkpoint(folder: Path) -> bool:
    """Whether a run folder holds a whole checkpoint."""
    return bool(_whole(folder / "checkpoints"))
