"""What a sweep asks for: grids, zips and listed points, and the config of each point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from realdataexp.config import load_config
from realdataexp.config.points import Asked, complete, load_points
from realdataexp.errors import InputError


def asked(*ways: tuple[str, str]) -> list[dict[str, Any]]:
    found = Asked()
    for way, text in ways:
        found.add_texts(way, [text])  # type: ignore[arg-type]
    return found.points()


def faults(source: Any, points: list[dict[str, Any]], *overrides: str, **given: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_points(source, points, overrides, **given)
    return list(caught.value.faults)


def test_a_grid_is_a_product_and_a_zip_goes_in_lockstep():
    points = asked(("grid", "a=1,2"), ("zip", "b=x,y"), ("zip", "c=0.5,1e-3"))
    assert points == [
        {"a": a, "b": b, "c": c} for a in (1, 2) for b, c in (("x", 0.5), ("y", 0.001))
    ]


def test_values_are_yaml():
    (point,) = asked(("grid", "a=[pooling, {name: splitting, normalize: false}]"))
    assert point == {"a": ["pooling", {"name": "splitting", "normalize": False}]}
    assert [x["a"] for x in asked(("grid", "a=null,true,'x, y',-1"))] == [None, True, "x, y", -1]


def test_a_file_asks_for_the_same(tmp_path: Path):
    path = tmp_path / "points.yaml"
    path.write_text("grid: {a: [1, 2]}\nzip: {b: [3, 4], c: [5, 6]}\npoints: [{d: 7}, {e: 8}]\n")
    found = Asked()
    found.add_file(path)
    points = found.points()
    assert len(points) == 2 * 2 * 2
    assert points[:2] == [{"a": 1, "b": 3, "c": 5, "d": 7}, {"a": 1, "b": 3, "c": 5, "e": 8}]


def test_arrays_are_lists_of_plain_numbers():
    found = Asked()
    found.add("grid", {"a": np.array([1, 2])}, "grid: ")
    assert [type(point["a"]) for point in found.points()] == [int, int]


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        ([], "nothing varies: pass --grid KEY=a,b,c, --zip or --from FILE.yaml"),
        ([("grid", "a")], "--grid a: must be KEY=a,b,c"),
        ([("grid", "a=")], "--grid a=: must be KEY=a,b,c"),
        ([("grid", "=1")], "--grid =1: must be KEY=a,b,c"),
        ([("grid", "a=1,[2")], "--grid a: line 1, column 7: not YAML"),
        ([("grid", "a=1"), ("zip", "a=2")], "--zip a: stands more than once"),
        ([("zip", "a=1,2"), ("zip", "b=1")], "zip: its lists must be equally long: a has 2, b has"),
        (
            [("grid", f"k{i}=1,2,3,4,5,6,7,8,9,0") for i in range(5)],
            "100,000 points: at most 10,000",
        ),
    ],
)
def test_what_cannot_be_asked_is_one_line(ways: list[tuple[str, str]], said: str):
    with pytest.raises(InputError) as caught:
        asked(*ways)
    (fault,) = caught.value.faults
    assert said in fault


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("grid: [1]", "grid = [1]: must be a section of settings"),
        ("gird: {a: [1]}", "gird: unknown key; did you mean grid?"),
        ("grid: {a: 1}", "grid.a = 1: "),
        ("points: [{}]", "points.0 = {}: must be values by their keys"),
        ("grid: {a: []}", "grid.a = []: must be a list of values"),
        ("3", "must hold grid, zip or points, not one 3"),
        ("grid: {a: [1]}\ngrid: {b: [1]}", "key grid is given twice"),
        ("grid: {a: [1]}\npoints: [{a: 2}]", "a: stands in points and in grid or zip"),
    ],
)
def test_a_file_that_asks_for_nothing_that_can_be_is_one_line(text: str, said: str, tmp_path: Path):
    path = tmp_path / "points.yaml"
    path.write_text(text)
    found = Asked()
    with pytest.raises(InputError) as caught:
        found.add_file(path)
        found.points()
    (fault,) = caught.value.faults
    assert said in fault
    with pytest.raises(InputError, match="no such file"):
        found.add_file(tmp_path / "other.yaml")


def test_a_python_grid_of_no_lists_is_refused():
    for given in ("pooling", 3, {"a": 1}, []):
        with pytest.raises(InputError, match=r"grid: mode = .*: must be a list of values"):
            Asked().add("grid", {"mode": given}, "grid: ")


# --- the configs -----------------------------------------------------------------------------


def test_a_points_config_is_that_of_the_same_overrides():
    points = [{"labels.click.alpha_T": 2, "global.n_steps": n} for n in (5, 6)]
    shared, configs = load_points("demo", points, ["experiment.replications=3"], seed=4)
    for point, config in zip(points, configs, strict=True):
        own = [f"{key}={value}" for key, value in point.items()]
        own.append("logging.pictures=false")
        assert config == load_config("demo", ["experiment.replications=3", *own], seed=4)
    assert load_points(shared, points)[1] == configs


def test_every_fault_of_every_point_is_a_line_that_says_which_points_have_it():
    points = [{"seed": seed, "simulation.n_steps": n} for seed in (-1, 0) for n in (0, 5, 6)]
    assert sorted(faults("demo", points, "experiment.replication=3")) == [
        "--set: experiment.replication: unknown key; did you mean replications?",
        "sweep: seed = -1: must be at least 0 (seed of every random draw) (points 0, 1, 2)",
        "sweep: simulation.n_steps = 0: must be at least 1 (steps of the loop; with 0 nothing "
        "happens) (points 0, 3)",
    ]
    (said,) = faults("demo", [{"labels.clik.alpha_T": x} for x in (1, 2)])
    assert said.startswith("sweep labels.clik.alpha_T: no item clik; did you mean click?")


def test_points_that_are_the_same_are_refused():
    points = [{"labels.click.alpha_T": x} for x in (1, 2, 1.0)]
    assert faults("demo", points) == [
        "sweep: labels.click.alpha_T = 1.0: the same as another point (point 2)"
    ]


def test_a_setting_that_every_point_replaces_has_no_effect():
    points: list[dict[str, Any]] = [{"seed": 1}, {"seed": 2, "simulation.n_steps": 5}]
    load_points("demo", points, ["simulation.n_steps=7"])  # some keep it
    assert faults("demo", points, "seed=3") == [
        "--set seed: has no effect, as the sweep varies seed: leave it out"
    ]
    (said,) = faults("demo", points, seed=0)
    assert said.startswith("--seed: has no effect")


def test_a_key_that_a_listed_point_leaves_has_the_configs_own_value():
    points: list[dict[str, Any]] = [
        {"seed": 3},
        {"labels.click.alpha_T": 2.0},
        {"experiment.designs": ["shadow"]},
    ]
    configs = load_points("demo", points)[1]
    values = complete(points, configs)
    assert values["seed"] == [3, 0, 0]
    assert values["labels.click.alpha_T"] == [0.0, 2.0, 0.0]
    assert values["experiment.designs"][2] == ["shadow"]
    assert values["experiment.designs"][0][:2] == ["pooling", "snapshot"]
