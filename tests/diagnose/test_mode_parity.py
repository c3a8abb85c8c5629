"""Training mode, evaluation, no_grad and inference_mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diagnose.planting import KINDS, Adapted, subject_of_kind, with_model
from diagnose.subjects import found, planted, small_subject
from torch import Tensor, nn

from realdataexp.diagnose import Subject


def transformer(linear: Callable[[int, int], nn.Module]) -> Subject:
    """PyTorch's own layer, whose first linear layer is another."""

    def model() -> nn.Module:
        made = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.3, batch_first=True)
        made.linear1 = linear(16, 32)
        return made

    def batches(n: int) -> list[Tensor]:
        return list(torch.randn(n, 8, 5, 16, generator=torch.Generator().manual_seed(0)))

    return Subject(
        name="transformer", model=model, batches=batches,
        loss=lambda model, x: model(x).square().mean(), outputs=lambda model, x: model(x),
    )  # fmt: skip


@pytest.mark.parametrize("name", KINDS)
def test_our_models_compute_the_same_in_all_modes(name: str):
    said = found("mode_parity", subject_of_kind(name))
    assert said.verdict == "ok" and said.value is not None
    assert said.value < 1e-5


def test_an_adapter_that_a_fast_path_leaves_out_is_found_before_it_has_learned():
    """Facts: adapters on nn.TransformerEncoderLayer are dead in evaluation without gradients."""
    assert found("mode_parity", transformer(nn.Linear)).verdict == "ok"
    said = found("mode_parity", transformer(Adapted))
    assert said.verdict == "fault"
    assert "0 in evaluation" in said.said  # with gradients there is no fast path


def test_a_part_that_only_training_runs_is_found():
    def in_training_only(model: nn.Module) -> None:
        model.encoder.register_forward_hook(lambda m, args, out: out * (1 + 0.1 * m.training))

    assert found("mode_parity", with_model(small_subject(), in_training_only)).verdict == "fault"


def test_noise_that_no_rate_sets_and_absent_outputs_cannot_tell():
    def noisy(model: nn.Module) -> None:
        model.encoder.register_forward_hook(lambda m, args, out: out + torch.randn_like(out))

    said = found("mode_parity", with_model(small_subject(), noisy))
    assert said.verdict == "cannot tell" and "random" in said.said
    assert found("mode_parity", planted(small_subject(), outputs=None)).verdict == "cannot tell"
