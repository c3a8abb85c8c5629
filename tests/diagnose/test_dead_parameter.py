"""Parameters, and calls of their modules, to which no gradient comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diagnose.planting import KINDS, SIZES, Adapted, subject_of_kind, trained, with_model
from diagnose.subjects import found, small_subject
from torch import Tensor, nn

from realdataexp.diagnose import Subject


def test_an_adapter_whose_output_is_dropped_is_named():
    def cut_off(model: Any) -> None:
        model.adapter.register_forward_hook(lambda module, args, output: output.detach())

    said = found("dead_parameter", with_model(small_subject(), cut_off))
    assert said.verdict == "fault"
    assert "adapter.weight, adapter.bias" in said.said


def detached_output(model: Any) -> None:
    encode = model.encode
    model.encode = lambda item_BTE: encode(item_BTE).detach()


def detached_input(model: Any) -> None:
    encode = model.encode
    model.encode = lambda item_BTE: encode(item_BTE.detach())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", KINDS)
def test_what_reads_a_history_is_found_where_it_is_detached(name: str, size: str):
    """Of the encoder's output, and of its input, whose embeddings may still learn from scores."""
    for is_trained in (False, True):
        subject = subject_of_kind(name, dataset=SIZES[size])
        subject = trained(subject, 10) if is_trained else subject
        assert found("dead_parameter", subject).value == 0
        said = found("dead_parameter", with_model(subject, detached_output))
        assert said.verdict == "fault" and "get no gradient: " in said.said
        said = found("dead_parameter", with_model(subject, detached_input))
        assert said.verdict == "fault"
        wanted = "read.weight" if name == "Generative" else "are detached: call 1 of embedding"
        assert wanted in said.said


def test_all_ways_to_draw_items_of_a_healthy_training_are_alive():
    for negatives in (None, 20):
        model = {"name": "SASRec", "width": 16, "negatives": negatives}
        assert found("dead_parameter", small_subject(model=model, items={})).verdict == "ok"


def test_what_is_not_trained_is_not_dead():
    subject = with_model(small_subject(), lambda m: m.adapter.requires_grad_(False))
    said = found("dead_parameter", subject)
    assert said.verdict == "ok"
    assert said.value == 0


def predictor(model: Callable[[], nn.Module], loss: Callable[[Any, Tensor], Tensor]) -> Subject:
    """Anybody's training."""
    x = torch.randn(3, 16, 4, generator=torch.Generator().manual_seed(0))
    return Subject(name="mine", model=model, batches=lambda n: list(x[:n]), loss=loss)


def test_an_adapter_that_begins_at_zero_learns_unless_what_is_zero_never_changes():
    def loss(model: Any, x: Tensor) -> Tensor:
        return (model(x) - x.sum(1, keepdim=True)).square().mean()

    def stuck() -> nn.Module:
        made = Adapted(4, 1)
        made.up.requires_grad_(False)
        return made

    assert found("dead_parameter", predictor(lambda: Adapted(4, 1), loss)).value == 0
    said = found("dead_parameter", predictor(stuck, loss))
    assert said.verdict == "fault" and "gradient: down.weight;" in said.said


def test_calls_that_are_not_to_learn_or_change_no_loss_are_not_detached():
    def loss(model: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = model(x + 1)
        model(x - 1)  # for a report, say
        return (model(x) - target).square().mean()

    def detached(model: nn.Module, x: Tensor) -> Tensor:
        return (model(x) - model(x + 1).detach()).square().mean()

    assert found("dead_parameter", predictor(lambda: nn.Linear(4, 1), loss)).value == 0
    said = found("dead_parameter", predictor(lambda: nn.Linear(4, 1), detached))
    assert said.verdict == "fault" and "0 of 2 trained parameters" in said.said
