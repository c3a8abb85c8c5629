"""Run folders whose files are odd, no files at all, or gone: one line, and nothing hangs."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from realdataexp import cli, files
from realdataexp.files import read_json

Say = pytest.CaptureFixture[str]
COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "report": lambda run: ["report", str(run)],
    "two runs": lambda run: ["report", str(run), str(run)],
    "perf": lambda run: ["perf", str(run)],
    "track": lambda run: ["track", str(run), "--to", "tensorboard"],
}


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """A command that waits for a pipe's other end fails instead of waiting."""
    if os.name == "posix":
        signal.signal(signal.SIGALRM, lambda *_: pytest.fail("hangs"))
        signal.alarm(60)
    yield
    if os.name == "posix":
        signal.alarm(0)


@pytest.fixture
def folder(small_run: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, to spoil."""
    return Path(shutil.copytree(small_run, tmp_path / "run"))


def call(capsys: Say, *words: str | Path) -> tuple[int, str]:
    code = cli.main([str(word) for word in words])
    err = capsys.readouterr().err
    assert "Traceback" not in err and "unexpected" not in err
    return code, err


def refused(capsys: Say, *words: str | Path, code: int = 2) -> str:
    """The one line with which a command ends."""
    found, err = call(capsys, *words)
    assert (found, err.count("\n")) == (code, 1), err
    return err


def edited(change: Callable[[dict[str, Any]], Any]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        result = json.loads(text)
        change(result)
        return json.dumps(result)

    return apply


NESTED = "[" * 500 + "]" * 500
ODD_RESULTS: dict[str, tuple[Callable[[str], str], str]] = {
    "comparison is a mapping": (edited(lambda r: r.update(comparison={"a": 1})), "comparison"),
    "comparison is null": (edited(lambda r: r.update(comparison=None)), "comparison"),
    "estimates are numbers": (edited(lambda r: r.update(estimates=[1, 2])), "estimates.0"),
    "a bias is a list": (edited(lambda r: r["comparison"][0].update(bias=[])), "comparison.0.bias"),
    "a label is a number": (edited(lambda r: r["config"].update(labels=[7])), "config.labels.0"),
    "labels are a text": (edited(lambda r: r["config"].update(labels="x")), "config.labels"),
    "the config is a list": (edited(lambda r: r.update(config=[])), "config"),
    "replications are a text": (
        edited(lambda r: r["config"]["experiment"].update(replications="9")), "replications"
    ),
    "timing is a text": (edited(lambda r: r.update(timing="fast")), "timing"),
    "seconds are a mapping": (edited(lambda r: r["timing"].update(loop_seconds={})), "timing.loop"),
    "the status is a number": (edited(lambda r: r.update(status=1)), "status"),
    "warnings are texts": (edited(lambda r: r.update(warnings=["x"])), "warnings.0"),
    "NaN": (lambda text: text.replace('"seed": 0', '"seed": NaN', 1), "finite"),
    "1e999": (lambda text: text.replace('"seed": 0', '"seed": 1e999', 1), "finite"),
    "a huge number": (lambda text: text.replace('"seed": 0', f'"seed": {"9" * 5000}', 1), "large"),
    "deeply nested": (lambda text: text.replace('"seed": 0', f'"seed": {NESTED}', 1), "deeply"),
    "half a surrogate": (lambda text: text.replace('"mode": "', '"mode": "\\ud800', 1), "JSON"),
    "a list": (lambda text: "[]", "is not a result"),
    "null": (lambda text: "null", "is not a result"),
    "nothing": (lambda text: "", "JSON"),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("odd", ODD_RESULTS)
def test_an_odd_result_is_one_line_that_names_it(odd: str, command: str, folder: Path, capsys: Say):
    change, said = ODD_RESULTS[odd]
    path = folder / "result.json"
    text = path.read_text()
    path.write_text(change(text))
    assert path.read_text() != text
    err = refused(capsys, *COMMANDS[command](folder))
    assert str(path) in err and said in err


@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_result_lacks_is_told(command: str, folder: Path, capsys: Say):
    (folder / "result.json").write_text('{"schema_version": 1}')
    assert "lacks" in (err := refused(capsys, *COMMANDS[command](folder))) or "None" in err


@pytest.mark.parametrize("table", ["outcomes", "estimates", "metrics", "monitor"])
@pytest.mark.parametrize(
    "frame",
    [pl.DataFrame(), pl.DataFrame({"x": [1]}), pl.DataFrame({"step": ["a"], "label": [[1]]})],
    ids=["empty", "other columns", "other types"],
)
def test_a_table_of_other_columns_is_one_line(
    frame: pl.DataFrame, table: str, folder: Path, capsys: Say
):
    frame.write_parquet(folder / f"{table}.parquet")
    for command in ("report", "perf"):
        code, err = call(capsys, command, folder)
        assert (code, err.count("\n")) in ((0, 0), (2, 1)), err


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX's")
@pytest.mark.parametrize(
    "name", ["result.json", "outcomes.parquet", "metrics.parquet", "monitor.parquet", "plot.svg"]
)
def test_a_pipe_or_a_device_in_place_of_a_file_is_not_waited_for(
    name: str, folder: Path, capsys: Say
):
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        (folder / name).unlink()
        make(folder / name)
        for command in COMMANDS.values():
            code, err = call(capsys, *command(folder))
            assert (code, err.count("\n")) in ((0, 0), (2, 1)), err
    assert name != "result.json" or code == 2


@pytest.mark.parametrize("command", ["report", "two runs", "perf"])
def test_a_page_or_plot_that_cannot_be_written_leaves_the_old_one(
    command: str, folder: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
):
    assert cli.main(COMMANDS[command](folder)) == 0
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    capsys.readouterr()
    for number, code, said in (
        (28, 1, "no space left"), (30, 2, "Read-only"), (13, 2, "Permission"),
        (5, 1, "Input/output"),
    ):  # fmt: skip

        def fail(path: Path, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(files, "sync", fail)
        err = refused(capsys, *COMMANDS[command](folder), code=code)
        assert said in err and str(folder) in err
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before


def test_json_is_read_back_as_it_was_written(tmp_path: Path):
    value = {"ä": [1.5, None, True, -(2**63), 2**63 - 1, 1e-300, {"": []}]}
    assert read_json(files.write_json(tmp_path / "x.json", value)) == value


@pytest.mark.parametrize(
    "name", ["a\0b", "x" * 300, "/".join(["y" * 200] * 30), "~nobody/x", "\udcff\udcfe"],
    ids=["null", "long name", "long path", "nobody's home", "not UTF-8"],
)  # fmt: skip
def test_a_path_that_cannot_be_one_is_one_line(
    name: str,
    small_config: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Say,
):
    monkeypatch.chdir(tmp_path)
    config = small_config()
    for words in (["resume"], ["report"], ["perf"], ["track", "--to", "tensorboard"]):
        refused(capsys, words[0], name, *words[1:])
    if not name.startswith("~"):  # that is a name as good as any
        refused(capsys, "run", config, "--dry-run", "--quiet", "--out", name)
    assert list(tmp_path.iterdir()) == [config]
