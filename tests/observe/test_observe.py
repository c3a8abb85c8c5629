"""The command observe: on a log whose truth is known, on KuaiRand's format, and on bad input.

Axes: U users, K videos, N rows.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import yaml

from realdataexp import cli
from realdataexp.loop import Loop
from realdataexp.observe import Exposures, run
from realdataexp.observe.policies import chances_of_best
from realdataexp.observe.pool import Pool
from realdataexp.observe.support import support
from realdataexp.observe.values import NOT_COMPARABLE, of_replay, off_policy
from realdataexp.runs import results

Settings = Callable[..., dict[str, Any]]
Z = 4.9  # a normal variable is farther out with a chance of 1e-6
U, K, N_ROWS = 150, 24, 40


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots and pages are made from the tables, and take longer than all else."""
    for name in ("write_plot", "write_report"):
        monkeypatch.setattr(results, name, lambda *_: None)


# --- a log whose truth is known ------------------------------------------------------------------


class Shop:
    """Tables of users, items and views; what a view is worth depends on user and item as known."""

    def __init__(self, folder: Path, *, is_uniform: bool, propensity: object = None) -> None:
        rng = np.random.default_rng(3)
        quality_K, kind_K = rng.normal(size=K), np.arange(K) % 4
        self.mean_UK = 5 + 2 * quality_K + rng.normal(0, 0.5, (U, 1))
        odds_K = np.ones(K) if is_uniform else np.exp(-0.6 * quality_K)
        chance_K = odds_K / odds_K.sum()
        user_N = np.repeat(np.arange(U), N_ROWS)
        item_N = rng.choice(K, len(user_N), p=chance_K)
        worth_N = self.mean_UK[user_N, item_N] + rng.normal(0, 1, len(user_N))
        p_N = chance_K[item_N] if propensity is None else np.full(len(user_N), propensity)
        log = pl.DataFrame(
            {
                "user_id": user_N, "video_id": item_N, "time": np.tile(np.arange(N_ROWS), U),
                "worth": worth_N, "p": p_N,
            }
        )  # fmt: skip
        folder.mkdir()
        log.write_csv(folder / "log.csv")
        items = {"video_id": np.arange(K), "quality": quality_K, "kind": kind_K}
        pl.DataFrame(items).write_csv(folder / "items.csv")
        label = {
            "name": "worth", "target": "worth", "type": "numerical", "loss_function": "MSE",
            "model": "MLP", "model_params": {"hidden_layers": [8]},
        }  # fmt: skip
        self.config = folder / "shop.yaml"
        settings: dict[str, Any] = {
            "mode": "global",
            "dataset": {
                "name": "tables", "path": str(folder), "cache_path": str(folder / "cache"),
                "tables": {"log": ["log.csv"], "videos": "items.csv", "propensity": "p"},
            },
            "feature": {"numerical": ["quality"], "categorical": ["kind"]},
            "labels": [label],
            "arms": {"control": {"rule": "random"}, "treatment": {"score": {"worth": 1.0}}},
            "pretrain": {"batch_size": 64, "epochs": 2, "learning_rate": 0.01},
            "simulation": {"n_steps": 3, "batch_size": 64, "n_candidate": 5},
            "experiment": {"replications": 4},
        }  # fmt: skip
        self.config.write_text(yaml.safe_dump(settings))


def observed(shop: Shop, monkeypatch: pytest.MonkeyPatch, **given: Any) -> tuple[Any, Pool]:
    """What observe.json holds, and the pool that it is about."""
    pools: list[Pool] = []
    make = run.pool_of
    monkeypatch.setattr(run, "pool_of", lambda *x: pools.append(make(*x)) or pools[-1])
    folder = run.run_observation(str(shop.config), out=shop.config.parent / "out", **given)
    return json.loads((folder / "observe.json").read_text()), pools[0]


@pytest.fixture
def estimates_near() -> Callable[[dict[str, Any], float, float], None]:
    def check(row: dict[str, Any], control: float, treatment: float) -> None:
        for x, truth in (("control", control), ("treatment", treatment)):
            assert abs(row[x]["value"] - truth) < Z * row[x]["se"], (row["name"], x)
        assert row["effect"]["se"] < 0.75, row["name"]  # of an effect of about 3

    return check


def true_values(shop: Shop, pool: Pool) -> tuple[float, float]:
    """The arms' values by the known means; the control shows any video."""
    mean_UK = shop.mean_UK[np.ix_(pool.user_U, pool.video_K)]
    control, treatment = (float((c * mean_UK).sum(1).mean()) for c in pool.chance_A)
    assert control == pytest.approx(mean_UK.mean(), abs=1e-9)
    assert treatment > control + 2
    return control, treatment


