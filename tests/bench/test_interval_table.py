"""The table of intervals: coverage of a start's own mean, shares of the error, who cannot tell."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from bench import intervals


def made_up(value_W: list[float], half_W: list[float | None], *, is_aa: bool = False) -> Any:
    """A result of one design and label, two starts, whose methods are all alike."""
    n = len(value_W)
    rows = [("global", "welch", w, 1.0, 1.0, 0.0, 2.0) for w in range(n)]
    for method in intervals.METHODS:
        for w, (x, half) in enumerate(zip(value_W, half_W, strict=True)):
            ends = (None,) * 3 if half is None else (half / 2, x - half, x + half)
            rows.append(("it", method, w, x, *ends))
    names = ["design", "se_method", "world", "value", "se", "ci_low", "ci_high"]
    estimates = pl.DataFrame(rows, schema=names, orient="row").with_columns(label=pl.lit("click"))
    units = {"design": ["it"], "label": ["click"], "n": [8], "n_differ": [2], "n_parted": [4]}
    return SimpleNamespace(
        estimates=estimates,
        units=pl.DataFrame(units),
        comparison=pl.DataFrame({"design": ["it"], "label": ["click"]}),
        summary={"config": {"experiment": {"starts": 2, "aa": is_aa}}},
    )


def test_an_interval_covers_the_mean_of_the_other_tests_of_its_start():
    """Of starts 0 and 1, the values 1, 2, 3 and 11, 12, 16: a mean of others' is 1.5 x as far."""
    found = made_up([1.0, 11.0, 2.0, 12.0, 3.0, 16.0], [1.3, 3.0, 1.0, 1.0, 1.3, 3.0])
    row = intervals.measures(found, "it", "click", "paired")
    off = np.sqrt(1.5) * np.abs([-1, -2, 0, -1, 1, 3])
    assert row is not None and row.covered.startswith(
        f"{100 * np.mean(off <= [1.3, 3, 1, 1, 1.3, 3]):.1f} %"
    )
    assert row.rejected.startswith("83.3 %")
    assert row.se_share == 1.0 and row.n == 6
    assert row.sd == pytest.approx(np.sqrt((2 + 14) / 4))


def test_tables_have_a_line_of_each_and_say_how_many_tests_have_an_interval():
    some = made_up([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, None, 1.0], is_aa=True)
    same = made_up([0.0] * 4, [0.0] * 4)
    lines = list(intervals.tables({"one": [some], "two": [same, same]}))
    ours = [line for line in lines if line.startswith("| one |")]
    assert len(ours) == 2 and all("25 %, 50 %" in line for line in ours)
    assert sum(line.count("0 exactly") for line in lines) == 4 * len(intervals.METHODS)
    assert ours[0].count("(3 tests)") == len(intervals.METHODS)
    none = made_up([0.0, 1.0], [None, None])
    assert list(intervals.tables({"three": [none]}))[4].count("no answer") == len(intervals.METHODS)
