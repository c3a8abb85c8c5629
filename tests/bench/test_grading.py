"""The grades of detectors: runs that are kept are read again, and the table has every test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bench import detectors


def test_grades_are_made_once_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = detectors.STUDIES["platform"]
    tests = {name: study.tests[name] for name in ("A/A", "A/B, 10 : 1")}
    small = detectors.Study(
        study.config, (*study.settings, "pretrain.max_rows=256", "logging.pictures=false"), tests,
        ("stay_time",), starts=1,
    )  # fmt: skip
    monkeypatch.setattr(detectors, "STUDIES", {"platform": small})
    words = ["detectors", "--runs", str(tmp_path), "--replications", "2", "--steps", "20"]
    said = []
    for _ in range(2):
        monkeypatch.setattr("sys.argv", words)
        detectors.main()
        said.append(capsys.readouterr())
    assert said[0].out == said[1].out and said[1].err == ""
    rows = [line for line in said[0].out.splitlines() if line.startswith("| A/")]
    assert len(rows) == 2 * 4 + 4  # both tests' alarms, and one's correlations, by design


def test_a_correlation_is_numpys_with_fishers_interval() -> None:
    x = np.random.default_rng(0).normal(size=(40, 2))
    table = pl.DataFrame({"value": x[:, 0], "error": x[:, 0] + x[:, 1]})
    r = np.corrcoef(table["value"], table["error"])[0, 1]
    low, high = np.tanh(np.arctanh(r) + np.array([-1.96, 1.96]) / np.sqrt(37))
    assert detectors.correlation(table) == f"{r:+.2f} [{low:+.2f}, {high:+.2f}]"
    assert detectors.correlation(table.head(9)) == "-"
