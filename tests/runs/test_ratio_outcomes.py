"""A ratio of two outcomes in a run, against each world's visits taken one by one."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from support import GLOBAL_C, GLOBAL_T, POOLING, History, Setting, run

import realdataexp as rx
from realdataexp.config import load_config
from realdataexp.errors import InputError
from realdataexp.runs.recorder import Recorder
from realdataexp.runs.setup import check_denominators
from realdataexp.stats import analyze
from realdataexp.stats.inference import inference_table
from realdataexp.stats.performance import gte_results
from realdataexp.stats.ratios import before

BLOCKS, REPLICATIONS, LABELS = (GLOBAL_T, GLOBAL_C, POOLING), (0, 3), ("play", "click")
RATIOS = ("rate", "share")


def recorder() -> Recorder:
    kinds = ("numerical", "binary")
    return Recorder(BLOCKS, REPLICATIONS, LABELS, LABELS, kinds, 5, True, ratios=RATIOS)


@cache
def history() -> History:
    """Steps with two ratios: a play time over a length that a tenth of visits lack, and back."""
    found = run(Setting(n_candidates=5), BLOCKS, REPLICATIONS)
    for i, step in enumerate(found.steps):
        y_WBL = step.y_WBL
        g = torch.Generator().manual_seed(i)
        length_WB = 20.0 + 80.0 * torch.rand(y_WBL.shape[:2], generator=g)
        length_WB[torch.rand(y_WBL.shape[:2], generator=g) < 0.1] = torch.nan
        length_WB[~step.is_visit_WB] = torch.nan
        pairs = [y_WBL[..., 0], length_WB, length_WB, y_WBL[..., 0]]
        found.steps[i] = replace(step, y_WBL=torch.cat([y_WBL, torch.stack(pairs, -1)], -1))
    return found


@cache
def recorded() -> Recorder:
    found = recorder()
    for i, step in enumerate(history().steps):
        found.add(step)
        if i % 5 == 0:
            found.flush()
    found.flush()
    return found


@cache
def visits() -> pl.DataFrame:
    """Every visit with both parts of the first ratio, one a row."""
    rows = []
    for step in history().steps:
        for w, (design, world) in enumerate(recorded().worlds):
            r = REPLICATIONS.index(world)
            for b, user in enumerate(step.visits.user_RB[r].tolist()):
                y, x = step.y_WBL[w, b, 2:4].tolist()
                if np.isfinite(y + x):
                    rows.append((design, world, "CT"[int(step.is_treated_WB[w, b])], user, y, x))
    names = ["design", "world", "arm", "user", "y", "x"]
    return pl.DataFrame(rows, schema=names, orient="row")


def answers(methods: list[str], label: str = "rate") -> pl.DataFrame:
    outcomes = pl.concat([recorded().outcomes(), recorded().ratios()])
    units = recorded().units(None)
    return inference_table(outcomes, units, methods).filter(label=label)


def test_by_visits_it_is_what_analyze_finds_in_the_world_s_table():
    found = answers(["welch"]).filter(design="pooling")
    assert found.height == len(REPLICATIONS)
    for row in found.iter_rows(named=True):
        table = visits().filter(design="pooling", world=row["world"])
        oracle = analyze(table, arm="arm", ratios={"rate": ("y", "x")}, methods=["welch"])
        for name in ("value", "se", "p_value", "percent", "percent_low", "n_T", "n_C"):
            assert row[name] == pytest.approx(oracle[name][0], rel=1e-6), name


def test_units_move_it_as_the_delta_method_for_clusters_says():
    """Deng et al. 2018, section 3: by (sum of y - R times sum of x) / X, of each arm's users."""
    found = answers(["user_cluster"]).filter(design="pooling")
    units = recorded().units(None)
    assert units is not None
    for row in found.iter_rows(named=True):
        of_arm = {}
        for arm in "TC":
            own = visits().filter(design="pooling", world=row["world"], arm=arm)
            sums = own.group_by("user").agg(pl.col("y", "x").sum(), n=pl.len()).sort("user")
            ratio, total = sums["y"].sum() / sums["x"].sum(), sums["x"].sum()
            of_arm[arm] = ratio
            kept = units.filter(
                pl.col("design") == "pooling", pl.col("world") == row["world"],
                pl.col("arm") == arm, pl.col("label") == "rate",
            ).sort("unit")  # fmt: skip
            assert kept["unit"].to_list() == sums["user"].to_list()
            moved = (kept["sum"] - ratio * kept["n"]) / kept["n"].sum()
            expected = (sums["y"] - ratio * sums["x"]) / total
            assert moved.to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-9 * ratio)
        assert row["value"] == pytest.approx(of_arm["T"] - of_arm["C"])
        assert row["control_mean"] == pytest.approx(of_arm["C"])


