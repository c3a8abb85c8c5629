"""How often checks blame sound trainings, and how often they find a fault: the docs' table.

`python -m bench.diagnose_rates N` makes N sound trainings of other seeds, models and sizes, half of
them trained, and runs every check on each; then it plants each fault in trainings of three sizes,
`n_power` seeds each. It prints a table in Markdown, and on stderr what was blamed.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from realdataexp.diagnose.of_training import Shown, rows_of_passage, subject_of
from realdataexp.diagnose.run import diagnose
from realdataexp.diagnose.subject import Subject
from realdataexp.registry import find, names
from realdataexp.train.config import load_train
from realdataexp.train.run import train

SIZES = {"small": (150, 80), "middle": (600, 300), "large": (2000, 1000)}
MODELS = ("SASRec", "GRU4Rec", "Generative")
_RATES = {"SASRec": 0.003, "GRU4Rec": 0.01, "Generative": 0.003}
_N_POWER = 3
_VECTORS = {"kind": "svd", "size": 16}


def config_of(model: str, size: str, seed: int, **items: Any) -> dict[str, Any]:
    """A sound training."""
    users, n_items = SIZES[size]
    values: dict[str, Any] = {
        "mode": "train", "seed": seed, "model": {"name": model, "width": 32},
        "dataset": {
            "name": "sequences", "synthetic": {"users": users, "items": n_items, "seed": seed}
        },
        "training": {
            "epochs": 6, "users_per_batch": users // 6, "warmup_steps": 3,
            "learning_rate": _RATES[model],
        },
        "logging": {"level": "ERROR"},
    }  # fmt: skip
    if model == "Generative":
        values["model"] |= {"n_layers": 1, "n_heads": 2, "prefix": "items"}
        codes = {"n_codes": 8, "n_levels": 3, "vectors": _VECTORS}
        values["items"] = {"codes": codes, "vectors": {**_VECTORS, **items}}
    return values


def sound(i: int, folder: Path) -> Subject:
    """The i-th sound training: models in turn, then sizes, then before and after training."""
    kinds = list(itertools.product((False, True), ("small", "middle"), MODELS))
    is_trained, size, model = kinds[i % len(kinds)]
    config = load_train(config_of(model, size, i))
    return subject_of(config, train(config, folder / str(i)) if is_trained else None)


# --- faults --------------------------------------------------------------------------------------


def _changed(subject: Subject, change: Callable[[Any], object]) -> Subject:
    """With a model that is changed once it is made."""

    def model() -> nn.Module:
        made = subject.model()
        with torch.no_grad():
            change(made)
        return made

    return replace(subject, model=model)


def _not_averaged(subject: Subject) -> Subject:
    def step(model: nn.Module, batch: Shown, rank: int, n: int) -> None:
        subject.loss(model, rows_of_passage(batch, slice(rank, None, n))).backward()

    return replace(subject, step=step)


def _without_vectors(subject: Subject) -> Subject:
    def loss(model: nn.Module, batch: Shown) -> Tensor:
        zeros = torch.zeros_like(batch.catalogue["vector"])
        return subject.loss(model, replace(batch, catalogue=batch.catalogue | {"vector": zeros}))

    return replace(subject, loss=loss)


def _cut_off(made: Any) -> None:
    made.adapter.register_forward_hook(lambda module, args, output: output.detach())


def _large(made: nn.Module) -> None:
    for p in made.parameters():
        p.mul_(5)


def _thawed(subject: Subject) -> Subject:
    return replace(subject, frozen=(*subject.frozen, "adapter"))


FAULTS: dict[str, tuple[str, Callable[[Subject], Subject]]] = {
    "gradient_sync": ("nobody averages the gradients", _not_averaged),
    "dead_parameter": ("the adapter's output is detached", lambda x: _changed(x, _cut_off)),
    "dead_input": ("vectors are zeros when they arrive", _without_vectors),
    "frozen": ("a frozen adapter is in the optimiser", _thawed),
    "initial_loss": ("initial parameters five times as large", lambda x: _changed(x, _large)),
    "embedding_signal": ("vectors are noise", lambda x: x),
    "learning_rate": ("a learning rate of 3e-6", lambda x: replace(x, learning_rate=3e-6)),
}


def faulty(check: str, size: str, seed: int) -> Subject:
    """A training before its first step with a check's fault."""
    items = {"control": "noise"} if check == "embedding_signal" else {}
    subject = subject_of(load_train(config_of("Generative", size, seed, **items)))
    return FAULTS[check][1](subject)


# --- the table -----------------------------------------------------------------------------------


def main(n: int, n_power: int = _N_POWER) -> None:
    """Print the table."""
    alarms, told, seconds = Counter[str](), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n):
            subject = sound(i, Path(folder))
            for x in diagnose(subject, seed=i)["checks"]:
                seconds[x["check"]] += x["seconds"]
                told[x["check"]] += x["verdict"] != "cannot tell"
                alarms[x["check"]] += x["verdict"] == "fault"
                if x["verdict"] == "fault":
                    print(f"{i} {subject.name}: {x['check']}: {x['said']}", file=sys.stderr)
    print("| check | whether | false alarms | planted fault | found: " + ", ".join(SIZES) + " |")
    print("|---|---|---|---|---|")
    for check in names("check"):
        fault, power = "", ""
        if check in FAULTS:
            fault = FAULTS[check][0]
            power = ", ".join(_power(check, size, n_power) for size in SIZES)
        print(f"| `{check}` | {_whether(check)} | {alarms[check]} of {told[check]} "
              f"| {fault} | {power} |")  # fmt: skip


def _power(check: str, size: str, n: int) -> str:
    found = [diagnose(faulty(check, size, seed), [check], seed=seed) for seed in range(n)]
    return f"{sum(x['checks'][0]['verdict'] == 'fault' for x in found)} of {n}"


def _whether(check: str) -> str:
    """The first sentence of a check's docstring, without its first word."""
    doc = importlib.import_module(find("check", check, "").__module__).__doc__ or ""
    line = " ".join(doc.split("\n\n")[0].split())
    return line.removeprefix("Whether ").removesuffix(".")


if __name__ == "__main__":
    since = time.perf_counter()
    main(*map(int, sys.argv[1:]))
    print(f"{time.perf_counter() - since:.0f} s", file=sys.stderr)
