"""The design weighting: from G to weights, and what it tells about them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from support import Setting, diagnostics, make_context, make_outcome
from torch import Tensor

from realdataexp.config import Config, load_config
from realdataexp.designs.base import Outcome
from realdataexp.designs.pooling import Pooling
from realdataexp.designs.weighting import Weighting, classifier_metrics
from realdataexp.errors import InputError, RunError
from realdataexp.models import Batch
from realdataexp.runs.experiment import check_experiment

P = 0.25
G_RB = torch.tensor([[0.1, 0.25, 0.8], [0.5, 0.9, 0.25]])
ARMS = [[True, False, False], [False, True, False]]
RAW_C, RAW_T = (1 - G_RB) / (1 - P), G_RB / P


class Says:
    """A G that says what it is told to, and notes what happens to it."""

    def __init__(self, g_RB: Tensor) -> None:
        self.g_RB, self.calls = g_RB, []

    def predict(self, batch: Batch) -> Tensor:
        self.calls.append(("predict", batch))
        return self.g_RB

    def learn(self, batch: Batch, is_treated_RB: Tensor, is_visit_RB: Tensor, step: int) -> None:
        self.calls.append(("learn", batch, is_treated_RB, is_visit_RB, step))

    def state(self) -> dict[str, Tensor]:
        return {"g": self.g_RB}


def running(g_RB: Tensor = G_RB, **options) -> tuple[Weighting, Says]:
    g = Says(g_RB)
    return Weighting(**options).with_g(make_context(Setting(), (0, 1), p=P), g), g


def outcome(step: int = 0, last_is_padding: bool = False) -> Outcome:
    made = make_outcome(ARMS, P)
    if last_is_padding:
        made.slate.is_candidate_WBC[:, 2] = False
    object.__setattr__(made.visits, "step", step)
    return made


def test_weights_are_g_over_p_and_the_rest_over_the_rest():
    weight_RMB = running()[0].weights(outcome())
    torch.testing.assert_close(weight_RMB[:, 0], RAW_C)
    torch.testing.assert_close(weight_RMB[:, 1], RAW_T)


def test_a_g_that_knows_nothing_weighs_everything_one():
    weight_RMB = running(torch.full((2, 3), P))[0].weights(outcome())
    torch.testing.assert_close(weight_RMB, torch.ones(2, 2, 3))


def test_g_judges_the_collected_items_first_and_learns_their_arms_then():
    design, g = running()
    made = outcome(step=7, last_is_padding=True)
    design.weights(made)
    assert [c[0] for c in g.calls] == ["predict", "learn"]
    z_RB = torch.tensor(ARMS)
    choice_RB = torch.where(z_RB, made.pick_RAB[:, 1], made.pick_RAB[:, 0])
    expected = made.slate.batch.chosen(choice_RB).candidate["video_num"]
    assert torch.equal(g.calls[0][1].candidate["video_num"], expected)
    assert torch.equal(g.calls[1][1].candidate["video_num"], expected)
    assert torch.equal(g.calls[1][2], z_RB)
    assert g.calls[1][3].tolist() == [[True, True, False]] * 2
    assert g.calls[1][4] == 7


def test_while_it_warms_up_weights_are_one_and_g_learns():
    design, g = running(warmup_steps=5, max_weight=1.5)
    assert bool((design.weights(outcome(step=4)) == 1).all())
    assert g.calls[-1][0] == "learn"
    assert diagnostics(design)["clipped_share"] == 0
    torch.testing.assert_close(design.weights(outcome(step=5))[:, 0], RAW_C)


def test_max_weight_clips_and_its_share_is_told():
    design, _ = running(max_weight=1.5)
    weight_RMB = design.weights(outcome())
    torch.testing.assert_close(weight_RMB[:, 1], RAW_T.clamp_max(1.5))
    torch.testing.assert_close(weight_RMB[:, 0], RAW_C)
    assert diagnostics(design)["clipped_share"] == pytest.approx(3 / 12)


@pytest.mark.parametrize("max_weight", [None, 1.5])
def test_calibration_gives_each_model_in_each_world_the_mean_one_over_visits(max_weight):
    design, _ = running(calibration="mean", max_weight=max_weight)
    weight_RMB = design.weights(outcome(last_is_padding=True))
    raw_RMB = torch.stack([RAW_C, RAW_T], dim=1).clamp_max(max_weight or 1e9)
    expected = raw_RMB / raw_RMB[..., :2].mean(-1, keepdim=True)
    torch.testing.assert_close(weight_RMB, expected)
    if max_weight:  # what calibration changes was not clipped
        assert diagnostics(design)["clipped_share"] == pytest.approx(2 / 8)


def test_diagnostics_by_hand_leave_padding_out_and_start_anew():
    design, _ = running()
    assert diagnostics(design) == {}
    design.weights(outcome(last_is_padding=True))
    design.weights(outcome(step=1))
    figures = diagnostics(design)
    g = [0.1, 0.25, 0.5, 0.9, 0.1, 0.25, 0.8, 0.5, 0.9, 0.25]
    z = [1, 0, 0, 1, 1, 0, 0, 0, 1, 0]
    w_T = [x / P for x in g]
    w_C = [(1 - x) / (1 - P) for x in g]
    assert figures["mean_weight_T"] == pytest.approx(sum(w_T) / 10)
    assert figures["mean_weight_C"] == pytest.approx(sum(w_C) / 10)
    for model, w in (("T", w_T), ("C", w_C)):
        ess = sum(w) ** 2 / sum(x * x for x in w)
        assert figures[f"effective_share_{model}"] == pytest.approx(ess / 10)
    constant = -sum(np.log(P if x else 1 - P) for x in z) / 10
    assert figures["log_loss_of_constant"] == pytest.approx(constant)
    assert figures["log_loss"] == pytest.approx(log_loss(z, g))
    assert figures["auc"] == pytest.approx(roc_auc_score(z, g))
    assert figures["accuracy"] == pytest.approx(7 / 10)
    assert "clipped_share" not in figures
    assert diagnostics(design) == {}


def test_weights_that_are_all_zero_have_an_effective_share_of_zero():
    design, _ = running(torch.ones(2, 3))
    design.weights(outcome())
    figures = diagnostics(design)
    assert figures["effective_share_C"] == figures["mean_weight_C"] == 0.0
    assert figures["effective_share_T"] == 1.0


def plain_calibration_error(g: np.ndarray, z: np.ndarray) -> float:
    """Ten bins of [0, 1]: the sum over bins of share x |mean g - mean z|."""
    error = 0.0
    for i in range(10):
        inside = [k for k in range(len(g)) if i <= 10 * g[k] < i + 1 or (i == 9 and g[k] == 1)]
        if inside:
            gap = np.mean([g[k] for k in inside]) - np.mean([z[k] for k in inside])
            error += len(inside) / len(g) * abs(gap)
    return float(error)


@pytest.mark.parametrize("power", [1.0, 3.0], ids=["calibrated", "overconfident"])
def test_figures_of_a_classifier_are_those_of_scikit_learn_and_of_a_plain_loop(power: float):
    random = np.random.default_rng(1)
    truth = random.random(500).round(2)  # with ties
    z = (random.random(500) < truth).astype(float)
    g = truth**power / (truth**power + (1 - truth) ** power)
    figures = classifier_metrics(g, z, 0.3)
    assert figures["auc"] == pytest.approx(roc_auc_score(z, g))
    assert figures["log_loss"] == pytest.approx(log_loss(z, np.clip(g, 1e-7, 1 - 1e-7)))
    assert figures["calibration_error"] == pytest.approx(plain_calibration_error(g, z))
    assert (figures["calibration_error"] > 0.1) == (power > 1)


def test_one_arm_alone_has_no_auc():
    assert "auc" not in classifier_metrics(np.array([0.2, 0.4]), np.zeros(2), 0.3)


def test_its_state_is_that_of_g_and_its_figures():
    state = running()[0].state()
    assert state["g"] is G_RB
    assert {name.partition(".")[0] for name in state} == {"g", "since"}


def test_a_design_without_memory_goes_on_from_nothing_only():
    Pooling().load_state(Pooling().state())
    with pytest.raises(ValueError, match="seen_arms is unknown"):
        Pooling().load_state({"seen_arms": torch.zeros(1)})


# --- the config ----------------------------------------------------------------------------


def si2023_with(features: str) -> Config:
    return load_config("si2023", [f"experiment.designs=[{{name: weighting, {features}}}]"])


def test_g_may_see_any_of_the_simulated_platforms_features():
    config = si2023_with("features: [long, x9, x0]")
    assert config.experiment.designs[0].options == {"features": ("long", "x9", "x0")}
    assert check_experiment(config)


@pytest.mark.parametrize("value", ["[]", "[1]", "x0", '[""]'])
def test_features_of_g_are_a_list_of_names(value: str):
    with pytest.raises(InputError, match=r"experiment\.designs\.0\.features") as error:
        si2023_with(f"features: {value}")
    assert "\n" not in str(error.value)


def test_an_unknown_feature_of_g_is_said_with_the_nearest():
    with pytest.raises(InputError) as error:
        check_experiment(si2023_with("features: [x0, lng]"))
    said = str(error.value)
    assert said.startswith('design weighting: features.1 = "lng": ') and "\n" not in said
    assert "did you mean long?" in said and said.endswith(
        "x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, long"
    )


def test_probabilities_that_are_no_numbers_end_the_run_with_the_setting_to_lower():
    since = torch.ones(1, 2, 7, 3)
    since[:, :, 0] = torch.nan
    with pytest.raises(RunError, match=r"lower weighting\.learning_rate, which is 1e\+30"):
        Weighting(learning_rate=1e30).diagnostics({"since": since}, 0.5)
