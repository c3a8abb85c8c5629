"""What became worse than a baseline is reported, what became better is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import report
from bench.figures import Figure, Reference
from bench.report import Baseline, compare, read_baselines, save_baseline
from realdataexp.errors import InputError

MACHINE = {
    "processor": "a processor", "n_cpus": 2, "n_threads": 1, "memory_gb": 8.0, "python": "3.11",
    "torch": "2.13", "gflops": 100.0, "gb_s": 10.0,
}  # fmt: skip


def figures(rate: float = 50.0, seconds: float = 4.0) -> list[dict[str, Any]]:
    speed = Figure(
        "speed", rate, "rows/s", floor=Reference("sgemm", 100.0), peer=Reference("pandas", 5.0)
    )
    start = Figure("start", seconds, "s", "lower", floor=Reference("plain", 2.0), limit=5.0)
    alone = Figure("alone", 3.0, "ms", "lower", note="no reference")
    return [x.as_json("part") for x in (speed, start, alone)]


def result(**values: float) -> dict[str, Any]:
    return {
        "status": "complete", "workload": "size small", "seed": 0, "machine": MACHINE,
        "measurements": {"part": "a part"}, "figures": figures(**values), "comparison": None,
    }  # fmt: skip


WAS = {"part: speed": {"floor": 0.5, "peer": 10.0}, "part: start": {"floor": 2.0}}
BASELINE = Baseline("a processor", "a machine", WAS)


def test_ratios_are_of_the_figure_to_its_references():
    by_name = {x["name"]: x for x in figures()}
    assert by_name["speed"]["floor"] == {"what": "sgemm", "value": 100.0, "ratio": 0.5}
    assert by_name["speed"]["peer"]["ratio"] == 10.0
    assert by_name["start"]["floor"]["ratio"] == 2.0 and by_name["start"]["peer"] is None


@pytest.mark.parametrize(
    ("values", "worse"),
    [
        ({}, []),
        ({"rate": 42.0, "seconds": 4.7}, []),  # 19 and 17.5 %
        ({"rate": 41.0}, ["part: speed", "part: speed"]),  # over floor and peer
        ({"seconds": 4.9}, ["part: start"]),
        ({"rate": 500.0, "seconds": 0.4}, []),  # ten times better
    ],
)
def test_only_ratios_that_are_20_percent_worse_in_their_direction_are_reported(
    values: dict[str, float], worse: list[str]
):
    found = compare(figures(**values), BASELINE, "a processor")
    assert found["n_compared"] == 3
    assert [x["figure"] for x in found["regressions"]] == worse
    assert all(x["factor"] > report.TOLERANCE for x in found["regressions"])


def test_a_slower_machine_is_no_regression():
    slow = Figure("speed", 5.0, "rows/s", floor=Reference("sgemm", 10.0)).as_json("part")
    assert compare([slow], BASELINE, "a processor")["regressions"] == []


def test_the_page_shows_figures_limits_and_what_became_worse():
    page = report.markdown(
        {**result(), "comparison": compare(figures(rate=25.0), BASELINE, "a processor")}
    )
    assert "2 of 3 ratios are more than 20 % worse" in page
    assert "| part: speed | its floor | 0.25 | 0.5 | 2.00 |" in page
    assert "| speed ↑ | 50 rows/s | 100: sgemm | 0.5 | 5: pandas | 10 |  |  |" in page
    assert "| start ↓ | 4 s | 2: plain | 2 |  |  | 5: within |  |" in page
    assert "5: **over**" in report.markdown(result(seconds=5.5))
    none = {**result(), "comparison": compare(figures(), BASELINE, "a processor")}
    assert "None of 3 ratios is more than 20 % worse" in report.markdown(none)


def test_a_saved_baseline_keeps_other_workloads_and_other_figures(tmp_path: Path):
    path = tmp_path / "baseline.json"
    save_baseline(path, result())
    other = {**result(rate=80.0), "workload": "size prototype"}
    save_baseline(path, other)
    save_baseline(path, {**other, "figures": figures(rate=70.0)[:1]})
    found = read_baselines(path, "--baseline")
    assert found["size small"].ratios == WAS
    assert found["size prototype"].ratios["part: speed"] == {"floor": 0.7, "peer": 14.0}
    assert found["size prototype"].ratios["part: start"] == {"floor": 2.0}
    assert compare(figures(), found["size small"], "a processor")["regressions"] == []


def test_a_baseline_of_another_cpu_calls_nothing_worse_and_names_both():
    found = compare(figures(rate=1.0, seconds=40.0), BASELINE, "another")
    assert (found["n_compared"], found["regressions"]) == (0, [])
    machine = MACHINE | {"processor": "another"}
    page = report.markdown({**result(), "machine": machine, "comparison": found})
    (said,) = [line for line in page.splitlines() if "another CPU" in line]
    assert said.startswith("The baseline is of another CPU, a processor, and this is another:")
    assert "worse" not in page


def test_a_baseline_saved_on_another_cpu_takes_nothing_over(tmp_path: Path):
    path = tmp_path / "baseline.json"
    save_baseline(path, result())
    there = result()["figures"][:1]
    machine = MACHINE | {"processor": "another"}
    save_baseline(path, {**result(), "machine": machine, "figures": there})
    (found,) = read_baselines(path, "--baseline").values()
    assert (found.processor, list(found.ratios)) == ("another", ["part: speed"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"a": 1}',
        '{"a": {"processor": "", "machine": "", "ratios": {"x": 1}}}',
        '{"a": {"processor": "", "machine": "", "ratios": {"x": {"floor": 0}}}}',
        '{"a": {"machine": "", "ratios": {"x": {"floor": 1}}}}',
    ],
)
def test_another_file_is_no_baseline(text: str, tmp_path: Path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(InputError, match="holds no baselines"):
        read_baselines(path, "--baseline")
    with pytest.raises(InputError, match="cannot be read"):
        read_baselines(tmp_path / "none.json", "--baseline")


def test_the_packages_own_baselines_hold_ratios_of_the_suites_figures():
    from bench.suite import MEASUREMENTS

    found = read_baselines(report.own_baselines(), "--baseline")
    assert found
    for workload, baseline in found.items():
        assert workload.startswith("size prototype")
        assert {name.partition(": ")[0] for name in baseline.ratios} <= {*MEASUREMENTS}
    assert "seconds" not in json.dumps([x.ratios for x in found.values()])
