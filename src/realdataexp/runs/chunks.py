"""What a shard leaves in its folder, chunk by chunk, and how those of several are put together.

A chunk is one safetensors file: the steps since the chunk before, what the networks and designs
came to, and, where the run saves, the shard's whole state. A tensor that differs between worlds
has an axis in front that counts them: W worlds, S networks or R replications, each laid out group
by group (of blocks, or of models) with the replications within. So one rule (`join`) merges what
several shards found, and its inverse (`share_of`) hands a state out to any number of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from realdataexp.errors import InputError, RunError
from realdataexp.files import disk_faults
from realdataexp.loop import Step
from realdataexp.metrics import Figures
from realdataexp.runs.shard import Look, Updates
from realdataexp.worlds.base import Visits

Tensors = dict[str, Tensor]

_HEADER = "realdataexp"
_VISITS = tuple(f.name for f in fields(Visits) if f.name != "step")
_OPTIONAL = ("score_share_WAL", "propensity_WB")
_STEP = tuple(f.name for f in fields(Step) if f.name not in ("visits", "unit_XRB", *_OPTIONAL))
_OF_ONE = re.compile(r"(?:^|\.)replication_(\d+)\.")  # what only one replication has


@dataclass(frozen=True)
class Chunk:
    """Some steps of some replications.

    Attributes:
        replications: their numbers, in the order of the tensors.
        first, last: the steps [first, last).
        idle_from: the step from which on nobody of these replications visits, all being padding.
        look: the names of a look after the last step; None where the networks were not looked at.
        look_seconds: what that took.
        tensors: by ``step``, ``updates``, ``look``, ``networks`` and ``state``.
    """

    replications: tuple[int, ...]
    first: int
    last: int
    idle_from: int | None = None
    look: Any = None
    look_seconds: float = 0.0
    tensors: Tensors = field(default_factory=dict)

    def part(self, prefix: str) -> Tensors:
        """The tensors whose names start with ``prefix.``, without it."""
        n = len(prefix) + 1
        return {k[n:]: t for k, t in self.tensors.items() if k.startswith(f"{prefix}.")}

    def steps(self, n_blocks: int) -> Iterator[Step]:
        """Its steps, one after the other."""
        for number in range(self.first, self.last):
            yield _to_step(number, self.part(f"step.{number}"), n_blocks)

    def write(self, path: Path) -> None:
        """Write it whole; what a power cut takes is computed again from the run's checkpoint."""
        header = {k: v for k, v in vars(self).items() if k != "tensors"}
        # NumPy's writer takes tensors that share memory, each for itself
        own = {name: t.detach().cpu().contiguous().numpy() for name, t in self.tensors.items()}
        temporary = path.with_name(f".{path.name}.tmp")
        with disk_faults(path):
            save_file(own, temporary, {_HEADER: json.dumps(header)})
            temporary.replace(path)


def read_chunk(path: Path) -> Chunk:
    """What ``Chunk.write`` wrote."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[_HEADER])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Chunk(**header | {"replications": tuple(header["replications"])}, tensors=tensors)


def merge(chunks: Sequence[Chunk], n_replications: int) -> Chunk:
    """The chunks of several shards as that of one which has all replications, in any order.

    A merged chunk is merged with nothing: merging it again changes nothing. Where a chunk is
    shorter, as its shard failed, only the steps that all have are taken.

    Raises:
        InputError: a replication is in two of them, or in none.
    """
    numbers = [r for chunk in chunks for r in chunk.replications]
    twice = sorted({r for r in numbers if numbers.count(r) > 1})
    missing = sorted({*range(n_replications)} - {*numbers})
    if twice or missing:
        fault, worlds = ("in two shards", twice) if twice else ("in no shard", missing)
        raise InputError(
            f"shards: replication {', '.join(map(str, worlds))} is {fault}; each must be in one: "
            "resume the run"
        )
    last = min(chunk.last for chunk in chunks)
    is_whole = all(chunk.last == last for chunk in chunks)
    parts = [
        chunk.tensors
        if is_whole
        else {
            k: t
            for step in range(chunk.first, last)
            for k, t in chunk.tensors.items()
            if k.startswith(f"step.{step}.")
        }
        for chunk in chunks
    ]
    idle = [chunk.idle_from for chunk in chunks]
    return replace(
        chunks[0],
        replications=tuple(range(n_replications)),
        last=last,
        idle_from=None if None in idle else max(x for x in idle if x is not None),
        look=chunks[0].look if is_whole else None,
        look_seconds=sum(chunk.look_seconds for chunk in chunks) / len(chunks),
        tensors=join(parts, [chunk.replications for chunk in chunks]),
    )


def join(parts: Sequence[Mapping[str, Tensor]], replications: Sequence[Sequence[int]]) -> Tensors:
    """The tensors of several shards as those of one that has all of their replications.

    Args:
        parts: each shard's, under the same names; each tensor counts worlds, networks or
            replications in front, or is a number that all shards share. What only one
            replication has is named ``replication_<number>``.
        replications: the numbers of each shard's.
    """
    numbers = torch.tensor([r for own in replications for r in own])
    order = numbers.argsort()
    is_ordered = bool((order == torch.arange(len(order))).all())
    joined: Tensors = {}
    for part in parts:
        joined |= {name: t for name, t in part.items() if _OF_ONE.search(name)}
    for name in parts[0]:
        if name in joined:
            continue
        if parts[0][name].dim() == 0:
            joined[name] = parts[0][name]
            continue
        if any(len(part[name]) % len(own) for part, own in zip(parts, replications, strict=True)):
            raise RunError(
                f"{name}: does not count replications in front, as what a design keeps must where "
                "a run is spread over processes; mend its state(), or set simulation.processes: 1"
            )
        x_GRX = torch.cat(
            [
                part[name].unflatten(0, (-1, len(own)))
                for part, own in zip(parts, replications, strict=True)
            ],
            dim=1,
        )
        joined[name] = (x_GRX if is_ordered else x_GRX[:, order]).flatten(0, 1)
    return joined


def share_of(tensors: Mapping[str, Tensor], own: Sequence[int], n_replications: int) -> Tensors:
    """Some replications' share of a state that has all; see ``join``.

    Raises:
        ValueError: a tensor does not count replications.
    """
    found = {}
    for name, x in tensors.items():
        of_one = _OF_ONE.search(name)
        if of_one is not None:
            if int(of_one[1]) in own:
                found[name] = x
        elif x.dim() == 0:
            found[name] = x
        elif len(x) % n_replications:
            raise ValueError(f"{name} counts {len(x)}, which {n_replications} replications cannot")
        else:
            found[name] = x.unflatten(0, (-1, n_replications))[:, list(own)].flatten(0, 1)
    return found


def of_step(step: Step) -> Tensors:
    """A step's tensors."""
    tensors = {f"visits.{name}": getattr(step.visits, name) for name in _VISITS}
    tensors |= {name: getattr(step, name) for name in _STEP}
    tensors |= {f"unit.{i}": x for i, x in enumerate(step.unit_XRB) if x is not None}
    tensors |= {x: own for x in _OPTIONAL if (own := getattr(step, x)) is not None}
    return tensors


