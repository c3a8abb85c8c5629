"""What shards leave: a chunk of steps as one file, and how the chunks of several are merged.

A chunk is one safetensors file: the steps since the chunk before, what the networks and designs
came to, and, where the run saves, the shard's whole state. A tensor that differs between worlds
has an axis in front that counts them: W worlds, S networks or R replications, each laid out group
by group (of blocks, or of models) with the replications within. So one rule (`join`) merges what
several shards found, and its inverse (`share_of`) hands a state out to any number of them.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from realdataexp.errors import InputError, RunError
from realdataexp.files import disk_faults
from realdataexp.loop import Step
from realdataexp.metrics import MetricValues
from realdataexp.runs.shard import Updates, Validation
from realdataexp.worlds.base import Visits

JOB, STATE = "shard.json", "state.safetensors"
"""Files of a shard: what it has to do, and the state that it begins from."""
_NUMBERED = re.compile(r"chunk_(\d{6})\.safetensors")
_HEADER, _INSIDE = "realdataexp", "inside"
_OF_ONE = re.compile(r"(?:^|\.)replication_(\d+)\.")  # what only one replication has
_RECORDS = {cls.__name__: cls for cls in (Step, Visits, Validation, MetricValues, Updates)}

Tensors = dict[str, Tensor]
Layout = dict[str, list[list[Any]]]
"""Of each packed tensor: name and shape, without the first axis, of what is in it."""


@dataclass(frozen=True)
class Chunk:
    """The steps [first, last) of some replications.

    From the step ``idle_from`` on nobody of them visits, all being padding. ``records`` is what
    ``flat`` says of each step, of the updates and, where there was one, of the validation;
    ``tensors`` are theirs, and those of ``networks`` and ``state``. As they are in a file, they are
    packed, and ``layout`` says what of; see ``pack``.
    """

    replications: tuple[int, ...]
    first: int
    last: int
    idle_from: int | None = None
    records: dict[str, Any] = field(default_factory=dict)
    validation_seconds: float = 0.0
    tensors: Tensors = field(default_factory=dict)
    layout: Layout | None = None

    def part(self, prefix: str) -> Tensors:
        """The tensors whose names start with ``prefix.``, without it."""
        n = len(prefix) + 1
        return {k[n:]: t for k, t in self.tensors.items() if k.startswith(f"{prefix}.")}

    def put(self, name: str, value: Any) -> None:
        """Take in a step, updates or a validation."""
        self.records[name] = flat(value, name, self.tensors)

    def get(self, name: str) -> Any:
        """What was put in."""
        return whole(self.records[name], name, self.tensors)

    def write(self, path: Path) -> None:
        """Write it whole; what a power cut takes is computed again from the run's checkpoint."""
        packed, layout = pack(self.tensors, len(self.replications))
        header = {k: v for k, v in vars(self).items() if k not in ("tensors", "layout", "records")}
        header["has_updates"] = "updates" in self.records
        header["has_state"] = bool(self.part("state"))
        said = {_HEADER: json.dumps(header), _INSIDE: json.dumps([self.records, layout])}
        temporary = path.with_name(f".{path.name}.tmp")
        with disk_faults(path):
            save_file({name: t.numpy() for name, t in packed.items()}, temporary, said)
            temporary.replace(path)

    def unpacked(self) -> Chunk:
        """With its tensors by their names."""
        if self.layout is None:
            return self
        return replace(self, tensors=unpack(self.tensors, self.layout), layout=None)


def read_packed(path: Path) -> Chunk:
    """What ``Chunk.write`` wrote, its tensors packed."""
    with safe_open(path, "pt") as file:
        header = _header(file)
        records, layout = _inside(file.metadata()[_INSIDE])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in ("has_updates", "has_state"):
        del header[name]
    return Chunk(**header, records=records, tensors=tensors, layout=layout)


