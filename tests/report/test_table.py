"""The result table: the truth and each design's answer at a glance, nothing cut."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from realdataexp.report.files import RunResult
from realdataexp.report.tables import ledger, print_result

ENTRY = {
    "gte": -278.84, "estimate": -510.6, "bias": -231.8, "bias_mc_se": 244.7, "bias_df": 9,
    "sd": 763.6, "rmse": 760.6, "se_mean": 800.0, "coverage": 0.9, "sign_error_rate": 0.2,
    "n_worlds": 10,
}  # fmt: skip
TRUTH = {
    "design": "global", "label": "play_time", "estimand": "mean_per_visit", "value": -278.84,
    "se": 98.7, "ci_low": -500.0, "ci_high": -50.0, "p_value": 0.02, "n_worlds": 10,
    "se_method": "between_worlds",
}  # fmt: skip


def compared(**changes: Any) -> dict[str, Any]:
    """A result of mode compare with one label and two designs."""
    return {
        "schema_version": 1,
        "mode": "compare",
        "status": "complete",
        "n_steps_done": 60,
        "config": {
            "labels": [{"name": "play_time", "target": "play_time_ms"}],
            "experiment": {"aa": False},
        },
        "gte_results": {
            "GT_play_time": 54_954_820.0,
            "GC_play_time": 56_000_000.0,
            "GTE_play_time": -1_045_180.0,
            "GTE_play_time_relative": -1.8664,
        },
        "estimates": [TRUTH, {**TRUTH, "design": "pooling"}],
        "comparison": [
            {"design": "pooling", "label": "play_time", **ENTRY},
            {"design": "snapshot", "label": "play_time", **ENTRY, "bias": -1258.0},
        ],
        "warnings": [],
        **changes,
    }


def shown(result: dict[str, Any], tmp_path: Path, width: int = 80, color: bool = False) -> str:
    (tmp_path / "result.json").write_text(json.dumps(result))
    file = io.StringIO()
    console = Console(
        file=file, width=width, highlight=False, force_terminal=color,
        color_system="standard" if color else None,
    )  # fmt: skip
    print_result(tmp_path, console)
    return file.getvalue()


def test_truth_and_designs_stand_together_in_one_scale(tmp_path: Path):
    lines = shown(compared(), tmp_path).splitlines()
    title = "play_time (ms): effect per visit, 10 replications given this starting model"
    assert title in lines
    rows = {line.split("  ")[0]: line.split() for line in lines if line}
    assert rows["truth (GTE)"] == ["truth", "(GTE)", "-279"]
    assert rows["pooling"] == ["pooling", "-511", "-232", "±", "245", "764", "761", "90", "%"]
    assert rows["snapshot"][2:6] == ["-1,258", "±", "245", "*"]


def test_totals_are_in_compact_units(tmp_path: Path):
    text = shown(compared(), tmp_path)
    assert re.search(r"play_time \(ms\)\s+54\.95 M\s+56 M\s+-1\.045 M\s+-1\.87 %", text)


def test_a_star_is_the_limit_that_the_legend_names(tmp_path: Path):
    """Student's t with 9 degrees of freedom, 5 % over two biases: 2.685 errors of 244.7."""
    for bias, is_starred in ((-656.0, False), (-658.0, True)):
        result = compared()
        result["comparison"][1]["bias"] = bias
        text = shown(result, tmp_path)
        row = next(line for line in text.splitlines() if line.startswith("snapshot"))
        assert (" *" in row) == is_starred
        said = " ".join(text.split())
        assert (
            "* if statistically significant, more than 2.69 of these from 0 (Student's t limit for "
            "5 % over the 2 biases of this run)" in said
        )
        assert ("Biased: snapshot." in said) == is_starred


def test_the_verdicts_stand_below_the_tables(tmp_path: Path):
    text = shown(compared(), tmp_path)
    assert text.index("Biased: snapshot.") > text.index("RMSE")
    assert "Intervals are not judged: that takes 20 replications." in text


def test_only_a_significant_bias_is_highlighted(tmp_path: Path):
    text = shown(compared(), tmp_path, color=True)
    assert text.count("\x1b[31m") == 1
    red = next(line for line in text.splitlines() if "\x1b[31m" in line)
    assert re.search(r"snapshot .*-1,258 ± 245 \* ", red)
    assert text.count(" * ") == 1 + text.count("error; * if")


@pytest.mark.parametrize("width", [20, 40, 80, 120])
def test_no_number_and_no_name_is_ever_cut(width: int, tmp_path: Path):
    name = "a_design_with_quite_a_long_name_" * 3
    result = compared()
    result["comparison"][0]["design"] = name
    text = shown(result, tmp_path, width)
    assert "…" not in text
    assert name in re.sub(r"\s", "", text)
    assert all(number in text for number in ("54.95 M", "-1,258 ± 245 *", "-279 ± 99", "761"))


def test_eighty_columns_are_enough(small_run: Path):
    file = io.StringIO()
    print_result(small_run, Console(file=file, width=80))
    assert max(map(len, file.getvalue().splitlines())) <= 80


def aa_result(**changes: Any) -> dict[str, Any]:
    """An A/A test of two labels with three designs and two methods; one has no answer."""
    inference = [
        {"design": design, "label": label, "se_method": method, "reject_share": share,
         "coverage": None if share is None else 1 - share,
         "trustworthy": trusted}
        for label in ("play_time", "click")
        for design, method, share, trusted in (
            ("pooling", "welch", 0.152, False), ("pooling", "user_cluster", 0.0501, True),
            ("cluster", "welch", 1.0, False), ("cluster", "user_cluster", None, None),
            ("oracle", "welch", 0.03, True),
        )
    ]  # fmt: skip
    config = {**compared()["config"], "experiment": {"aa": True}}
    return compared(**{"config": config, "inference": inference, **changes})


