"""What others bring, each in one file outside the package, and named in a config."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import processes
import pytest
import yaml
from support import assert_same_answer

from realdataexp import cli
from realdataexp.api import run
from realdataexp.config import load_config
from realdataexp.errors import InputError, Warnings
from realdataexp.runs.setup import set_up

Settings = Callable[..., dict[str, Any]]
Write = Callable[[str, str], None]

INTERVAL_METHOD = '''
import polars as pl

from realdataexp.stats.intervals import student


def over_steps(tables):
    """The arms' difference in each step as one observation: Student's t over steps."""
    means = tables.outcomes.filter(pl.col("n") > 0).with_columns(mean=pl.col("sum") / pl.col("n"))
    steps = means.pivot("arm", index=["world", "label", "step"], values="mean").drop_nulls()
    difference = pl.col("T") - pl.col("C")
    found = steps.group_by("world", "label").agg(
        value=difference.mean(), se=difference.std() / pl.len().sqrt(), n=pl.len()
    )
    cells = tables.cells.join(found, on=["world", "label"], how="left").sort("cell")
    value, se, n = (cells[name].cast(pl.Float64).to_numpy() for name in ("value", "se", "n"))
    return student(value, se, n - 1)
'''

DESIGN_WITH_MEMORY = '''
import torch
from pydantic import Field, PrivateAttr

from realdataexp.designs import Design


class EarlyVisits(Design):
    """One model; the outcome of a user's k-th visit weighs decay to the power of k - 1."""

    decay: float = Field(0.5, ge=0, le=1)

    _n_RU: torch.Tensor = PrivateAttr()

    def start(self, context):
        if context.n_users is None:
            raise context.refuse("every visit is a new user in this world")
        started = self.model_copy()
        shape = len(context.replication_R), context.n_users
        started._n_RU = torch.zeros(shape, device=context.device.torch)
        return started

    def weights(self, outcome):
        user_RB = outcome.visits.user_RB
        weight_RB = self.decay ** self._n_RU.gather(1, user_RB)
        self._n_RU.scatter_add_(1, user_RB, outcome.visits.is_visit_RB.float())
        return weight_RB.unsqueeze(1)

    def state(self):
        return {"n_visits": self._n_RU}
'''

WEIGHT_MODEL = '''
import torch

from realdataexp.models.base import restore


class Base:
    """The share that was treated so far, of each replication."""

    def __init__(self, context, options):
        n = len(context.replication_R)
        self.n_RA = torch.full((n, 2), 10.0, device=context.device.torch)

    def predict(self, batch):
        share_R1 = (self.n_RA[:, 1] / self.n_RA.sum(1)).unsqueeze(1)
        return share_R1.expand(batch.shape[:2])

    def learn(self, batch, is_treated_RB, is_visit_RB, step):
        for arm in (0, 1):
            self.n_RA[:, arm] += ((is_treated_RB == arm) & is_visit_RB).sum(1)

    def state(self):
        return {"n": self.n_RA}

    def load_state(self, tensors):
        restore(self.state(), tensors)
'''

WORLD = '''
from typing import ClassVar

from realdataexp.worlds import Simulator


class Lottery(Simulator):
    """Whoever comes gets what stands on the ticket: 0 to 1, times a factor."""

    features: ClassVar = ("number",)
    outcomes: ClassVar = ("prize",)

    factor: float = 1.0

    def items(self, u_XE):
        return u_XE

    def respond(self, item_XD, u_XE):
        return self.factor * item_XD
'''

EXECUTOR = '''
import subprocess
import sys

from realdataexp import RunError


class Commands:
    """Runs each shard by a command."""

    def start(self, shards):
        command = [sys.executable, "-m", "realdataexp.runs.executors"]
        self.own = [(shard, subprocess.Popen([*command, str(shard)])) for shard in shards]

    def watch(self):
        for shard, process in self.own:
            if process.poll() not in (None, 0) and not (shard / "error.json").exists():
                raise RunError(f"{shard}: its command is gone")

    def cancel(self):
        for _, process in self.own:
            process.kill()
            process.wait()