def read_chunk(path: Path) -> Chunk:
    """What ``Chunk.write`` wrote."""
    return read_packed(path).unpacked()


def _header(file: Any) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(file.metadata()[_HEADER])
    return header | {"replications": tuple(header["replications"])}


@lru_cache(maxsize=4)
def _inside(text: str) -> tuple[dict[str, Any], Layout]:
    """Records and layout, which the chunks of all shards have in common."""
    records, layout = json.loads(text)
    return records, layout


def pack(tensors: Mapping[str, Tensor], n_replications: int) -> tuple[Tensors, Layout]:
    """Tensors side by side in a few: what has one type, and counts replications as often in front.

    So a thousand shards are merged in a few operations. What only one replication has, single
    numbers, and what counts no replications, stay as they are.
    """
    groups: dict[str, list[tuple[str, Tensor]]] = {}
    packed: Tensors = {}
    layout: Layout = {}
    for name, t in tensors.items():
        x = t.detach().cpu()
        if x.dim() == 0 or _OF_ONE.search(name) or len(x) % n_replications:
            packed[name] = x.contiguous().clone()  # whose memory is its own
        else:
            kind = f"{str(x.dtype).removeprefix('torch.')} x {len(x) // n_replications}"
            groups.setdefault(kind, []).append((name, x))
    for kind, of_kind in groups.items():
        columns = [x.reshape(len(x), math.prod(x.shape[1:])) for _, x in of_kind]
        packed[kind] = torch.cat(columns, dim=1)
        layout[kind] = [[name, *x.shape[1:]] for name, x in of_kind]
    return packed, layout


def unpack(packed: Mapping[str, Tensor], layout: Layout) -> Tensors:
    """What ``pack`` packed."""
    tensors = {name: t for name, t in packed.items() if name not in layout}
    for kind, inside in layout.items():
        columns = packed[kind].split([math.prod(shape) for _, *shape in inside], dim=1)
        for (name, *shape), x in zip(inside, columns, strict=True):
            tensors[name] = x.reshape(len(x), *shape).contiguous()
    return tensors


@dataclass(frozen=True)
class Kept:
    """What a chunk's file says without its tensors."""

    number: int
    first: int
    last: int
    has_updates: bool
    has_state: bool


def kept(folder: Path) -> list[Kept]:
    """The chunks that a shard's folder holds, in order; what is damaged is left out."""
    found = []
    for path in sorted(folder.glob("chunk_*")):
        if match := _NUMBERED.fullmatch(path.name):
            with suppress(OSError, ValueError, TypeError, KeyError, SafetensorError):
                with safe_open(path, "pt") as file:
                    said = _header(file)
                ends = said["first"], said["last"]
                found.append(Kept(int(match[1]), *ends, said["has_updates"], said["has_state"]))
    return found


def file_of(folder: Path, number: int) -> Path:
    """A shard's chunk by its number."""
    return folder / f"chunk_{number:06d}.safetensors"