def _to_step(number: int, tensors: Mapping[str, Tensor], n_blocks: int) -> Step:
    """The step that ``of_step`` took apart."""
    return Step(
        Visits(number, **{name: tensors[f"visits.{name}"] for name in _VISITS}),
        tuple(tensors.get(f"unit.{i}") for i in range(n_blocks)),
        score_share_WAL=tensors.get("score_share_WAL"),
        propensity_WB=tensors.get("propensity_WB"),
        **{name: tensors[name] for name in _STEP},
    )


def of_updates(updates: Sequence[Updates]) -> Tensors:
    """Each learner's updates, for ``to_updates``."""
    return {f"{name}.{i}": x for i, own in enumerate(updates) for name, x in vars(own).items()}


def to_updates(tensors: Mapping[str, Tensor]) -> list[Updates]:
    """The updates that ``of_updates`` took apart."""
    n = sum(name.startswith("n_updates_S.") for name in tensors)
    names = [f.name for f in fields(Updates)]
    return [Updates(**{name: tensors[f"{name}.{i}"] for name in names}) for i in range(n)]


def of_look(look: Look) -> tuple[Any, Tensors]:
    """A look's names and tensors, for ``to_look``; but for the updates."""
    tensors: Tensors = {}
    figures = [*look.predictions, *(found for _, _, found in look.rankings)]
    for i, found in enumerate(figures):
        tensors |= {f"{i}.value.{metric}": x for metric, x in found.values.items()}
        tensors |= {f"{i}.count.{metric}": x for metric, x in found.counts.items()}
        tensors[f"{i}.n_nonfinite"] = found.n_nonfinite
    for i, evidence in enumerate(look.evidence):
        tensors |= {f"evidence.{i}.{name}": x for name, x in evidence.items()}
    text = {
        "figures": [[found.label, list(found.values)] for found in figures],
        "rankings": [[block, arm] for block, arm, _ in look.rankings],
        "evidence": [list(evidence) for evidence in look.evidence],
    }
    return text, tensors


def to_look(text: Any, tensors: Mapping[str, Tensor], updates: list[Updates]) -> Look:
    """The look that ``of_look`` took apart."""

    def figures(i: int, label: str, metrics: Sequence[str]) -> Figures:
        values, counts = (
            {metric: tensors[f"{i}.{part}.{metric}"] for metric in metrics}
            for part in ("value", "count")
        )
        return Figures(label, values, counts, tensors[f"{i}.n_nonfinite"])

    found = [figures(i, *names) for i, names in enumerate(text["figures"])]
    n_rankings = len(text["rankings"])
    predictions, rankings = found[: len(found) - n_rankings], found[len(found) - n_rankings :]
    evidence = [
        {name: tensors[f"evidence.{i}.{name}"] for name in names}
        for i, names in enumerate(text["evidence"])
    ]
    ranked = [(i, arm, x) for (i, arm), x in zip(text["rankings"], rankings, strict=True)]
    return Look(predictions, ranked, updates, evidence)