'''

NEW_MODEL_AGAINST_OLD = """
labels:
  - {name: old, target: is_click, type: binary, loss_function: BCE, model: Linear}
  - name: new
    target: is_click
    type: binary
    loss_function: BCE
    model: DCNv2
    model_params: {hidden_layers: [4], embedding_dim: 2}
    features: {numerical: [video_duration], categorical: [tag]}
arms:
  control: {score: {old: 1.0}}
  treatment: {score: {new: 1.0}}
outcomes:
  - {name: click, target: is_click}
  - {name: play_time, target: play_time_ms, unit: milliseconds}
"""

METRIC = """
from realdataexp.metrics import Metric


def _median_error(prediction_N, y_N):
    return (prediction_N - y_N).abs().median()


median_error = Metric(
    is_higher_better=False,
    reading="median |prediction - truth|, in the label's units",
    types=("numerical",),
    compute=_median_error,
)
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    def write(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)

    monkeypatch.syspath_prepend(tmp_path)
    return write


def small(settings: Settings, designs: list[Any], **experiment: Any) -> dict[str, Any]:
    return settings(
        experiment={"replications": 2, "designs": designs, **experiment},
        pretrain={"enabled": False},
        simulation={"n_steps": 6, "batch_size": 8, "processes": 1},
    )


def table(folder: Path, name: str = "estimates") -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


def lines(text: str) -> int:
    return len(text.strip().splitlines())


# --- an interval method ----------------------------------------------------------------------


def test_an_interval_method_of_one_s_own_stands_beside_the_others(
    write: Write, small_settings: Settings, tmp_path: Path
) -> None:
    assert lines(INTERVAL_METHOD) <= 30
    write("new_intervals", INTERVAL_METHOD)
    config = small(small_settings, ["pooling"], intervals=["new_intervals:over_steps", "block"])
    folder = run(config, out=tmp_path / "run").folder
    found = table(folder).filter(pl.col("design") == "pooling")
    assert set(found["se_method"]) == {"welch", "over_steps", "block"}
    outcomes = table(folder, "outcomes").filter(pl.col("design") == "pooling", pl.col("n") > 0)
    mean = (pl.col("sum") / pl.col("n")).alias("mean")
    for row in found.filter(pl.col("se_method") == "over_steps").iter_rows(named=True):
        own = outcomes.filter(pl.col("world") == row["world"], pl.col("label") == row["label"])
        arms = {arm: own.filter(pl.col("arm") == arm).select("step", mean) for arm in "TC"}
        steps = arms["T"].join(arms["C"], on="step")
        assert row["value"] == pytest.approx((steps["mean"] - steps["mean_right"]).mean())
        assert row["ci_low"] < row["value"] < row["ci_high"]
    result = json.loads((folder / "result.json").read_text())
    assert "over_steps" in {entry["se_method"] for entry in result["inference"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mine = 3\n", "is no function of a design's tables"),
        ("def mine(tables):\n    return 1 / 0\n", "its answer raised ZeroDivisionError"),
        ("def mine(tables):\n    return None\n", "its answer is of type NoneType; wanted"),
        (
            "from realdataexp.stats.intervals import cannot_tell\n"
            "def mine(tables):\n    return cannot_tell(1)\n",
            "its answer has value of shape (1,); wanted (4,)",
        ),
    ],
)
def test_what_is_no_interval_method_is_one_line_before_the_run(
    text: str, said: str, write: Write, small_settings: Settings
) -> None:
    name = f"odd_intervals_{abs(hash(text))}"
    write(name, text)
    config = load_config(small(small_settings, ["pooling"], intervals=[f"{name}:mine"]))
    with pytest.raises(InputError) as caught:
        set_up(config, Warnings())
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"experiment.intervals.0 = '{name}:mine': ") and said in line


def test_an_interval_method_that_fails_in_the_end_leaves_the_others_their_answers(
    write: Write, small_settings: Settings, tmp_path: Path
) -> None:
    text = "def mine(tables):\n    assert tables.design == 'rehearsal'\n    return welch(tables)\n"
    write("late_intervals", "from realdataexp.stats.inference import welch\n" + text)
    config = small(small_settings, ["pooling"], intervals=["late_intervals:mine"])
    folder = run(config, out=tmp_path / "run").folder
    assert set(table(folder)["se_method"]) == {"welch"}
    warnings = json.loads((folder / "result.json").read_text())["warnings"]
    (said,) = [x["message"] for x in warnings if x["code"] == "interval_method_failed"]
    assert "interval method 'late_intervals:mine': its answer raised AssertionError" in said


def test_two_interval_methods_of_one_name_in_tables_are_refused(small_settings: Settings) -> None:
    for methods in (["a:mine", "b:mine"], ["my_intervals:welch", "welch"]):
        with pytest.raises(InputError, match="stands for two methods in tables"):
            load_config(small(small_settings, ["pooling"], intervals=methods))


# --- a validation metric ---------------------------------------------------------------------


def test_a_metric_of_one_s_own_is_recorded_and_may_be_what_the_best_is_best_by(
    write: Write, small_settings: Settings, tmp_path: Path
) -> None:
    assert lines(METRIC) <= 20
    write("new_metrics", METRIC)
    config = small(small_settings, ["pooling"], starts=2)
    config["validation"] = {
        "metrics": ["new_metrics:median_error"], "primary_metric": "play_time.median_error",
    }  # fmt: skip
    folder = run(config, out=tmp_path / "run").folder
    found = table(folder, "metrics").filter(pl.col("split") == "validation")
    own = found.filter(pl.col("metric") == "median_error")
    others = found.filter(pl.col("metric") == "mae", pl.col("label") == "play_time")
    assert own["label"].unique().to_list() == ["play_time"] and own.height == others.height
    both = own.join(others, on=["step", "phase", "design", "world", "model"], suffix="_mae")
    assert both.height == own.height and both["n"].equals(both["n_mae"])
    assert bool((both["value"] < both["value_mae"]).all())  # play time is skewed
    index = json.loads((folder / "checkpoints" / "index.json").read_text())
    assert index["primary_metric"] == "play_time.median_error"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("mine = 3\n", "is no realdataexp.metrics.Metric with a compute"),
        ("mine = Metric(True, compute=lambda x, y: 1 / 0)\n", "compute() raised ZeroDivisionError"),
        ("mine = Metric(True, compute=lambda x, y: x)\n", "compute() returned a float64 tensor"),
    ],
)
def test_what_is_no_metric_is_one_line_before_the_run(
    text: str, said: str, write: Write, small_settings: Settings
) -> None:
    name = f"odd_metrics_{abs(hash(text))}"
    write(name, f"from realdataexp.metrics import Metric\n{text}")
    config = small(small_settings, ["pooling"]) | {"validation": {"metrics": [f"{name}:mine"]}}
    with pytest.raises(InputError) as caught:
        set_up(load_config(config), Warnings())
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"validation.metrics.0 = '{name}:mine': ") and said in line


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        (["auc"], "auc is computed for every label that it fits: leave it out"),
        (["mine:auc"], "auc stands for two metrics in tables"),
        (["a:mine", "b:mine"], "mine stands for two metrics in tables"),
        (["median"], "unknown metric"),
    ],
)
def test_metrics_that_tables_cannot_tell_apart_are_refused(
    metrics: list[str], said: str, small_settings: Settings
) -> None:
    config = small(small_settings, ["pooling"]) | {"validation": {"metrics": metrics}}
    with pytest.raises(InputError, match=rf"validation\.metrics.*{said}"):
        load_config(config)


# --- a loss ----------------------------------------------------------------------------------


def test_a_loss_says_which_types_of_labels_it_fits(write: Write, small_settings: Settings) -> None:
    text = "from dataclasses import replace\nfrom realdataexp.models.losses import MSE\n"
    write("new_losses", text + "mine = replace(MSE, types=('binary',))\n")
    config = small(small_settings, ["pooling"])
    first, *others = config["labels"]
    config["labels"] = [{**first, "loss_function": "new_losses:mine"}, *others]
    with pytest.raises(InputError) as caught:
        set_up(load_config(config), Warnings())
    assert str(caught.value) == (
        "labels.0.loss_function = 'new_losses:mine': is for labels of type binary, and "
        "labels.0.type is numerical; use another loss"
    )


# --- a design with memory, a weight model ----------------------------------------------------


def test_a_design_with_memory_runs_and_forgets_nothing(
    write: Write, small_settings: Settings, tmp_path: Path
) -> None:
    """Without decay it is pooling to the bit; with it, what its users did before counts."""
    assert lines(DESIGN_WITH_MEMORY) <= 60
    write("new_designs", DESIGN_WITH_MEMORY)
    name = "new_designs:EarlyVisits"
    own = [{"name": name, "label": f"{decay}", "decay": decay} for decay in (1.0, 0.0)]
    folder = run(small(small_settings, ["pooling", *own]), out=tmp_path / "run").folder
    found = table(folder, "metrics").filter(pl.col("metric") == "loss")
    of = {x: rows.drop("design") for (x,), rows in found.group_by(["design"], maintain_order=True)}
    assert of["1.0"].height and of["1.0"].equals(of["pooling"])
    assert not of["0.0"].equals(of["pooling"])


def test_a_weight_model_is_named_in_the_options_of_weighting(
    write: Write, small_settings: Settings, tmp_path: Path
) -> None:
    write("new_weights", WEIGHT_MODEL)
    designs = [{"name": "weighting", "model": "new_weights:Base"}]
    result = run(small(small_settings, designs), out=tmp_path / "run").summary
    figures = result["weights"]["weighting"]
    assert figures["auc"] == pytest.approx(0.5, abs=0.1)
    assert figures["mean_weight_T"] == pytest.approx(1.0, abs=0.2)


def test_a_weight_model_that_says_what_it_must_not_is_one_line(
    write: Write, small_settings: Settings
) -> None:
    write("odd_weights", WEIGHT_MODEL.replace("return share_R1.expand", "return -share_R1.expand"))
    designs = [{"name": "weighting", "model": "odd_weights:Base"}]
    with pytest.raises(InputError) as caught:
        set_up(load_config(small(small_settings, designs)), Warnings())
    (line,) = str(caught.value).splitlines()
    assert line.startswith("experiment.designs.0.model = 'odd_weights:Base': weights() returned")


# --- a world ---------------------------------------------------------------------------------


def test_a_world_of_one_s_own_has_the_effect_that_follows_from_it(
    write: Write, tmp_path: Path
) -> None:
    """The greatest of four uniform numbers less the least is 3/5 on average."""
    assert lines(WORLD) <= 80
    write("new_world", WORLD)
    label = {"name": "prize", "target": "prize", "type": "numerical", "loss_function": "MSE",
             "model": "Linear", "alpha_T": 1.0, "alpha_C": -1.0}  # fmt: skip
    found = run(
        {
            "dataset": {"name": "new_world:Lottery", "factor": 10.0},
            "labels": [label],
            "pretrain": {"batch_size": 256, "learning_rate": 0.05},
            "simulation": {"n_steps": 20, "batch_size": 32, "n_candidate": 4, "processes": 1},
            "experiment": {"replications": 4, "designs": ["pooling", "oracle"]},
            "logging": {"pictures": False},
        },
        out=tmp_path / "run",
    )
    n, sd = 20 * 32 * 4, 10 * 0.26  # of the greatest less the least of four
    for row in found.comparison.iter_rows(named=True):
        assert row["gte"] == pytest.approx(6.0, abs=6 * sd / n**0.5)
        assert row["estimate"] == pytest.approx(row["gte"], abs=12 * sd / n**0.5)


# --- an executor -----------------------------------------------------------------------------


def settings_of_two_shards(small_settings: Settings) -> dict[str, Any]:
    """The settings of a run that two shards share."""
    made = small(small_settings, ["pooling", "weighting"], replications=4)
    made["pretrain"] = {"batch_size": 1024, "epochs": 1}
    made["simulation"] |= {"processes": 2, "save_every": 3, "validate_every": 3}
    return made


@pytest.fixture
def sharded(small_settings: Settings) -> dict[str, Any]:
    return settings_of_two_shards(small_settings)


@pytest.fixture(scope="module")
def in_one(small_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that run in one piece: do not change it."""
    alone = settings_of_two_shards(small_settings)
    alone["simulation"]["processes"] = 1
    return run(alone, out=tmp_path_factory.mktemp("in_one") / "run").folder


def test_an_executor_of_one_s_own_runs_shards_from_their_folders_alone(
    write: Write,
    sharded: dict[str, Any],
    in_one: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert lines(EXECUTOR) <= 120
    write("new_executor", EXECUTOR)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    sharded["simulation"]["executor"] = "new_executor:Commands"
    assert_same_answer(run(sharded, out=tmp_path / "run").folder, in_one)


FAULTY_EXECUTORS = """
import shutil


class Doubled(Commands):
    def start(self, shards):
        shutil.copy(shards[0] / "shard.json", shards[1] / "shard.json")
        super().start(shards)


class Lost(Commands):
    def start(self, shards):
        shutil.rmtree(shards[1])
        super().start([])


class Broken(Commands):
    def start(self, shards):
        raise ValueError("no queue\\nof this name")

    def cancel(self):
        pass
"""


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("Doubled", 2, "shards: replication 0, 1 is in two shards; each must be in one: resume"),
        ("Lost", 2, "the shard is gone; resume the run"),
        ("Broken", 1, "start() raised ValueError: no queue ("),
    ],
)
def test_a_faulty_executor_ends_the_run_in_one_line_and_nothing_is_lost(
    name: str,
    code: int,
    said: str,
    write: Write,
    sharded: dict[str, Any],
    in_one: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = f"faulty_executor_{name}"
    write(module, EXECUTOR + FAULTY_EXECUTORS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr(subprocess, "Popen", processes.Popen)
    sharded["simulation"]["executor"] = f"{module}:{name}"
    config, out = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(sharded))
    assert cli.main(["run", str(config), "--quiet", "--out", str(out)]) == code
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("[")]
    assert said in line and "unexpected" not in line
    kept = (out / "config.yaml").read_text()
    (out / "config.yaml").write_text(kept.replace(f"{module}:{name}", "local"))
    assert cli.main(["resume", str(out), "--quiet"]) == 0
    assert_same_answer(out, in_one)


# --- a new model against an old one ----------------------------------------------------------


def test_a_new_model_against_an_old_one_is_a_config(
    small_settings: Settings, tmp_path: Path
) -> None:
    own = yaml.safe_load(NEW_MODEL_AGAINST_OLD)
    settings = small(small_settings, ["pooling", "splitting"]) | own
    settings["pretrain"] = {"batch_size": 256}
    folder = run(settings, out=tmp_path / "run").folder
    comparison = json.loads((folder / "result.json").read_text())["comparison"]
    assert [x["label"] for x in comparison] == ["click", "play_time"] * 2
    assert all(x["gte"] != 0 for x in comparison)
    networks = table(folder, "metrics").filter(pl.col("metric") == "auc", phase="loop")
    rows = networks.filter(design="splitting").select("label", "model").unique().rows()
    assert sorted(rows) == [("new", "T"), ("old", "C")]