def test_an_a_a_test_has_a_table_of_its_intervals_errors(tmp_path: Path):
    text = shown(aa_result(), tmp_path)
    assert text.count(": type-I error by interval method") == 2
    lines = text[text.index("click: type-I error") :].splitlines()
    assert " ".join(lines[:2]).endswith("replications given this starting model")
    assert lines[2].split() == ["design", "welch", "user_cluster"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[4:7]}
    assert rows == {
        "pooling": ["15", "%", "*", "5", "%"],
        "cluster": ["100", "%", "*", "-"],
        "oracle": ["3", "%", "-"],
    }
    assert "type-I error: how often the 95 % interval" in text
    assert max(map(len, text.splitlines())) <= 80
    red = [x for x in shown(aa_result(), tmp_path, color=True).splitlines() if "\x1b[31m" in x]
    assert sum("cluster" in line for line in red) == 2 and len(red) == 3  # and snapshot's bias
    none = aa_result()
    none["config"]["experiment"]["aa"] = False
    assert "type-I" not in shown(none, tmp_path)


def test_all_methods_and_designs_of_an_a_a_test_fit_in_a_hundred_columns(tmp_path: Path):
    methods = (
        "welch", "user_cluster", "cuped", "block", "bootstrap", "randomisation", "always_valid"
    )  # fmt: skip
    result = aa_result(
        inference=[
            {"design": "data_diverted", "label": "click", "se_method": method,
             "reject_share": 1.0, "trustworthy": False}
            for method in methods
        ]
    )  # fmt: skip
    lines = shown(result, tmp_path, 100).splitlines()
    (row,) = [line for line in lines if line.startswith("data_diverted")]
    assert row.count("100 % *") == len(methods) and max(map(len, lines)) <= 100


def test_what_is_missing_is_a_dash(tmp_path: Path):
    none = dict.fromkeys(ENTRY) | {"n_worlds": 0}
    result = compared(comparison=[{"design": "pooling", "label": "play_time", **none}])
    assert re.search(r"^pooling(\s+-){5}$", shown(result, tmp_path), re.MULTILINE)


def test_a_missing_error_leaves_the_value_alone(tmp_path: Path):
    result = compared()
    result["comparison"][0] |= {"bias": None, "bias_mc_se": None}
    rows = [line for line in shown(result, tmp_path).splitlines() if line.startswith("pooling")]
    assert rows[-1].split() == ["pooling", "-511", "-", "764", "761", "90", "%"]


def test_a_single_designs_estimate_has_its_interval(tmp_path: Path):
    estimate = {**TRUTH, "design": "splitting", "p_value": 0.02345}
    result = compared(mode="splitting", gte_results={}, estimates=[estimate], comparison=[])
    text = shown(result, tmp_path)
    assert "as the design splitting answers, 10 replications" in text
    assert re.search(r"play_time \(ms\)\s+-279 ± 99\s+-500 to -50\s+0\.023", text)


def test_warnings_come_last_each_once_and_whole(tmp_path: Path):
    message = "from step 35 on " + "so many users " * 20 + "[end]"
    text = shown(compared(warnings=[{"code": "short", "message": message}]), tmp_path)
    assert " ".join(text.split()).endswith(f"! short: {message}")
    assert max(map(len, text.splitlines())) <= 80


def test_a_partial_run_says_so_first(tmp_path: Path):
    text = shown(compared(status="partial"), tmp_path)
    assert text.startswith("partial: stopped after 60 steps")


def detected(design: str, detector: str, label: str, share: float | None) -> dict[str, Any]:
    """An entry of ``detectors``."""
    entry = {"design": design, "label": label, "detector": detector}
    if share is None:
        return entry | {"n_tests": 0, "verdict": "cannot tell", "why": "it is too short"}
    verdict = "alarm" if share > 0.2 else "no alarm"
    return entry | {"n_tests": 40, "verdict": verdict, "alarm_share": share}


def test_alarms_stand_by_design_and_detector_with_a_figure_for_each_label(tmp_path: Path):
    entries = [
        detected("pooling", "a", "play_time", 0.05), detected("pooling", "a", "click", 0.4),
        detected("pooling", "b", "play_time", 0.1), detected("pooling", "b", "click", 0.1),
        detected("pooling", "c", "play_time", None), detected("pooling", "c", "click", None),
        detected("snapshot", "a", "play_time", None), detected("snapshot", "a", "click", None),
        detected("snapshot", "b", "play_time", 0.0), detected("snapshot", "b", "click", None),
    ]  # fmt: skip
    lines = shown(compared(detectors=entries), tmp_path, 100).splitlines()
    at = lines.index("Seen from inside: tests with an alarm of interference (play_time / click)")
    assert lines[at + 1].split() == ["design", "a", "b"]
    assert lines[at + 3].split() == ["pooling", "5", "/", "40", "%", "*", "10", "%"]
    assert lines[at + 4].split() == ["snapshot", "-", "0", "/", "-", "%"]
    assert "Seen from inside" not in shown(compared(), tmp_path)


def test_the_ledger_is_a_table_of_both_arms_models():
    entries = [
        {"design": "pooling", "arm": "C", "weight": 9.0, "other_share": 0.2},
        {"design": "pooling", "arm": "T", "weight": 9.0, "other_share": 0.8},
        {"design": "snapshot", "arm": "C", "weight": 0.0},
    ]
    table = ledger(RunResult.of(compared(ledger=entries)))
    rows = {row.name: [cell.shown for cell in row.cells] for row in table.rows}
    assert rows == {"pooling": ["80.0 %", "20.0 %"], "snapshot": ["-", "-"]}
