"""How the doctor's findings are shown."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from realdataexp import cli
from realdataexp.doctor import Finding, print_findings, stops
from realdataexp.errors import InputError


@pytest.fixture(autouse=True)
def _own_log_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command shows log lines for the time of its test only."""
    logger = logging.getLogger("realdataexp")
    monkeypatch.setattr(logger, "handlers", list(logger.handlers))
    monkeypatch.setattr(logger, "level", logger.level)


def test_an_input_error_is_parted_into_what_and_what_to_do():
    error = InputError("a: wrong; b; mend a", "no hint", "missing x; there is: y")
    assert [(x.text, x.remedy) for x in stops("data", error, "do z")] == [
        ("a: wrong; b", "mend a"),
        ("no hint", "do z"),
        ("missing x; there is: y", "do z"),
    ]


def test_findings_are_lines_with_remedies_and_a_verdict(capsys: pytest.CaptureFixture[str]):
    findings = [
        Finding("disk", "ok", "fine"),
        Finding("alphas", "warning", "equal", "change one"),
        Finding("data", "stop", f"/a/{'long' * 40}: gone", "give another"),
    ]
    print_findings(findings)
    out = capsys.readouterr().out
    assert "ok   disk    fine" in out
    assert "warn alphas  equal\n             → change one" in out
    assert f"/a/{'long' * 40}:" in out
    assert out.endswith("1 would stop a run, warnings: 1\n")


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("warning", 0), ("stop", 1)])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_exit_code_is_one_where_a_run_would_stop(
    status: Any,
    code: int,
    options: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    finding = Finding("disk", status, "free: 1", "free some")
    monkeypatch.setattr("realdataexp.doctor.examine", lambda *_: [finding])
    assert cli.main(["doctor", *options]) == code
    out = capsys.readouterr().out
    if options:
        assert json.loads(out) == [vars(finding)]
    else:
        assert "free: 1" in out