def test_even_exposures_give_the_truth_and_replay_s_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimates_near: Callable[..., None]
):
    """All estimators, and replay, are within 4.9 standard errors of a truth that is known.

    MIPS by an item's kind is not: kinds say nothing of quality, so that it takes the treatment for
    no better than the control.
    """
    shop = Shop(tmp_path / "shop", is_uniform=True)
    found, pool = observed(shop, monkeypatch)
    truth = true_values(shop, pool)
    rows = {x["name"]: x for x in found["off_policy"]["outcomes"]["worth"]}
    assert list(rows) == ["random pick", "replay", "ips", "snips", "dr", "switch_dr", "mips"]
    for name in ("replay", "ips", "snips", "dr", "switch_dr"):
        estimates_near(rows[name], *truth)
    for name in ("ips", "snips", "dr"):
        error = rows[name]["error"]["effect"]
        assert error["p_value"] > 1e-6
        assert error["value"] == pytest.approx(
            rows[name]["effect"]["value"] - rows["replay"]["effect"]["value"]
        )
    assert rows["dr"]["effect"]["se"] < rows["ips"]["effect"]["se"]
    assert rows["mips"]["effect"]["value"] < 0.6 * (truth[1] - truth[0])
    weights = found["off_policy"]["weights"]
    assert weights["control"]["effective_share"] == pytest.approx(1.0, abs=0.05)
    assert 0.3 < weights["treatment"]["effective_share"] < 0.7  # C = 5 of independent ranks: 5/9
    assert weights["treatment"]["largest"] <= 5.0 + 1e-6
    assert weights["treatment"]["p_value_of_mean_1"] > 1e-6
    exposure = found["off_policy"]["exposure"]
    assert (exposure["videos"], exposure["users"]) == (K, len(pool.user_U))
    assert exposure["dispersion_p_value"] > 1e-6
    # the loop's first visits are draws of the same slates
    loop = found["loop"]["worth"]["treatment"]
    assert abs(loop["value"] - rows["replay"]["treatment"]["value"]) < Z * loop["se"] + 0.2
    assert "only KuaiRand" in found["natural_experiment"]["before_against_after"]["cannot_tell"]


def test_uneven_exposures_give_the_truth_and_say_what_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, estimates_near: Callable[..., None]
):
    shop = Shop(tmp_path / "shop", is_uniform=False)
    found, pool = observed(shop, monkeypatch, estimators=["ips", "dr", "mips"])
    truth = true_values(shop, pool)
    rows = {x["name"]: x for x in found["off_policy"]["outcomes"]["worth"]}
    for name in ("ips", "dr"):
        estimates_near(rows[name], *truth)
        assert rows[name]["error"] == {"cannot_tell": NOT_COMPARABLE}
    assert "propensities differ" in rows["mips"]["cannot_tell"]
    # replay's slates are drawn as the log was, from worse items: a value that is lower by far
    replay = rows["replay"]["control"]
    assert replay["value"] < truth[0] - 2 * Z * replay["se"]


@pytest.mark.parametrize("value", ["0", "-0.25", "1.5", "inf", "high"])
def test_a_wrong_propensity_is_one_line(value: str, tmp_path: Path, capsys):
    shop = Shop(tmp_path / "shop", is_uniform=True)
    path = tmp_path / "shop" / "log.csv"
    lines = path.read_text().splitlines()
    lines[7] = f"{lines[7].rpartition(',')[0]},{value}"
    path.write_text("\n".join(lines) + "\n")
    assert cli.main(["observe", str(shop.config), "--out", str(tmp_path / "out")]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("[")]
    assert line.startswith(f"{path}, row 8, column 'p': {value!r} is no")
    assert "mend" in line
    assert not (tmp_path / "out").exists()


def test_rows_without_a_propensity_are_left_out_and_none_at_all_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shop = Shop(tmp_path / "shop", is_uniform=True)
    path = tmp_path / "shop" / "log.csv"
    lines = path.read_text().splitlines()
    for i in range(1, len(lines), 2):
        lines[i] = f"{lines[i].rpartition(',')[0]},"
    path.write_text("\n".join(lines) + "\n")
    _, pool = observed(shop, monkeypatch, estimators=["ips"])
    assert 0.4 < len(pool.row_N) / (U * N_ROWS * 0.7 * 0.8) < 0.6
    config = yaml.safe_load(shop.config.read_text())
    del config["dataset"]["tables"]["propensity"]
    shop.config.write_text(yaml.safe_dump(config))
    folder = run.run_observation(str(shop.config), out=tmp_path / "other")
    values = json.loads((folder / "observe.json").read_text())["off_policy"]
    assert "dataset.tables.propensity" in values["cannot_tell"]
    assert [x["name"] for x in values["outcomes"]["worth"]] == ["random pick", "replay"]


