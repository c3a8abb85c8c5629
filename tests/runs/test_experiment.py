"""What a run must have in common with its checkpoints to go on from them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from realdataexp.config import load_config
from realdataexp.errors import InputError, Warnings
from realdataexp.runs import Interrupts
from realdataexp.runs.checkpoint import Checkpoint, ForeignError, of_this_run
from realdataexp.runs.experiment import Run
from realdataexp.runs.folder import Folder, RunLog
from realdataexp.runs.life import differences, show

NAN = float("nan")


@pytest.mark.parametrize(
    ("was", "now", "found"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, [("a.b", 1, 2)]),
        ({"a": 1}, {}, [("a", 1, None)]),
        ({}, {"a": 1}, [("a", None, 1)]),
        ({"a": None}, {}, []),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, [("a.1.b", 2, 3)]),
        ({"a": [1]}, {"a": [1, 2]}, [("a", [1], [1, 2])]),
        ({"a": {}}, {"a": [1]}, [("a", {}, [1])]),
        ({"b": 1, "a": 1}, {"a": 2, "b": 2}, [("b", 1, 2), ("a", 1, 2)]),
        ([1], {"a": 1}, [("", [1], {"a": 1})]),
    ],
)
def test_differences_are_paths_with_both_values(was: Any, now: Any, found: list[Any]):
    assert differences(was, now) == found


def test_a_long_value_is_cut():
    assert show({"a": "ä"}) == '{"a": "ä"}'
    assert len(show("x" * 99)) == 60 and show("x" * 99).endswith("...")


@pytest.mark.parametrize(
    "error",
    [KeyError("a"), ValueError("a\n b"), TypeError(), RuntimeError("shape"), IndexError(),
     pl.exceptions.ComputeError("parquet")],
)  # fmt: skip
def test_a_state_that_does_not_fit_is_foreign_in_one_line(error: Exception):
    said = r"^step_5: not a state of this run: "
    with (
        pytest.raises(ForeignError, match=said) as caught,
        of_this_run(Checkpoint("step_5", {}, {})),
    ):
        raise error
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), torch.OutOfMemoryError()])
def test_what_is_not_the_states_fault_is_not_told_of_it(error: BaseException):
    with pytest.raises(type(error)), of_this_run(Checkpoint("step_5", {}, {})):
        raise error


@pytest.fixture
def begun(small_settings: Callable[..., dict[str, Any]], tmp_path: Path) -> Run:
    run = Run(load_config(small_settings()), RunLog("ERROR"), Interrupts())
    run.begin(Folder(tmp_path))
    return run


def state_of(begun: Run) -> dict[str, Any]:
    return {**begun.state("loop"), "best": {}}


def checkpoint_of(begun: Run, **changes: Any) -> Checkpoint:
    tensors = {f"recorder.{name}": t for name, t in begun.recorder.state().items()}
    return Checkpoint("step_0", tensors, state_of(begun) | changes)


def test_identity_is_the_config_and_the_data(begun: Run):
    identity = begun.identity()
    assert identity["config"] == begun.config.resolved()
    assert identity["data"] == begun.setup.environment.identity() != {}


def test_a_state_comes_back(begun: Run):
    begun.weight_metrics = {"weighting": {"auc": 0.1 + 0.2, "mean": NAN, "least": -float("inf")}}
    begun.warnings = Warnings([{"code": "a", "message": "b"}])
    begun.n_rows_pretrained = 7
    best = {"loop": {"click.auc": {"networks": "best/step_0.safetensors", "value": 0.5}}}
    saved = checkpoint_of(begun, best=best)
    begun.weight_metrics, begun.warnings, begun.n_rows_pretrained = {}, Warnings(), 0
    begun.warnings.add("c", "d")
    begun.load(saved)
    figures = begun.weight_metrics["weighting"]
    assert figures["auc"] == 0.1 + 0.2 and figures["mean"] != figures["mean"]
    assert figures["least"] == -float("inf")
    assert [w["code"] for w in begun.warnings] == ["c", "a"]
    assert begun.n_rows_pretrained == 7
    assert begun.checkpoints.best == best


def test_another_identity_is_refused_with_a_line_each(begun: Run):
    identity = {"config": begun.config.resolved() | {"seed": 5, "mode": "global"}, "data": {}}
    with pytest.raises(InputError) as caught:
        begun.load(checkpoint_of(begun, identity=identity))
    lines = str(caught.value).splitlines()
    assert f'{begun.folder}: config.mode was "global" when step_0 was made' in lines[0]
    assert "config.seed was 5 when step_0 was made and is 0" in lines[1]
    assert all(": data." in line for line in lines[2:]) and len(lines) > 2


@pytest.mark.parametrize(
    "changes",
    [
        {"phase": "x"},
        {"identity": 1},
        {"rows": {}},
        {"best": {"loop": {"a": {"networks": "step_0", "value": NAN}}}},
        {"weight_metrics": {"a": {"b": "c"}}},
        {"n_steps_done": -1},
        {"n_steps_done": 1},
        {"n_steps_validated": 1.5},
        {"warnings": [{"code": 1, "message": "x"}]},
        {"warnings": [{"other": "x"}]},
        {"clock": {"total": 1.0}},
        {"clock": {"total": 1.0, "phases": {"loop": "long"}}},
    ],
    ids=str,
)
def test_a_state_of_another_form_is_foreign(changes: dict[str, Any], begun: Run):
    with pytest.raises(ForeignError, match=r"^step_0: ") as caught:
        begun.load(checkpoint_of(begun, **changes))
    assert "\n" not in str(caught.value)
