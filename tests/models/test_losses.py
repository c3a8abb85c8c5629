"""Losses: values by hand, torch and SciPy as oracles, finite gradients, predictions in units."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import special
from torch import Tensor

from realdataexp.models import LOSSES, LabelScale

SCALE = LabelScale(mean=2.0, sd=0.5, unit_sd=3.0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "raw", "y", "loss", "prediction"),
    [
        # unscaled = raw * 0.5 + 2; log1p(e - 1) = 1
        ("logMAE", 1.0, math.e - 1, 1.5, math.expm1(2.5)),
        ("logMAE", -4.0, 0.0, 0.0, 0.0),
        ("logMAE", -6.0, math.e - 1, 2.0, 0.0),
        ("logMSE", 1.0, math.e - 1, 9.0, math.expm1(2.5)),  # (1 - (1 - 2) / 0.5)^2
        ("logMSE", -4.0, 0.0, 0.0, 0.0),
        ("MSE", 1.0, 4.0, 9.0, 2.5),
        ("MSE", -2.0, 2.0, 4.0, 1.0),
        ("MAE", 1.0, 4.0, 3.0, 2.5),
        ("MAE", 5.0, 4.0, 1.0, 4.5),
        ("BCE", 0.0, 1.0, math.log(2), 0.5),
        ("BCE", math.log(3), 0.0, math.log(4), 0.75),
    ],
)
def test_hand_values(name: str, raw: float, y: float, loss: float, prediction: float) -> None:
    raw_XO = torch.tensor([[raw]], dtype=torch.float64)
    y_X = torch.tensor([y], dtype=torch.float64)
    assert LOSSES[name].elementwise(raw_XO, y_X, SCALE).item() == pytest.approx(loss, abs=1e-12)
    assert LOSSES[name].predict(raw_XO, SCALE).item() == pytest.approx(prediction, abs=1e-12)


def test_hand_values_of_cross_entropy() -> None:
    raw_XO = torch.tensor([[0.0, math.log(2), math.log(5)]] * 3, dtype=torch.float64)
    loss = LOSSES["CE"].elementwise(raw_XO, torch.tensor([0.0, 1.0, 2.0]), SCALE)
    assert loss.tolist() == pytest.approx([math.log(8), math.log(4), math.log(8 / 5)])
    assert LOSSES["CE"].predict(raw_XO, SCALE).tolist() == pytest.approx([12 / 8] * 3)


@pytest.mark.parametrize("shape", [(), (7,), (3, 4), (2, 3, 5)])
@pytest.mark.parametrize("name", list(LOSSES))
def test_losses_and_predictions_are_elementwise(name: str, shape: tuple[int, ...]) -> None:
    n_outputs = 4 if name == "CE" else 1
    raw_XO = random(*shape, n_outputs)
    y_X = torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(1)).float()
    loss, predicted = (
        LOSSES[name].elementwise(raw_XO, y_X, SCALE),
        LOSSES[name].predict(raw_XO, SCALE),
    )
    assert loss.shape == predicted.shape == shape
    for i, (raw, y) in enumerate(zip(raw_XO.view(-1, n_outputs), y_X.view(-1), strict=True)):
        one = LOSSES[name].elementwise(raw, y, SCALE)
        torch.testing.assert_close(loss.view(-1)[i], one)
        torch.testing.assert_close(predicted.view(-1)[i], LOSSES[name].predict(raw, SCALE))


def test_losses_equal_torch() -> None:
    raw_XO, y_X = random(200, 1) * 5, random(200, seed=1) * 4 + 2
    z_X = (y_X - SCALE.mean) / SCALE.sd
    plain = {"reduction": "none"}
    torch.testing.assert_close(
        LOSSES["MSE"].elementwise(raw_XO, y_X, SCALE), F.mse_loss(raw_XO[:, 0], z_X, **plain)
    )
    torch.testing.assert_close(
        LOSSES["MAE"].elementwise(raw_XO, y_X, SCALE), F.l1_loss(raw_XO[:, 0], z_X, **plain)
    )
    positive = y_X.abs() * 1e4
    torch.testing.assert_close(
        LOSSES["logMAE"].elementwise(raw_XO, positive, SCALE),
        F.l1_loss(raw_XO[:, 0] * 0.5 + 2, torch.log1p(positive), **plain),
    )
    classes = random(200, 5, seed=2) * 5
    of = torch.randint(0, 5, (200,), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        LOSSES["CE"].elementwise(classes, of.float(), SCALE), F.cross_entropy(classes, of, **plain)
    )


def test_binary_cross_entropy_equals_scipy_on_soft_labels() -> None:
    raw_X, y_X = np.linspace(-30, 30, 61), np.linspace(0, 1, 61)
    expected = -y_X * special.log_expit(raw_X) - (1 - y_X) * special.log_expit(-raw_X)
    raw = torch.from_numpy(raw_X).unsqueeze(-1)
    loss = LOSSES["BCE"].elementwise(raw, torch.from_numpy(y_X), SCALE)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(LOSSES["BCE"].predict(raw, SCALE).numpy(), special.expit(raw_X))


def test_cross_entropy_of_two_classes_is_binary_cross_entropy_of_the_difference() -> None:
    raw_XO, y_X = random(100, 2) * 6, (random(100, seed=1) > 0).float()
    difference_XO = raw_XO[:, 1:] - raw_XO[:, :1]
    two, one = LOSSES["CE"], LOSSES["BCE"]
    torch.testing.assert_close(
        two.elementwise(raw_XO, y_X, SCALE),
        one.elementwise(difference_XO, y_X, SCALE),
        rtol=1e-5,
        atol=1e-6,
    )
    torch.testing.assert_close(two.predict(raw_XO, SCALE), one.predict(difference_XO, SCALE))


def test_the_expected_class_is_the_mean_of_the_classes_probabilities() -> None:
    raw_XO = random(50, 4) * 3
    expected = special.softmax(raw_XO.double().numpy(), axis=1) @ np.arange(4)
    np.testing.assert_allclose(LOSSES["CE"].predict(raw_XO, SCALE).numpy(), expected, rtol=1e-5)
    assert LOSSES["CE"].is_class and not any(LOSSES[x].is_class for x in LOSSES if x != "CE")


@pytest.mark.parametrize("name", ["logMAE", "logMSE", "MSE", "MAE"])
def test_predict_inverts_the_scale_of_the_loss(name: str) -> None:
    """Where a raw output is the label's z-score, the loss is 0 and the prediction the label."""
    loss, y_X = LOSSES[name], torch.logspace(-3, 6, 40, dtype=torch.float64)
    raw_XO = ((loss.transform(y_X) - SCALE.mean) / SCALE.sd).unsqueeze(-1)
    torch.testing.assert_close(loss.predict(raw_XO, SCALE), y_X, rtol=1e-9, atol=1e-9)
    assert float(loss.elementwise(raw_XO, y_X, SCALE).max()) < 1e-9
    assert float(loss.elementwise(raw_XO + 1, y_X, SCALE).min()) >= 0.5 - 1e-9


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "BCE"])
def test_unlike_labels_have_unlike_losses(name: str) -> None:
    raw_XO = torch.zeros(3, 3 if name == "CE" else 1) + torch.arange(3 if name == "CE" else 1)
    loss = LOSSES[name].elementwise(raw_XO, torch.tensor([0.0, 1.0, 2.0]), SCALE)
    assert len(set(loss.tolist())) == 3