def flat(value: Any, name: str, tensors: Tensors) -> Any:
    """JSON that says how a value is made of tensors, which are added by name; see ``whole``."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return "tensor"
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, str):
        return [value]
    kind, parts = type(value).__name__, value
    if kind in _RECORDS:
        parts = vars(value)
    elif not isinstance(value, dict):
        kind, parts = "list", {str(i): x for i, x in enumerate(value)}
    return {"of": kind, "has": {k: flat(x, f"{name}.{k}", tensors) for k, x in parts.items()}}


def whole(said: Any, name: str, tensors: Mapping[str, Tensor]) -> Any:
    """The value that ``flat`` took apart; a sequence comes back as a list."""
    if said == "tensor":
        return tensors[name]
    if isinstance(said, list):
        return said[0]
    if not isinstance(said, dict):
        return said
    parts = {k: whole(x, f"{name}.{k}", tensors) for k, x in said["has"].items()}
    if said["of"] in _RECORDS:
        return _RECORDS[said["of"]](**parts)
    return parts if said["of"] == "dict" else list(parts.values())


def merge(chunks: Sequence[Chunk], n_replications: int) -> Chunk:
    """The chunks of several shards as that of one which has all replications, in any order.

    A merged chunk is merged with nothing: merging it again changes nothing. Where a chunk is
    shorter, as its shard failed, only the steps that all have are taken.

    Raises:
        InputError: a replication is in two of them, or in none.
    """
    numbers = Counter(r for chunk in chunks for r in chunk.replications)
    twice = sorted(r for r, n in numbers.items() if n > 1)
    missing = sorted({*range(n_replications)} - {*numbers})
    if twice or missing:
        fault, worlds = ("in two shards", twice) if twice else ("in no shard", missing)
        raise InputError(
            f"shards: replication {', '.join(map(str, worlds))} is {fault}; each must be in one: "
            "resume the run"
        )
    last = min(chunk.last for chunk in chunks)
    is_cut = any(chunk.last != last for chunk in chunks)
    if is_cut or any(chunk.layout != chunks[0].layout for chunk in chunks):
        chunks = [chunk.unpacked() for chunk in chunks]
    parts, records = [chunk.tensors for chunk in chunks], chunks[0].records
    if is_cut:
        steps = tuple(f"step.{step}" for step in range(chunks[0].first, last))
        starts = tuple(f"{step}." for step in steps)
        parts = [{k: t for k, t in own.items() if k.startswith(starts)} for own in parts]
        records = {k: records[k] for k in steps if k in records}
    idle = [chunk.idle_from for chunk in chunks]
    return replace(
        chunks[0],
        replications=tuple(range(n_replications)),
        last=last,
        idle_from=None if None in idle else max(x for x in idle if x is not None),
        records=records,
        validation_seconds=sum(chunk.validation_seconds for chunk in chunks) / len(chunks),
        tensors=join(parts, [chunk.replications for chunk in chunks]),
    ).unpacked()


def join(parts: Sequence[Mapping[str, Tensor]], replications: Sequence[Sequence[int]]) -> Tensors:
    """The tensors of several shards, of equal names, as those of one with all replications.

    Each counts worlds, networks or replications in front, or is a number that all shards share.
    What only one replication has is named ``replication_<number>``.
    """
    order = torch.tensor([r for own in replications for r in own]).argsort()
    is_ordered = bool((order == torch.arange(len(order))).all())
    joined = {name: t for part in parts for name, t in part.items() if _OF_ONE.search(name)}
    for name, x in parts[0].items():
        if name in joined:
            continue
        if x.dim() == 0:
            joined[name] = x
            continue
        of_shards = [*zip([part[name] for part in parts], replications, strict=True)]
        if any(x.shape[0] % len(own) for x, own in of_shards):
            raise RunError(
                f"{name}: does not count replications in front, as what a design keeps must where "
                "a run is spread over processes; mend its state(), or set simulation.processes: 1"
            )
        x_GRX = torch.cat([x.unflatten(0, (-1, len(own))) for x, own in of_shards], dim=1)
        joined[name] = (x_GRX if is_ordered else x_GRX[:, order]).flatten(0, 1)
    return joined


def share_of(tensors: Mapping[str, Tensor], own: Sequence[int], n_replications: int) -> Tensors:
    """Some replications' share of a state that has all; see ``join``.

    Raises:
        ValueError: a tensor does not count replications.
    """
    found = {}
    for name, x in tensors.items():
        if of_one := _OF_ONE.search(name):
            if int(of_one[1]) in own:
                found[name] = x
        elif x.dim() == 0:
            found[name] = x
        elif len(x) % n_replications:
            raise ValueError(f"{name} counts {len(x)}, which {n_replications} replications cannot")
        else:
            found[name] = x.unflatten(0, (-1, n_replications))[:, list(own)].flatten(0, 1)
    return found
