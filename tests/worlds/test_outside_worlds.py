"""Worlds from outside the package: each in one file, with the rights of a built-in one."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest
import torch
from market_world import Market
from torch import Tensor

import realdataexp
from realdataexp import cli
from realdataexp.api import plan, run
from realdataexp.config import load_config
from realdataexp.config.dataset import DatasetConfig, any_dataset
from realdataexp.errors import InputError, RunError, Warnings
from realdataexp.loop import Loop
from realdataexp.registry import names
from realdataexp.runs.experiment import resume_experiment
from realdataexp.runs.setup import set_up
from realdataexp.worlds import (
    SimulatedEnvironment,
    SimulatedWorld,
    Simulator,
    World,
    WorldConfig,
    world_of,
)

HERE = Path(__file__).parent
LABELS = {
    "market_world:Market": [
        ("bought", "binary", "BCE", 0.0, 1.0), ("paid", "numerical", "MSE", 1.0, 0.0),
    ],
    "village_world:Village": [("click", "binary", "BCE", -1.0, 1.0)],
}  # fmt: skip


def settings(name: str, labels: str = "", **options: Any) -> dict[str, Any]:
    """A small test in a world from outside."""
    return {
        "mode": "compare",
        "dataset": {"name": name, **options},
        "labels": [
            {"name": x, "target": x, "type": kind, "loss_function": loss, "alpha_T": t,
             "alpha_C": c, "model_params": {"hidden_layers": []}}
            for x, kind, loss, t, c in LABELS[labels or name]
        ],
        "pretrain": {"batch_size": 512},
        "simulation": {"n_steps": 12, "batch_size": 8, "processes": 1, "n_candidate": 4,
                       "save_every": 5, "validate_every": 5},
        "experiment": {"replications": 3, "designs": ["pooling", "splitting", "oracle"]},
        "logging": {"pictures": False},
    }  # fmt: skip


def tables(folder: Path) -> dict[str, pl.DataFrame]:
    return {x: pl.read_parquet(folder / f"{x}.parquet") for x in ("outcomes", "estimates")}


# --- a market: two functions ----------------------------------------------------------------------


@pytest.mark.parametrize("file", ["market_world.py", "village_world.py"])
def test_a_world_is_one_file_of_at_most_80_lines(file: str):
    assert len((HERE / file).read_text().splitlines()) <= 80


def test_every_command_takes_a_world_from_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config, out = tmp_path / "market.json", str(tmp_path / "out")
    config.write_text(json.dumps(settings("market_world:Market", max_price=5.0)))
    for args, said in (
        (["validate"], "market.json: ok\n"),
        (["doctor"], "made by realdataexp: no files needed"),
        (["run", "--dry-run"], "market_world:Market: 20,000 pretraining rows"),
        (["run", "--quiet", "--out", out], "truth"),
    ):
        assert cli.main([args[0], str(config), *args[1:]]) == 0
        assert said.lower() in capsys.readouterr().out.lower(), args
    assert cli.main(["report", out]) == 0
    assert cli.main(["resume", out]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["config"]["dataset"]["max_price"] == 5.0
    assert result["dataset_stats"]["n_pretrain_rows"] == 20_000


def test_a_plan_takes_a_world_from_outside(tmp_path: Path):
    table = plan(settings("market_world:Market"), p=0.5, steps=[4, 8], out=tmp_path / "plan")
    assert set(table["label"]) == {"bought", "paid"}


def test_a_worlds_options_act(tmp_path: Path):
    paid = []
    for price in (5.0, 10.0):
        run(settings("market_world:Market", max_price=price), out=tmp_path / str(price))
        outcomes = tables(tmp_path / str(price))["outcomes"]
        known = (pl.col("label") == "paid") & (pl.col("design") == "global")
        paid.append(outcomes.filter(known & (pl.col("step") == 0))["sum"].sum())
    assert paid[1] > paid[0] > 0


# --- a village: a memory --------------------------------------------------------------------------


def interrupted(own: dict[str, Any], out: Path) -> Path:
    """A run of 12 steps that was interrupted in its ninth."""
    step, n = Loop.step, 0

    def stop(*args: Any) -> Any:
        nonlocal n
        n += 1
        if n == 9:
            raise KeyboardInterrupt
        return step(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(own, out=out)
    return out


def test_a_world_with_a_memory_resumes_as_if_it_had_not_been_stopped(tmp_path: Path):
    own = settings("village_world:Village", n_users=9)
    run(own, out=tmp_path / "whole")
    resume_experiment(interrupted(own, tmp_path / "stopped"))
    whole = tables(tmp_path / "whole")
    for name, table in tables(tmp_path / "stopped").items():
        assert table.equals(whole[name]), name


def test_a_resumed_run_says_where_its_worlds_module_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    interrupted(settings("market_world:Market"), tmp_path / "out")
    file = tmp_path / "out" / "config.yaml"
    places = json.loads((tmp_path / "out" / "places.json").read_text())
    assert places["modules"] == {"market_world": str(HERE)}
    places["modules"] = {"gone_world": "/somewhere"}
    (tmp_path / "out" / "places.json").write_text(json.dumps(places))
    file.write_text(file.read_text().replace("market_world:", "gone_world:"))
    assert cli.main(["resume", str(tmp_path / "out")]) == 2
    assert "set PYTHONPATH=/somewhere" in capsys.readouterr().err


# --- wrong worlds ---------------------------------------------------------------------------------


def changed(**methods: Any) -> type[Market]:
    """A market with other methods."""
    return type("Changed", (Market,), {"__module__": __name__, **methods})


def opened(environment: dict[str, Any] | None = None, world: dict[str, Any] | None = None) -> Any:
    """A market whose environment or world has other methods."""
    of_world = type("OtherWorld", (SimulatedWorld,), world or {})

    def make(self: Any, targets: Any, asked: Any) -> Any:
        return of_world(self.simulator, targets, asked, self.device)

    of_environment = type("Other", (SimulatedEnvironment,), {"world": make, **(environment or {})})

    def open(self: Any, config: Any, device: Any, warnings: Any) -> Any:
        return of_environment(self, config.seed, device)

    return changed(open=open)


def fail(*_: Any) -> Any:
    raise ValueError("no\nmarket")


def not_a_world() -> None:
    """A function."""


class NoFunctions(Simulator):
    """Without items and respond."""

    features: ClassVar = ("x",)
    outcomes: ClassVar = ("bought", "paid")


class Nameless(Market):
    """Without names of outcomes."""

    outcomes = Simulator.outcomes


class HalfAWorld(World):
    """Without slates."""

    def draw(self, step: int) -> Any:
        return None


def _visits(change: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda self, step: change(SimulatedWorld.draw(self, step))


def _slate(change: Callable[[Any], Any]) -> Callable[..., Any]:
    return lambda self, visits: change(SimulatedWorld.slate(self, visits))


def _answer(change: Callable[[Tensor], Any]) -> Callable[..., Any]:
    return lambda self, *args: change(SimulatedWorld.feedback(self, *args))


TwoColumns = changed(items=lambda self, u: u[..., :2], respond=lambda self, x, u: u)
OneOutcome = changed(respond=lambda self, x, u: (u[..., :1] > 0.5).float())
Whole = changed(respond=lambda self, x, u: (u > 0.5).long())
Random = changed(respond=lambda self, x, u: torch.rand_like(u).round())
Failing = changed(respond=fail)
Leaving = changed(items=lambda self, u: exit(3))
OpenFails = changed(open=fail)
OpensNothing = changed(open=lambda *_: None)
SaysNumbers = changed(doubts=lambda *_: [1])
SaysAText = changed(faults=lambda *_: "none")
NoWorld = opened({"world": lambda *_: None})
Half = opened({"world": lambda *_: HalfAWorld()})
NoRows = opened({"pretraining": lambda *_: []})
NoValues = opened({"label_values": lambda *_: [[1.0]]})
NoHeldOut = opened({"held_out": lambda *_: ()})
WrongHistory = opened({"history": lambda *_: np.zeros((3, 1))})
NoVisits = opened(world={"draw": lambda *_: None})
ArmsOfOne = opened(world={"draw": _visits(lambda v: replace(v, arm_draw_RB=v.arm_draw_RB[:1]))})
UsersAsFloats = opened(world={"draw": _visits(lambda v: replace(v, user_RB=v.user_RB.float()))})
NarrowSlate = opened(
    world={"slate": _slate(lambda s: replace(s, batch=s.batch.visits(torch.arange(3))))}
)
NotANumber = opened(
    world={"slate": _slate(lambda s: (s.batch.candidate["video_num"].fill_(float("nan")), s)[1])}
)
FlatAnswer = opened(world={"feedback": _answer(lambda y: y[..., 0])})
ListedState = opened(world={"state": lambda self: [1]})

WRONG = {
    "not_a_world": "must be a subclass of realdataexp.worlds.WorldConfig, not a function",
    "NotThere": "has no 'NotThere'",
    "NoFunctions": "Can't instantiate abstract class NoFunctions",
    "Nameless": "faults() raised",
    "TwoColumns": "wanted a float tensor of shape",
    "NotANumber": "NaN; wanted finite numbers",
    "OneOutcome": "read() of pretraining() raised IndexError",
    "Whole": "wanted a float tensor",
    "Random": "the second time: draw with realdataexp.draws",
    "Failing": "read() of pretraining() raised ValueError: no (",
    "Leaving": "raised SystemExit",
    "OpenFails": "open() raised ValueError: no (",
    "OpensNothing": "open() returned None; wanted Environment",
    "SaysAText": "faults() returned an object of type str; wanted a list of texts",
    "SaysNumbers": "doubts() returned an object of type list; wanted a list of codes with",
    "NoWorld": "world() returned None; wanted World",
    "Half": "Can't instantiate abstract class HalfAWorld",
    "NoRows": "whose n_rows is no whole number",
    "NoValues": "label_values() returned an object of type list; wanted ndarray",
    "NoHeldOut": "held_out() returned an object of type tuple; wanted HeldOut",
    "WrongHistory": "history() returned shape (3, 1); wanted users, 2 labels",
    "NoVisits": "draw() returned None; wanted Visits",
    "ArmsOfOne": "(replications, visits)",
    "UsersAsFloats": "wanted an int tensor",
    "NarrowSlate": "slate() returned",
    "FlatAnswer": "(worlds, visits, labels)",
    "ListedState": "state() returned an object of type list; wanted dict",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_world_is_one_line_before_the_run(name: str):
    own = settings(f"{__name__}:{name}", "market_world:Market")
    own["experiment"]["designs"] = ["pooling"]
    with pytest.raises(InputError) as caught:
        set_up(load_config(own, ["device=cpu"]), Warnings())
    (line,) = caught.value.faults
    assert WRONG[name] in line, line
    assert f"dataset.name = '{__name__}:{name}'" in line.replace('"', "'")


POPULARITY = {
    "Market": (None, "rule = 'most_popular': every item of this world is new"),
    "Listed": (lambda *_: [1.0], "popularity() returned an object of type list; wanted ndarray"),
    "Table": (lambda *_: np.ones((9, 1)), "returned float64 of shape (9, 1); wanted a finite numb"),
    "Unknown": (lambda *_: np.full(99, np.nan), "wanted a finite number for each video"),
    "Growing": (lambda _, start: np.ones(99 + start), "100 videos for start 1 and of 99 for start"),
    "Half": (lambda _, start: None if start else np.ones(99), "None videos for start 1"),
    "Short": (lambda *_: np.ones(31), "slate() showed video 31; popularity() numbers only 31"),
    "Right": (lambda *_: np.arange(99), ""),
}


@pytest.mark.parametrize("name", POPULARITY)
def test_a_rule_by_popularity_asks_the_world_or_is_a_line(name: str):
    popularity, said = POPULARITY[name]
    globals()[f"{name}Popularity"] = opened({"popularity": popularity} if popularity else {})
    own = settings(f"{__name__}:{name}Popularity", "market_world:Market")
    own["labels"] = [
        {k: v for k, v in label.items() if not k.startswith("alpha")} for label in own["labels"]
    ]
    own["arms"] = {
        "control": {"rule": "most_popular"},
        "treatment": {"score": {"paid": 1.0, "bought": 1.0}},
    }
    own["experiment"] = {"replications": 2, "starts": 2, "designs": ["pooling"]}
    if not said:
        set_up(load_config(own, ["device=cpu"]), Warnings())
        return
    with pytest.raises(InputError) as caught:
        set_up(load_config(own, ["device=cpu"]), Warnings())
    (line,) = caught.value.faults
    assert said in line


def test_what_a_wrong_world_says_of_its_size_is_a_line():
    globals()["Sized"] = changed(sizes=lambda self: [("dataset.x", 1, 0)])
    own = load_config(settings(f"{__name__}:Sized", "market_world:Market"))
    with pytest.raises(InputError, match=r"Sized': sizes\(\) returned .* what is usual"):
        world_of(own).sizes()


def test_a_world_that_fails_later_ends_the_run_with_one_line(tmp_path: Path):
    def late(self: Any, step: int) -> Any:
        return SimulatedWorld.draw(self, step) if step < 7 else fail()

    globals()["Late"] = opened(world={"draw": late})
    with pytest.raises(RunError, match=r"Late': draw\(\) raised ValueError: no .*after 7 of 12"):
        run(settings(f"{__name__}:Late", "market_world:Market"), out=tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_price": -1.0}, "dataset.max_price = -1.0: must be more than 0 (of an item)"),
        ({"max_prize": 1.0}, "dataset.max_prize: unknown key; did you mean max_price?"),
        ({"path": "data"}, "is generated and has no folder: leave it out"),
        ({"logs": ["random"]}, "dataset.logs: has no effect on the data set market_world:Market"),
    ],
)
def test_a_wrong_option_of_a_world_is_a_line(options: dict[str, Any], said: str):
    with pytest.raises(InputError) as caught:
        load_config(settings("market_world:Market", **options))
    (line,) = caught.value.faults
    assert said in line


def test_a_target_that_is_no_outcome_is_a_line():
    with pytest.raises(InputError, match=r"labels.1.target = 'pay': .* bought, paid"):
        set_up(load_config(settings("market_world:Market"), ["labels.1.target=pay"]), Warnings())


# --- nothing but a world's own file asks what it is -----------------------------------------------

OWN = {
    "registry.py", "configs/__init__.py", "data/synthetic.py", "data/tables.py",
    "worlds/kuairand.py", "worlds/si2023.py", "worlds/tables.py", "worlds/sequences.py",
    "sequences/formats.py",
}  # fmt: skip


def test_no_name_of_a_data_set_stands_outside_its_own_file():
    package = Path(realdataexp.__file__).parent
    own_keys = any_dataset().model_fields.keys() - DatasetConfig.model_fields.keys()
    found = []
    for file in package.rglob("*.py"):
        place = file.relative_to(package).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            is_name = isinstance(node, ast.Constant) and node.value in names("world")
            is_key = (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Attribute)
                and node.value.attr == "dataset"
                and node.attr in own_keys
            )
            if (is_name or is_key) and place not in OWN:
                found.append(f"{place}:{node.lineno}")
    assert found == []
    assert all(issubclass(type(load_config(x).dataset), WorldConfig) for x in ("demo", "si2023"))