def gradient(name: str, raw: float, y: float, scale: LabelScale = SCALE) -> tuple[float, float]:
    raw_XO = torch.full((1, 3 if name == "CE" else 1), raw).requires_grad_()
    loss = LOSSES[name].elementwise(raw_XO, torch.tensor([y]), scale)
    (grad,) = torch.autograd.grad(loss.sum(), raw_XO)
    return loss.item(), grad.abs().max().item()


@pytest.mark.parametrize("raw", [-1e4, -3.0, 0.3, 50.0, 1e4])
@pytest.mark.parametrize("y", [0.0, 1e-30, 1.0, 1e9, 3e38])
def test_log_mae_is_finite_with_a_full_gradient_for_every_label(raw: float, y: float) -> None:
    loss, grad = gradient("logMAE", raw, y)
    assert math.isfinite(loss)
    assert grad == pytest.approx(SCALE.sd)  # of |.|, so never 0 and never large


@pytest.mark.parametrize("name", ["BCE", "CE"])
@pytest.mark.parametrize("raw", [-1e4, 0.0, 1e4])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_class_losses_are_finite_for_extreme_scores(name: str, raw: float, y: float) -> None:
    loss, grad = gradient(name, raw, y)
    assert math.isfinite(loss) and math.isfinite(grad)
    if name == "BCE":
        assert loss == pytest.approx(max(raw, 0.0) - raw * y + math.log1p(math.exp(-abs(raw))))


def test_log_mae_predicts_without_overflow_and_never_below_zero() -> None:
    raw_XO = torch.tensor([[-1e30], [-4.0], [0.0], [1e3], [1e30]])
    predicted = LOSSES["logMAE"].predict(raw_XO, SCALE)
    assert bool(torch.isfinite(predicted).all())
    assert bool((predicted >= 0).all()) and bool((predicted.diff() >= 0).all())
    assert predicted[:2].tolist() == [0.0, 0.0]
