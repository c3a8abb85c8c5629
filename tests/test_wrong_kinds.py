"""Whatever a config names must be of the kind that is wanted there: one line, before the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from realdataexp import cli

PLACES = {
    "design": "mode",
    "listed design": "experiment.designs.0",
    "weight model": "designs.0.model",
    "model": "labels.0.model",
    "loss": "labels.0.loss_function",
    "policy": "arms.treatment.policy",
    "world": "dataset.name",
    "interval method": "experiment.intervals.0",
    "detector": "experiment.detectors.0",
    "metric": "validation.metrics.0",
    "executor": "simulation.executor",
    "tracker": "logging.trackers.0",
}
OTHERS = ("os:sep", "os:getcwd", "collections:OrderedDict")  # a text, a function, a class


def naming(kind: str, name: str, settings: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """A small config that names a component of a kind."""
    made = settings(experiment={"replications": 4, "designs": ["pooling"]})
    made["labels"] = [dict(label) for label in made["labels"]]
    changes: dict[str, dict[str, Any]] = {
        "design": {"mode": name},
        "listed design": {"experiment": {"replications": 4, "designs": [name]}},
        "weight model": {
            "experiment": {"replications": 4, "designs": [{"name": "weighting", "model": name}]}
        },
        "policy": {
            "arms": {"control": {"score": {"click": 1.0}}, "treatment": {"policy": name}},
            "labels": [
                {k: v for k, v in label.items() if not k.startswith("alpha")}
                for label in made["labels"]
                if label["name"] == "click"
            ],
        },
        "world": {"dataset": {"name": name}},
        "interval method": {"experiment": {**made["experiment"], "intervals": [name]}},
        "detector": {"experiment": {**made["experiment"], "detectors": [name]}},
        "metric": {"validation": {"metrics": [name]}},
        "executor": {"simulation": {**made["simulation"], "executor": name, "processes": 2}},
        "tracker": {"logging": {**made["logging"], "trackers": [name]}},
    }
    if kind in ("model", "loss"):
        made["labels"][0] |= {"model_params": {}} if kind == "model" else {}
        made["labels"][0]["model" if kind == "model" else "loss_function"] = name
    return made | changes.get(kind, {})


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", PLACES)
def test_what_is_of_another_kind_is_one_line_and_nothing_is_made(
    kind: str,
    name: str,
    small_settings: Callable[..., dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config, out = tmp_path / "c.yaml", tmp_path / "r"
    config.write_text(yaml.safe_dump(naming(kind, name, small_settings)))
    code = cli.main(["run", str(config), "--quiet", "--out", str(out)])
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if not line.startswith("[")]
    assert (code, len(lines)) == (2, 1), err
    assert PLACES[kind] in lines[0] and name in lines[0], err
    assert "unexpected" not in err and "Traceback" not in err
    assert not out.exists()
