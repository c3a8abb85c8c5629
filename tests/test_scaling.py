"""Each network's loss scale follows torch.amp.GradScaler's own rule, whatever the others do."""

from __future__ import annotations

import pytest
import torch

from realdataexp import draws
from realdataexp.optimizers import LossScale

CPU = torch.device("cpu")


def of_torch(scale: float, n_good: int, found_inf_T: list[bool]) -> tuple[float, int]:
    """What PyTorch's own update makes of one scale."""
    scale_1 = torch.tensor([scale])
    n_good_1 = torch.tensor([n_good], dtype=torch.int32)
    for found_inf in found_inf_T:
        flag_1 = torch.tensor([float(found_inf)])
        torch._amp_update_scale_(scale_1, n_good_1, flag_1, 2.0, 0.5, 2000)
    return float(scale_1), int(n_good_1)


@pytest.mark.parametrize("n_good", [0, 1990, 1999])
@pytest.mark.parametrize("scale", [2.0**16, 1.0, 2.0**127, 2.0**-149])
def test_every_network_follows_the_rule_of_grad_scaler(n_good: int, scale: float) -> None:
    S, T = 6, 40
    share_S = torch.tensor([0.0, 0.02, 0.1, 0.3, 0.9, 1.0])
    keys_S = draws.key(0, "overflows", torch.arange(S))
    overflows_TS = (draws.uniform(keys_S, T) < share_S[:, None]).T
    scales = LossScale.start(S, CPU)
    scales.scale_S.fill_(scale)
    scales.n_good_S.fill_(n_good)
    for overflows_S in overflows_TS:
        scales.update(torch.ones(S, dtype=torch.bool), overflows_S, slice(0, S))
    expected = [of_torch(scale, n_good, overflows_TS[:, s].tolist()) for s in range(S)]
    assert list(zip(scales.scale_S.tolist(), scales.n_good_S.tolist(), strict=True)) == expected


def test_it_starts_and_grows_as_grad_scaler_does() -> None:
    scaler = torch.amp.GradScaler("cpu")
    scales = LossScale.start(1, CPU)
    assert scales.scale_S.tolist() == [scaler.scale(torch.ones(())).item()]
    all_S, none_S = torch.ones(1, dtype=torch.bool), torch.zeros(1, dtype=torch.bool)
    for _ in range(scaler.get_growth_interval() - 1):
        scales.update(all_S, none_S, slice(0, 1))
    assert scales.scale_S.tolist() == [2.0**16]
    scales.update(all_S, none_S, slice(0, 1))
    assert scales.scale_S.tolist() == [2.0**17]
    assert scales.n_good_S.tolist() == [0]


def test_a_network_with_nothing_to_learn_and_networks_outside_the_range_keep_their_scale() -> None:
    scales = LossScale.start(4, CPU)
    scales.n_good_S.fill_(1999)
    is_due_S = torch.tensor([True, False])
    scales.update(is_due_S, torch.zeros(2, dtype=torch.bool), slice(1, 3))
    assert scales.scale_S.tolist() == [2.0**16, 2.0**17, 2.0**16, 2.0**16]
    assert scales.n_good_S.tolist() == [1999, 0, 1999, 1999]


def test_an_overflow_is_part_of_the_search_until_the_scale_is_one() -> None:
    scales = LossScale.start(2, CPU)
    all_S, overflows_S = torch.ones(2, dtype=torch.bool), torch.tensor([True, False])
    searched = [scales.update(all_S, overflows_S, slice(0, 2)).tolist() for _ in range(18)]
    assert searched == [[True, False]] * 16 + [[False, False]] * 2
    assert scales.scale_S.tolist() == [0.25, 2.0**16]


def test_scaling_and_unscaling_give_the_gradients_back_to_the_bit() -> None:
    scales = LossScale.start(5, CPU)
    scales.scale_S.copy_(torch.tensor([2.0**16, 1.0, 2.0**20, 0.5, 2.0**8]))
    networks = slice(1, 4)
    weight_SDH = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    bias_SH = weight_SDH[:, 0] + 1.0

    def gradients(scale: LossScale | None) -> tuple[torch.Tensor, ...]:
        leaves = [x.detach().requires_grad_() for x in (weight_SDH, bias_SH)]
        loss_S = (leaves[0].sum(1) * leaves[1]).tanh().sum(1)
        if scale is None:
            return torch.autograd.grad(loss_S.sum(), leaves)
        grads = torch.autograd.grad(scale.scale(loss_S, networks).sum(), leaves)
        return tuple(scale.unscale(g.flatten(1), networks).view(g.shape) for g in grads)

    for mine, plain in zip(gradients(scales), gradients(None), strict=True):
        assert torch.equal(mine, plain)


def test_float16_gradients_that_would_vanish_survive() -> None:
    x = torch.full((1, 1), 1e-3)

    def gradient(scale: LossScale | None) -> float:
        weight = torch.ones(1, 1, requires_grad=True)
        loss_S = ((x.half() @ weight.half()) * 1e-5).float().sum(1)
        if scale is None:
            return float(torch.autograd.grad(loss_S.sum(), [weight])[0])
        (grad_SP,) = torch.autograd.grad(scale.scale(loss_S, slice(0, 1)).sum(), [weight])
        return float(scale.unscale(grad_SP, slice(0, 1)))

    assert gradient(None) == 0.0
    scales = LossScale.start(1, CPU)
    assert gradient(scales) == float("inf")  # 2**16 is more than float16 holds: half of it will do
    scales.update(torch.tensor([True]), torch.tensor([True]), slice(0, 1))
    assert gradient(scales) == pytest.approx(1e-8, rel=1e-2)


def test_a_state_goes_on_where_it_was() -> None:
    a, b = LossScale.start(3, CPU), LossScale.start(3, CPU)
    flags_S = torch.tensor([True, False, True])
    a.update(torch.ones(3, dtype=torch.bool), flags_S, slice(0, 3))
    b.load_state({name: t.clone() for name, t in a.state().items()})
    assert b.scale_S.tolist() == [2.0**15, 2.0**16, 2.0**15]
    assert b.n_good_S.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="loss_scale"):
        b.load_state({"loss_scale_n_good": b.n_good_S})
