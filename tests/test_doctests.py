"""The examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from realdataexp.runs import results

EXAMPLES = {
    "realdataexp.api": ("Result", "run", "plan", "sweep", "load_model"),
    "realdataexp.config.load": ("load_config",),
    "realdataexp.draws": ("uniform", "below", "choose"),
    "realdataexp.stats.analysis": ("analyze",),
    "realdataexp.stats.estimates": (
        "world_estimates",
        "between_worlds",
        "mean_over_worlds",
        "relative_effects",
    ),
    "realdataexp.stats.performance": (
        "binomial_interval",
        "gte_results",
        "judge",
        "minimum_detectable_effect",
    ),
    "realdataexp.stats.intervals": ("adjust",),
    "realdataexp.stats.relative": ("relative",),
    "realdataexp.stats.clustered": ("confidence_sequence",),
}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _soon_trained(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, of starting models that saw a fortieth of the platform's rows."""

    def call(config: str, overrides: Sequence[str], **more: Any) -> Any:
        return function(config, [*overrides, "dataset.si2023.pretrain_rows=500"], **more)

    return call


@pytest.mark.parametrize(
    ("module", "name"), [(m, n) for m, names in EXAMPLES.items() for n in names]
)
def test_the_example_is_true(
    module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # examples write run folders
    for drawn in ("write_plot", "write_report"):  # no example looks at these
        monkeypatch.setattr(results, drawn, lambda folder: None)
    there = importlib.import_module(module)
    names = dict(vars(there))
    if module == "realdataexp.api":
        names |= {x: _soon_trained(names[x]) for x in ("run", "plan", "sweep")}
    found = doctest.DocTestFinder(recurse=False).find(
        getattr(there, name), name, there, globs=names
    )
    assert sum(len(test.examples) for test in found) > 0, "has no example"
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    for test in found:
        runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)


def test_every_example_of_these_modules_is_checked():
    for module, names in EXAMPLES.items():
        there = importlib.import_module(module)
        with_examples = {
            test.name.removeprefix(f"{module}.").partition(".")[0]
            for test in doctest.DocTestFinder().find(there)
            if test.examples
        }
        assert with_examples == set(names), module