# --- replay's truth without the loop -------------------------------------------------------------


def test_replay_s_value_is_the_mean_over_all_slates_of_a_user_s_rows():
    """Against every slate of 2 of 4 and of 3 rows, written down."""
    score = [np.array([3.0, 1.0, 2.0, 2.0]), np.array([0.0, 5.0, 1.0])]
    reward = [np.array([10.0, 20.0, 30.0, 50.0]), np.array([1.0, 2.0, 4.0])]
    expected = []
    for s, y in zip(score, reward, strict=True):
        slates = list(itertools.combinations(range(len(s)), 2))
        picks = [[k for k in slate if s[k] == max(s[list(slate)])] for slate in slates]
        expected.append(np.mean([y[pick].mean() for pick in picks]))
    own = [chances_of_best(s[None], np.array([2]))[0] for s in score]
    seen = Exposures(
        np.repeat([0, 1], [4, 3]), np.arange(7), np.concatenate(reward), np.full(7, 1 / 7),
        np.full((2, 7), 1 / 7),
    )  # fmt: skip
    assert of_replay(seen, np.concatenate(own)).value == pytest.approx(np.mean(expected))


# --- support -------------------------------------------------------------------------------------


def hand_pool(**changes: Any) -> Pool:
    """Two users of three videos; user 0 was shown 0 and 1, user 1 video 2."""
    own: dict[str, Any] = {
        "video_K": np.arange(3), "user_U": np.arange(2), "n_eligible": 2,
        "user_N": np.array([0, 0, 1]), "action_N": np.array([0, 1, 2]), "row_N": np.arange(3),
        "propensity_N": None, "unknown": "nobody says", "n_candidates_U": np.array([2, 1]),
        "chance_A": [np.full((2, 3), 1 / 3), np.array([[0.6, 0.3, 0.1], [0.5, 0.5, 0.0]])],
        "own_chance_A": [np.array([0.5, 0.5, 1.0])] * 2,
        "best_A": [np.array([2, 2]), np.array([0, 1])],
        "predicted_NL": np.array([[4.0], [2.0], [1.0]]),
        "value_AUL": np.array([[[2.0], [2.0]], [[3.0], [2.5]]]),
        "best_value_AUL": np.array([[[2.0], [2.0]], [[4.0], [3.0]]]),
        "categories": {},
    }  # fmt: skip
    return Pool(**(own | changes))


def test_support_of_a_log_by_hand():
    found = support(
        hand_pool(), {"y": 0}, n_candidates=2, n_visits=2, n_replayed_rows=8, share_differing=0.5,
        warnings=[{"code": "leakage", "message": "x"}, {"code": "other", "message": "y"}],
        pretrain_rows="share",
    )  # fmt: skip
    control, treatment = found["arms"]["control"], found["arms"]["treatment"]
    assert treatment["chance_logged"] == pytest.approx((0.9 + 0.0) / 2)
    assert control["chance_logged"] == pytest.approx((2 / 3 + 1 / 3) / 2)
    assert (control["best_logged"], treatment["best_logged"]) == (0.5, 0.5)
    # random: user means 3 and 1; of slates 2.75, of the pool 3.5
    assert treatment["seen_of_gain"]["y"] == pytest.approx(0.75 / 1.5)
    assert control["seen_of_gain"]["y"] is None
    assert found["share_logged"] == 0.5
    assert found["users_with_short_slates"] == 0.5 == found["users_without_choice"]
    assert found["share_of_rows_used"] == 0.25
    assert found["arms_differ_on_pool"] == 1.0
    assert [x["code"] for x in found["leaks"]] == ["leakage"]
    assert found["unseen"][-1]["measured"] == "leakage"


def test_an_outcome_without_a_known_propensity_has_replay_s_values_alone():
    found = off_policy(hand_pool(), {}, {"y": np.array([1.0, 3.0, np.nan])}, {})
    assert found["cannot_tell"] == "nobody says"
    random, replay = found["outcomes"]["y"]
    assert random["control"]["value"] == replay["treatment"]["value"] == 2.0


# --- KuaiRand's format, and the command ----------------------------------------------------------


