"""What reaches a terminal or a log: lines that nothing in an input can break, forge or colour."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest
from rich.console import Console

from realdataexp import cli, terminal
from realdataexp.doctor import Finding, print_findings
from realdataexp.errors import InputError, Warnings, one_line
from realdataexp.report.table import Table
from realdataexp.runs.folder import RunLog

# clear the screen; set the title; C1's CSI; right-to-left override; line separator; a byte that is
# no text; newlines; a null; backspaces
NASTY = "a\x1b[2J\x1b]0;mine\x07\x9b31m\u202egpj\u2028\udc80\r\n[result] forged\x00\x08\x08b"


def assert_plain(line: str) -> None:
    assert line.isprintable(), line
    line.encode("utf-8")


def test_a_line_shows_what_would_act_on_a_terminal_as_its_escape():
    shown = one_line(NASTY)
    assert_plain(shown)
    assert shown.startswith(r"a\x1b[2J\x1b]0;mine\x07\x9b31m\u202egpj\u2028\udc80\r\n[result]")


@pytest.mark.parametrize("text", ["", "5 µs ± 1", "数据\u3000集", "№ 7\u00a0ms", r"C:\new"])
def test_a_line_of_ordinary_text_in_any_language_stays_as_it_is(text: str):
    assert one_line(text) == text


def test_a_long_line_keeps_its_place_and_its_remedy():
    line = one_line(f"labels.0.name = {chr(120) * 10_000_000}: give another")
    assert len(line) < 300
    assert len(one_line("x y " * 1_000_000)) <= 1_000
    assert line.startswith("labels.0.name") and line.endswith("give another")


def test_each_fault_of_an_input_error_is_one_line():
    error = InputError(f"{NASTY}: wrong", "b: wrong")
    assert len(error.faults) == 2
    assert str(error).split("\n") == list(error.faults)
    assert all(line.isprintable() for line in error.faults)


def test_a_warning_is_one_line_in_the_result_and_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    logger, warnings = logging.getLogger("realdataexp"), Warnings()
    monkeypatch.setattr(logger, "propagate", True)  # whatever a command before has left
    caplog.set_level(logging.WARNING, logger="realdataexp")
    warnings.add("doubt", NASTY)
    (item,) = warnings
    assert_plain(item["message"])
    assert_plain(caplog.messages[0])


def test_a_newline_in_a_value_forges_no_line_of_run_log(tmp_path: Path):
    log, logger = RunLog("INFO"), logging.getLogger("test_errors")
    logger.propagate = False
    with log.listening(logger):
        log.open(tmp_path / "run.log")
        logger.info("[data] read %s", NASTY)
    (line,) = (tmp_path / "run.log").read_text(encoding="utf-8").splitlines()
    assert line.startswith("[data] ")
    assert_plain(line)


def test_log_lines_on_the_terminal_are_plain(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    logger = logging.getLogger("realdataexp")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)
    # or pytest keeps the message too, and its processes cannot tell each other half a surrogate
    monkeypatch.setattr(logger, "propagate", False)
    terminal.log_lines("INFO")
    logger.info("[download] %s", NASTY)
    (line,) = capsys.readouterr().err.split("\n")[:-1]
    assert_plain(line)


def test_cells_of_tables_are_plain_and_no_markup(capsys: pytest.CaptureFixture[str]):
    terminal.print_stats(NASTY, {"[red]rows": 3, NASTY: {"inner": {"[bold]mean": NASTY}}})
    out = capsys.readouterr().out
    assert "[red]rows" in out and "[bold]mean" in out
    assert "\n[result]" not in out
    for line in out.splitlines():
        assert_plain(line)


def test_tables_of_results_and_findings_are_plain():
    console = Console(file=io.StringIO(), width=200, highlight=False)
    table = Table(NASTY, "SD")
    table.add(NASTY, "[red]1")
    table.show(console)
    finding = Finding("data", "stop", NASTY, NASTY)
    print_findings([finding], console)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().split("\n")
    assert "[red]1" in console.file.getvalue()
    assert not any(line.startswith("[result]") for line in lines)
    for line in lines:
        assert_plain(line)


@pytest.mark.parametrize(
    "args",
    [
        ["run", NASTY.replace("\x00", "")],
        ["run", "demo", "--mode", NASTY],
        ["run", "demo", "--set", NASTY],
        ["run", "demo", "--set", f"{NASTY}=1"],
        ["run", "demo", "--set", 'labels.0.name="\\e[2J\\u202E\\n"'],
        ["run", "demo", "--device", NASTY],
        ["run", "demo", f"--{NASTY}"],
        ["validate", "demo", "--data", NASTY],
        ["synth", "d", "--version", NASTY],
        ["report", NASTY],
        [NASTY],
    ],
    ids=lambda args: args[-1][:8].encode("unicode_escape").decode() + str(len(args)),
)
def test_a_command_line_cannot_act_on_the_terminal(
    args: list[str], capsys: pytest.CaptureFixture[str]
):
    assert cli.main(args) == 2
    out, err = capsys.readouterr()
    (line,) = err.split("\n")[:-1]
    assert_plain(line)
    assert out == ""


def test_a_config_cannot_act_on_the_terminal(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    bad = {"mode": NASTY, NASTY: 1, "labels": [{"name": NASTY, "typ": NASTY}]}
    path = tmp_path / "bad.yaml"
    path.write_text(json.dumps(bad), encoding="utf-8")
    assert cli.main(["validate", str(path)]) == 2
    lines = capsys.readouterr().err.split("\n")[:-1]
    assert all(line.startswith(str(path)) for line in lines)
    for line in lines:
        assert_plain(line)
