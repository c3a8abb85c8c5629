"""Gradients of two processes: what the product does, what goes wrong, and what only seems to."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from diagnose import outside
from diagnose.subjects import found, planted, small_subject
from torch import nn

from realdataexp.diagnose.of_training import Shown, loss_of, rows_of_passage


class Wrapped(nn.Module):
    """A model whose forward is the loss, as DistributedDataParallel needs it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Shown) -> torch.Tensor:
        return loss_of(self.model, batch.passage, batch.catalogue)


def a_step(*, is_bypassed: bool, is_added: bool):
    """DDP's forward or that of its .module, and gradients averaged by hand or not."""

    def step(model: nn.Module, batch: Shown, rank: int, n: int) -> None:
        wrapped = nn.parallel.DistributedDataParallel(Wrapped(model), find_unused_parameters=True)
        share = rows_of_passage(batch, slice(rank, None, n))
        # of an unequal share its part of the mean, so that the mean of the processes is the whole
        part = len(share.passage.target_X) * n / len(batch.passage.target_X)
        loss = (wrapped.module if is_bypassed else wrapped)(share) * part
        loss.backward()
        if is_added:
            for p in model.parameters():
                if p.grad is not None:
                    dist.all_reduce(p.grad)
                    p.grad /= n

    return step


@pytest.mark.parametrize(
    ("is_bypassed", "is_added", "is_fault"),
    [(False, False, False), (True, True, False), (False, True, False), (True, False, True)],
)
def test_only_gradients_that_nobody_averages_are_a_fault(
    is_bypassed: bool, is_added: bool, is_fault: bool
):
    """The claim that a sum by hand doubles what the framework has averaged is refuted."""
    step = a_step(is_bypassed=is_bypassed, is_added=is_added)
    said = found("gradient_sync", planted(small_subject(), step=step))
    assert said.verdict == ("fault" if is_fault else "ok"), said
    assert said.value is not None
    assert (said.value > 0.1) == is_fault


def negatives(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Each example's own label against the others'."""
    score_BB = model(batch[0]) @ batch[1].T
    return nn.functional.cross_entropy(score_BB, torch.arange(len(score_BB)))


def noisy(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return outside.mlp_loss(model, (batch[0] + torch.randn_like(batch[0]), batch[1]))


def unwrapped(model: nn.Module, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return negatives(getattr(model, "module", model), batch)


@pytest.mark.parametrize(
    ("loss", "verdict", "said"),
    [
        (negatives, "cannot tell", "the loss is no mean over examples"),
        (noisy, "cannot tell", "the loss is random"),
        (unwrapped, "fault", "between two processes by"),
        (lambda model, batch: 0 * negatives(model, batch), "cannot tell", "has the length 0"),
    ],
)
def test_of_a_loss_that_is_no_mean_only_what_nobody_averages_is_a_fault(
    loss: Any, verdict: str, said: str
):
    told = found("gradient_sync", replace(outside.mlp(), loss=loss))
    assert told.verdict == verdict and said in told.said, told


def test_a_batch_of_one_has_no_shares():
    alone = replace(outside.mlp(), batches=lambda n: [outside.rows(0, 1)])
    assert "one example" in found("gradient_sync", alone).said


def test_the_product_s_own_step_is_sound():
    assert found("gradient_sync", small_subject()).verdict == "ok"


def test_a_process_that_fails_cannot_tell():
    def step(model: nn.Module, batch: Shown, rank: int, n: int) -> None:
        raise ValueError("no network")

    said = found("gradient_sync", planted(small_subject(), step=step))
    assert said.verdict == "cannot tell"
    assert "no network" in said.said
