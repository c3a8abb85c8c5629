"""What processes of a run tell each other: JSON and tensors as bytes, nothing that could run code.

A tensor that differs between worlds has an axis in front that counts them: W worlds, S networks
or R replications, each laid out group by group (of blocks, or of models) with the replications
within. So what several shards found is put together by one rule (`join`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import safetensors.numpy
import torch
from torch import Tensor

from realdataexp.loop import Step
from realdataexp.metrics import Figures
from realdataexp.runs.shard import Look, Updates
from realdataexp.worlds.base import Visits

_LENGTH = 8  # bytes that say how long the JSON is
_VISITS = tuple(f.name for f in fields(Visits) if f.name != "step")
_OPTIONAL = ("score_share_WAL", "propensity_WB")
_STEP = tuple(f.name for f in fields(Step) if f.name not in ("visits", "unit_XRB", *_OPTIONAL))

Tensors = dict[str, Tensor]


def dump(text: Any, tensors: Mapping[str, Tensor]) -> bytes:
    """JSON and tensors of the host as bytes."""
    head = json.dumps(text).encode()
    arrays = {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}
    return len(head).to_bytes(_LENGTH, "little") + head + safetensors.numpy.save(arrays)


def load(message: bytes) -> tuple[Any, Tensors]:
    """What ``dump`` was given."""
    end = _LENGTH + int.from_bytes(message[:_LENGTH], "little")
    arrays = safetensors.numpy.load(message[end:])
    return json.loads(message[_LENGTH:end]), {k: torch.from_numpy(x) for k, x in arrays.items()}


def join(parts: Sequence[Mapping[str, Tensor]], n_replications: Sequence[int]) -> Tensors:
    """The tensors of several shards as those of one that has all of their replications.

    Args:
        parts: each shard's, under the same names; each tensor counts worlds, networks or
            replications in front.
        n_replications: how many each shard has.
    """
    return {
        name: torch.cat(
            [
                part[name].unflatten(0, (-1, n))
                for part, n in zip(parts, n_replications, strict=True)
            ],
            dim=1,
        ).flatten(0, 1)
        for name in parts[0]
    }


def of_step(step: Step) -> tuple[int, Tensors]:
    """A step's number and tensors, for ``to_step``."""
    tensors = {f"visits.{name}": getattr(step.visits, name) for name in _VISITS}
    tensors |= {name: getattr(step, name) for name in _STEP}
    tensors |= {f"unit.{i}": x for i, x in enumerate(step.unit_XRB) if x is not None}
    tensors |= {x: own for x in _OPTIONAL if (own := getattr(step, x)) is not None}
    return step.visits.step, tensors


def to_step(number: int, tensors: Mapping[str, Tensor], n_blocks: int) -> Step:
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
    """The updates that ``of_updates`` took apart; other tensors may lie among them."""
    n = sum(name.startswith("n_updates_S.") for name in tensors)
    names = [f.name for f in fields(Updates)]
    return [Updates(**{name: tensors[f"{name}.{i}"] for name in names}) for i in range(n)]


def of_look(look: Look) -> tuple[Any, Tensors]:
    """A look's names and tensors, for ``to_look``."""
    tensors: Tensors = {}
    figures = [*look.predictions, *(found for _, _, found in look.rankings)]
    for i, found in enumerate(figures):
        tensors |= {f"{i}.value.{metric}": x for metric, x in found.values.items()}
        tensors |= {f"{i}.count.{metric}": x for metric, x in found.counts.items()}
        tensors[f"{i}.n_nonfinite"] = found.n_nonfinite
    tensors |= of_updates(look.updates)
    for i, evidence in enumerate(look.evidence):
        tensors |= {f"evidence.{i}.{name}": x for name, x in evidence.items()}
    text = {
        "figures": [[found.label, list(found.values)] for found in figures],
        "rankings": [[block, arm] for block, arm, _ in look.rankings],
        "n_blocks": len(look.evidence),
    }
    return text, tensors


def to_look(text: Any, tensors: Mapping[str, Tensor]) -> Look:
    """The look that ``of_look`` took apart."""

    def figures(i: int, label: str, metrics: Sequence[str]) -> Figures:
        values, counts = (
            {metric: tensors[f"{i}.{part}.{metric}"] for metric in metrics}
            for part in ("value", "count")
        )
        return Figures(label, values, counts, tensors[f"{i}.n_nonfinite"])

    def evidence(i: int) -> Tensors:
        start = f"evidence.{i}."
        return {k.removeprefix(start): x for k, x in tensors.items() if k.startswith(start)}

    found = [figures(i, *names) for i, names in enumerate(text["figures"])]
    n_rankings = len(text["rankings"])
    predictions, rankings = found[: len(found) - n_rankings], found[len(found) - n_rankings :]
    return Look(
        predictions,
        [(i, arm, x) for (i, arm), x in zip(text["rankings"], rankings, strict=True)],
        to_updates(tensors),
        [evidence(i) for i in range(text["n_blocks"])],
    )
