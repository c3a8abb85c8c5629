"""Trainings that have nothing to do with this package, and their adapters; and faulty ones."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from realdataexp.diagnose import Subject

_N_FEATURES = 8


def rows(seed: int, n: int = 64) -> tuple[Tensor, Tensor]:
    """Examples whose label their features explain."""
    draw = torch.Generator().manual_seed(seed)
    x_ND = torch.randn(n, _N_FEATURES, generator=draw)
    noise_N1 = torch.randn(n, 1, generator=draw)
    return x_ND, x_ND @ torch.ones(_N_FEATURES, 1) + 0.1 * noise_N1


def mlp_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return mse_loss(model(batch[0]), batch[1])


def mlp() -> Subject:
    """A plain PyTorch network."""
    return Subject(
        name="mlp",
        model=lambda: nn.Sequential(nn.Linear(_N_FEATURES, 16), nn.ReLU(), nn.Linear(16, 1)),
        batches=lambda n: [rows(i) for i in range(n)],
        loss=mlp_loss,
        optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-2),
        learning_rate=1e-2,
        outputs=lambda model, batch: model(batch[0]),
    )


def t5() -> Subject:
    """A T5 that writes the code of the next item."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=32, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip

    def batch(i: int) -> dict[str, Tensor]:
        draw = torch.Generator().manual_seed(i)
        read_BT = torch.randint(1, 32, (8, 6), generator=draw)
        mask_BT = torch.arange(6) < torch.randint(3, 7, (8, 1), generator=draw)
        return {
            "input_ids": read_BT,
            "attention_mask": mask_BT.long(),
            "labels": read_BT[:, :3].clone(),
        }

    return Subject(
        name="t5",
        model=lambda: T5ForConditionalGeneration(config),
        batches=lambda n: [batch(i) for i in range(n)],
        loss=lambda model, batch: model(**batch).loss,
    )


def waiting() -> Subject:
    """One whose step says who does it, and never ends."""

    def step(model: nn.Module, batch: Any, rank: int, n: int) -> None:
        Path(os.environ["PIDS"], str(os.getpid())).touch()
        time.sleep(600)

    return replace(mlp(), step=step)


def widths(model: nn.Module, batch: Any) -> Tensor:
    raise ValueError("no\nsuch width")


class Raising(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("no such table")


FAULTY: dict[str, tuple[dict[str, Any], list[str]]] = {
    "raising": ({"loss": widths}, ["mlp: batch 0: its loss raised ValueError: no"]),
    "no_model": ({"model": lambda: 1 / 0}, ["mlp: its model raised ZeroDivisionError"]),
    "no_module": ({"model": dict}, ["must return a torch.nn.Module, not dict"]),
    "detached": (
        {"loss": lambda model, batch: mlp_loss(model, batch).detach()},
        ["the loss has no gradient"],
    ),
    "raising_model": (
        {"model": lambda: Raising(_N_FEATURES, 1)},
        ["mlp: batch 0: its loss raised RuntimeError: no such table"],
    ),
    "absent_numbers": (
        {"model": lambda: nn.Linear(_N_FEATURES, 1, device="meta")},
        ["weight of model has no values"],
    ),
    "not_a_number": (
        {"loss": lambda model, batch: mlp_loss(model, batch) * torch.nan},
        ["the loss is nan: look for"],
    ),
    "of_a_dict": ({"loss": lambda model, batch: {"loss": 1.0}}, ["one number, not a dict"]),
    "no_examples": ({"batches": lambda n: [rows(0, 0)]}, ["batch 0 has no examples"]),
    "no_rate": ({"learning_rate": 0.0}, ["learning_rate is 0.0: pass a number above 0"]),
    "rate_of_text": ({"learning_rate": "1e-3"}, ["learning_rate is '1e-3'"]),
    "recommending": ({"recommended": 5}, ["recommended must be", "not int"]),
    "of_rows": (
        {"loss": lambda model, batch: model(batch[0])},
        ["a tensor of one number, not of shape (64, 1)"],
    ),
    "infinite": (
        {"loss": lambda model, batch: mlp_loss(model, batch) / 0},
        ["batch 0: the loss is inf"],
    ),
    "empty": ({"batches": lambda n: []}, ["there are no batches"]),
    "unlike": (
        {"batches": lambda n: [rows(0), (rows(1)[0][:, :5], rows(1)[1])]},
        ["batch 1", "rows of 0 have shape (5,) (in batch 0: (8,))", "cannot be multiplied"],
    ),
    "uneven": (
        {"batches": lambda n: [(rows(0)[0], rows(0)[1][:9])]},
        ["batch 0: 1 has 9 rows, and 0 64"],
    ),
    "of_text": ({"batches": lambda n: ["a text"]}, ["no tensor in it: pass rows and size"]),
}
_MODEL = nn.Linear(_N_FEATURES, 1)


def __getattr__(name: str) -> Any:
    """The faulty ones."""
    if name in FAULTY:
        return lambda: replace(mlp(), **FAULTY[name][0])
    raise AttributeError(name)


def one_model() -> Subject:
    return replace(mlp(), model=lambda: _MODEL)


def two_models() -> Subject:
    def model() -> nn.Module:
        made = nn.Linear(_N_FEATURES, 1)
        made.bias.data.fill_(len(calls))
        calls.append(made)
        return made

    calls: list[nn.Module] = []
    return replace(mlp(), model=model)


def no_subject() -> str:
    return "mlp"


def impossible() -> Subject:
    raise FileNotFoundError("weights.pt")