@pytest.fixture
def small(small_settings: Settings, tmp_path: Path) -> Path:
    settings = small_settings()
    settings["simulation"] |= {"n_steps": 4, "save_every": 2, "validate_every": 2}
    settings["experiment"] = {"replications": 4}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_the_command_observes_kuairand(small: Path, tmp_path: Path, capsys):
    assert cli.main(["observe", str(small), "--out", str(tmp_path / "a"), "--quiet"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "switch_dr", "effective rows", "Standard exposures less random ones", "placebo",
        "by who ranks", "Support", "does not show effects", "observe.json",
    ):  # fmt: skip
        assert text in shown, text
    found = json.loads((tmp_path / "a" / "observe.json").read_text())
    assert found["logs"]["evaluated"] == ["random", "standard_early"]
    assert found["logs"]["all"] == ["random", "standard_early", "standard_late"]
    exposure = found["off_policy"]["exposure"]
    assert exposure["least_propensity"] == pytest.approx(1 / exposure["videos"])
    # random exposures pay less, as they were made to
    effect = found["natural_experiment"]["standard_against_random"]["effects"]["click"]
    assert effect["ci_low"] > 0
    # and the command says the same as JSON
    again = ["observe", str(small), "--out", str(tmp_path / "b"), "--json"]
    assert cli.main(again) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_an_interrupted_observation_is_resumed_to_the_same(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
):
    whole = run.run_observation(str(small), ["simulation.processes=1"], out=tmp_path / "whole")
    step = Loop.step

    def stop(self: Loop, visits: Any) -> Any:
        if visits.step == 3:
            raise KeyboardInterrupt
        return step(self, visits)

    monkeypatch.setattr(Loop, "step", stop)
    with pytest.raises(KeyboardInterrupt, match="resume it"):
        run.run_observation(str(small), ["simulation.processes=1"], out=tmp_path / "cut")
    assert not (tmp_path / "cut" / "observe.json").exists()
    monkeypatch.undo()
    assert cli.main(["resume", str(tmp_path / "cut"), "--quiet"]) == 0
    one, other = (json.loads((x / "observe.json").read_text()) for x in (whole, tmp_path / "cut"))
    assert one == other


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["si2023"], "dataset.name = 'si2023': has no log to observe: use KuaiRand, tables"),
        (["demo", "--set", "pretrain.rows=overlap"], "pretrain.rows = 'overlap': the models have"),
        (["demo", "--set", "simulation.order=time"], "simulation.order = 'time': slates of a"),
        (["demo", "--estimator", "ipss"], "did you mean ips?"),
        (["demo", "--estimator", "[ips]"], "must be a name, or {name: ..., <options>}"),
        (["demo", "--estimator", "{threshold: 1}"], "must be a name, or {name: ..., <options>}"),
        (["demo", "--estimator", "ips", "--estimator", "ips"], "ips: stands twice"),
        (
            ["demo", "--estimator", "{name: switch_dr, threshold: -1}"],
            "--estimator.threshold = -1: must be at least 0",
        ),
        (
            ["demo", "--estimator", "{name: mips, feature: tags}"],
            "mips: feature = 'tags': no categorical feature of videos; did you mean tag?",
        ),
        (["demo", "--estimator", "json:dumps"], "is not a class of realdataexp.observe.Estimator"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(arguments: list[str], said: str, tmp_path: Path, capsys):
    out = ["--out", str(tmp_path / "out")]
    assert cli.main(["observe", *arguments, *out]) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("[")]
    assert len(lines) == 1 and said in lines[0], lines
    assert not (tmp_path / "out").exists()


def test_an_arm_whose_chances_are_not_known_is_refused(tmp_path: Path, capsys):
    shop = Shop(tmp_path / "shop", is_uniform=True)
    softmax = "arms.treatment.explore={kind: softmax, temperature: 1.0}"
    asked = ["observe", str(shop.config), "--set", softmax, "--out", str(tmp_path / "out")]
    assert cli.main(asked) == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("[")]
    assert lines == [
        "arms.treatment.explore.kind = 'softmax': its chance over all slates of the pool is not "
        "known in closed form; use epsilon, or no exploration"
    ]
    assert not (tmp_path / "out").exists()


def test_an_estimator_from_outside_has_options_like_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "my_off_policy.py").write_text(
        "import numpy as np\n"
        "from realdataexp.observe import Estimator, Terms\n"
        "class Clipped(Estimator):\n"
        "    most: float = 2.0\n"
        "    def terms(self, seen):\n"
        "        weight_N = np.minimum(seen.weight_N, self.most)\n"
        "        return Terms(weight_N * seen.reward_N, np.ones_like(weight_N))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    name = "my_off_policy:Clipped"
    asked = run.Asked(estimators=[name, {"name": name, "most": 1.5}], users=2, logs=[])
    assert list(asked.named()) == [name, f"{name} (most 1.5)"]
    pool = hand_pool(propensity_N=np.full(3, 1 / 3))
    found = off_policy(pool, asked.named(), {"y": np.array([1.0, 2.0, 4.0])}, {})
    clipped, more = (x["treatment"]["value"] for x in found["outcomes"]["y"][2:])
    # weights 1.8, .9 and 0: of user 0 the mean of 1.8 and 1.8, or of 1.5 and 1.8; user 1 has 0
    assert (clipped, more) == (pytest.approx(0.9), pytest.approx(0.825))