def test_the_truth_is_the_ratio_of_each_world_s_sums():
    sums = visits().filter(design="global").group_by("world", "arm").agg(pl.col("y", "x").sum())
    ratio = {row[:2]: row[2] / row[3] for row in sums.iter_rows()}
    found = answers(["welch"]).filter(design="global").sort("world")
    for world, value in found.select("world", "value").iter_rows():
        assert value == pytest.approx(ratio[world, "T"] - ratio[world, "C"])
    told = gte_results(pl.concat([recorded().outcomes(), recorded().ratios()]), RATIOS)
    for arm in "TC":
        mean = np.mean([ratio[world, arm] for world in REPLICATIONS])
        assert told[f"G{arm}_rate"] == pytest.approx(mean)
    n = recorded().outcomes().filter(design="global", arm="T", label="play")["sum"].sum()
    assert told["GT_play"] == pytest.approx(n / len(REPLICATIONS))


def test_a_ratio_and_its_inverse_are_told_apart():
    rate, share = (answers(["welch"], x).filter(design="global") for x in RATIOS)
    product = rate["control_mean"] * share["control_mean"]
    assert product.to_numpy() == pytest.approx(np.ones(len(REPLICATIONS)))


def test_rows_that_were_written_and_loaded_give_the_same_ratios(tmp_path: Path):
    part, steps = recorder(), history().steps
    for i, step in enumerate(steps):
        if i == len(steps) // 2:
            files, state = part.write_rows(tmp_path), part.state()
            part = recorder()
            part.load_rows(tmp_path, json.loads(json.dumps(files)))
            part.load_state(state)
            part.check(i)
        part.add(step)
    part.flush()
    part.check(len(steps))
    assert part.ratios().sort("*").equals(recorded().ratios().sort("*"))
    one, other = part.units(None), recorded().units(None)
    assert one is not None and other is not None and one.equals(other)


def test_before_the_test_a_user_s_ratio_is_that_of_the_means():
    mean_UX = np.array([[1.0, 6.0, 3.0], [2.0, 1.0, 0.0], [3.0, np.nan, 2.0]])
    expected = np.array([[1.0, 2.0], [2.0, np.nan], [3.0, np.nan]])
    np.testing.assert_array_equal(before(mean_UX, 1), expected)
    np.testing.assert_array_equal(before(mean_UX, 0), mean_UX)


SMALL = [
    "dataset.synthetic.users=200", "dataset.synthetic.videos=80", "dataset.synthetic.rows=8000",
    "simulation.n_steps=4", "experiment.replications=4", "experiment.starts=2",
    "experiment.designs=[pooling, shadow]", "pretrain.max_rows=500", "logging.pictures=true",
]  # fmt: skip


def test_a_run_reports_a_ratio_like_any_outcome(tmp_path: Path):
    asked = [
        "derived=[{name: long, reached: [play_time_ms, duration_ms], at_most: 18000}]",
        "outcomes=[play_time, long, {name: rate, ratio: [play_time, duration_ms], unit: share}]",
    ]
    result = rx.run("demo", [*SMALL, *asked], out=tmp_path / "run")
    ours = result.comparison.filter(label="rate")
    assert ours["design"].to_list() == ["pooling", "shadow"]
    numbers = ours.select("gte", "estimate", "bias", "bias_mc_se", "sd")
    assert not any(numbers.null_count().row(0))
    assert result.units is not None
    kept = result.units.filter(pl.col("label") == "rate", pl.col("design") == "pooling")
    assert kept["covariate"].is_not_null().mean() > 0.5
    page = (tmp_path / "run" / "report.html").read_text()
    assert "rate (share)" in page and "long_auc" in page
    assert "rate (share): effect, 4" in page and "long: effect per visit, 4" in page
    foretold = result.prediction.filter(label="play_time", metric="long_auc")
    assert foretold.select("design", "arm").rows() == [
        *((design, arm) for design in ("global", "pooling", "shadow") for arm in "TC")
    ]
    assert foretold["value"].is_between(0, 1).all() and foretold["sd"].null_count() == 0
    assert foretold["difference"].null_count() == 2  # of the truth itself
    plainly = [*SMALL[:-1], "outcomes=[play_time]", "logging.pictures=false"]
    alone = rx.run("demo", plainly, out=tmp_path / "alone")
    plain = result.outcomes.filter(pl.col("label") == "play_time")
    assert plain.equals(alone.outcomes)  # what else is measured changes nothing


def test_a_denominator_below_0_is_refused():
    class Below:
        def label_values(self, target: str) -> list[np.ndarray]:
            return [np.array([1.0]), np.array([]), np.array([3.0, -0.5])]

    asked = "outcomes=[play_time, {name: rate, ratio: [click, duration_ms]}]"
    config = load_config("demo", [asked])
    with pytest.raises(InputError, match=r"outcomes\.1\.ratio\.1: 'duration_ms'.*the least -0.5"):
        check_denominators(config, Below())  # type: ignore[arg-type]
