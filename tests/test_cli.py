"""The command line: help, usage errors, exit codes, and what each command hands on."""

from __future__ import annotations

import importlib.util
import json
import logging
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import realdataexp
from realdataexp import cli
from realdataexp.config import Config, load_config
from realdataexp.configs import built_in_names
from realdataexp.data import synthetic
from realdataexp.errors import InputError, RunError
from realdataexp.worlds import kuairand

COMMANDS = (
    "run",
    "resume",
    "plan",
    "prepare",
    "download",
    "synth",
    "validate",
    "schema",
    "report",
    "doctor",
    "perf",
    "track",
)


def call(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = cli.main(args)
    out, err = capsys.readouterr()
    return code, out, err


class Stub:
    """Stands for the modules behind the commands and notes how they are called."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.raises: BaseException | None = None

    def run_experiment(self, config: Config, out: Path | None) -> Path:
        self.calls.append(("run", config, out))
        if self.raises:
            raise self.raises
        return out or Path("results/a-run")

    def resume_experiment(self, folder: Path, data: Path | None) -> Path:
        self.calls.append(("resume", folder))
        if self.raises:
            raise self.raises
        return folder

    def check_experiment(
        self, config: Config, out: Path | None = None, *, every_fault: bool = False
    ) -> list[str]:
        self.calls.append(("check", config, out, every_fault))
        if self.raises:
            raise self.raises
        return ["20 worlds of pooling", "nothing was run"]

    def run_plan(self, config: Config, out: Path | None, **grid: Any) -> Path:
        self.calls.append(("plan", config, out, grid))
        if self.raises:
            raise self.raises
        return out or Path("results/a-plan")

    def print_plan(self, plan_dir: Path) -> None:
        self.calls.append(("print", plan_dir))
        print("the tables")

    def print_result(self, run_dir: Path) -> None:
        self.calls.append(("print", run_dir))
        print("the table")

    def prepare(self, *args: Any) -> Any:
        self.calls.append(("prepare", *args))
        stats = {"n_rows": 1234, "targets": {"is_click": {"mean": 0.5, "n_missing": 0}}}
        return types.SimpleNamespace(version="pure", stats=stats)

    def write_synthetic(self, directory: Path, size: Any) -> dict[str, int]:
        self.calls.append(("synth", directory, size.model_dump()))
        return {"log_rows": 120_000}

    def write_plot(self, run_dir: Path, *, png: bool) -> Path:
        self.calls.append(("plot", run_dir, png))
        return run_dir / "plot.svg"

    def write_report(self, run_dir: Path, out: Path | None) -> Path:
        self.calls.append(("page", run_dir, out))
        return out or run_dir / "report.html"

    def write_comparison(self, run_dirs: list[Path], out: Path | None) -> Path:
        self.calls.append(("several", run_dirs, out))
        return out or run_dirs[0] / "report-compare.html"


@pytest.fixture(autouse=True)
def _own_log_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command shows log lines on the stderr of its test only."""
    logger = logging.getLogger("realdataexp")
    monkeypatch.setattr(logger, "handlers", list(logger.handlers))
    monkeypatch.setattr(logger, "level", logger.level)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """Put a stub in the place of everything that would do real work."""
    stub = Stub()
    modules = {
        "realdataexp.runs.experiment": ("run_experiment", "check_experiment", "resume_experiment"),
        "realdataexp.runs.planning": ("run_plan",),
        "realdataexp.report.tables": ("print_plan", "print_result"),
        "realdataexp.report.page": ("write_comparison", "write_report"),
        "realdataexp.report.plots": ("write_plot",),
    }
    for name, functions in modules.items():
        module = types.ModuleType(name)
        for function in functions:
            setattr(module, function, getattr(stub, function))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(kuairand, "prepare", stub.prepare)
    monkeypatch.setattr(synthetic, "write_synthetic", stub.write_synthetic)
    monkeypatch.setattr(synthetic, "made_bytes", lambda *_: 0)
    yield stub


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[str]):
    code, out, err = call(capsys, "--help")
    assert (code, err) == (0, "")
    assert all(f"  {command} " in out for command in COMMANDS)
    assert call(capsys) == (0, out, "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_commands_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]):
    code, out, _ = call(capsys, command, "--help")
    assert code == 0
    assert f"Example: realdataexp {command}" in out


def test_help_imports_nothing_heavy():
    code = (
        "import sys, realdataexp, realdataexp.cli as cli; cli.main(['--help'])\n"
        "heavy = {'torch', 'polars', 'numpy', 'scipy', 'pydantic', 'matplotlib', 'pyarrow'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_package_runs_as_a_module():
    command = [sys.executable, "-m", "realdataexp", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"realdataexp {realdataexp.__version__}\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["runn"], "Did you mean 'run'?"),
        (["run", "--sed", "1"], "--seed"),
        (["run", "a", "b"], "unexpected extra argument"),
        (["run", "--seed", "x"], "--seed"),
        (["run", "demo", "-c", "demo"], "pass one of them"),
        (["run", "--quiet", "--verbose"], "pass one of them"),
        (["run", "--set"], "requires an argument"),
        (["run", "nosuch"], "no such config file"),
        (["run", "--set", "simulation.n_steps=0"], "simulation.n_steps = 0: must be at least 1"),
        (["run", "--mode", "shado"], "unknown mode"),
        (["run", "--data", "x"], "--data: dataset.path"),
        (["plan", "demo", "-c", "demo"], "pass one of them"),
        (["plan", "--mode", "global"], "--mode"),
        (["plan", "--power", "much"], "--power"),
        (["prepare"], "Missing argument 'DIR'"),
        (["resume"], "Missing argument 'RUN_DIR'"),
        (["resume", "r", "--quiet", "--verbose"], "pass one of them"),
        (["prepare", "x", "--logs", "randon"], "must be one of random"),
        (["synth", "x", "--rows", "0"], "rows = 0: must be at least 1"),
        (["synth", "x", "--version", "2k"], "must be one of pure"),
        (["validate"], "Missing argument"),
        (["run", ""], "after run: an empty value: pass one, or leave both out"),
        (["run", " "], "after run: an empty value"),
        (["run", "demo", "--out", ""], "after --out: an empty value"),
        (["run", "demo", "--out="], "after --out: an empty value"),
        (["run", "demo", "--data", ""], "after --data: an empty value"),
        (["run", "demo", "--set", ""], "after --set: an empty value"),
        (["run", "demo", "--mode", ""], "after --mode: an empty value"),
        (["validate", ""], "after validate: an empty value"),
        (["resume", ""], "after resume: an empty value"),
        (["prepare", "", "--cache", "c"], "after prepare: an empty value"),
        (["synth", ""], "after synth: an empty value"),
        (["report", "a", ""], "after a: an empty value"),
        (["track", "a", "--to", ""], "after --to: an empty value"),
        (["plan", "a", "--out", ""], "after --out: an empty value"),
        (["validate", "demo", "--set", "seed=-1"], "--set: seed = -1: must be at least 0"),
        (["doctor", "--set", "seed=1"], "--set: there is no config to change: pass CONFIG"),
        (["report", "nosuch"], "no run folder"),
    ],
    ids=" ".join,
)
def test_wrong_input_is_one_line_on_stderr_and_exit_code_2(
    args: list[str], said: str, stub: Stub, capsys: pytest.CaptureFixture[str]
):
    code, out, err = call(capsys, *args)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert said in err
    assert {call[0] for call in stub.calls} <= {"check"}  # the rest of a faulty config


def test_run_hands_its_options_on_and_ends_with_the_run_folder(
    stub: Stub, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    args = [
        "-c",
        "kuairand-pure",
        "-m",
        "global",
        "--data",
        "d",
        "--seed",
        "3",
        "--device",
        "cpu",
        "--set",
        "global.n_steps=7",
    ]
    code, out, err = call(capsys, "run", *args, "--set", "seed=4", "--out", str(tmp_path / "r"))
    assert (code, err) == (0, "")
    assert out.splitlines() == ["the table", f"Run folder: {tmp_path / 'r'}"]
    (_, config, out_dir), printed = stub.calls
    assert out_dir == tmp_path / "r"
    assert printed == ("print", tmp_path / "r")
    expected = load_config(
        "kuairand-pure", ["simulation.n_steps=7"], mode="global", data="d", seed=4, device="cpu"
    )
    assert config == expected


def test_run_without_a_config_runs_the_demo(stub: Stub, capsys: pytest.CaptureFixture[str]):
    assert call(capsys, "run")[0] == 0
    assert stub.calls[0] == ("run", load_config("demo"), None)


def test_resume_goes_on_and_ends_with_the_run_folder(
    stub: Stub, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    partial = {"schema_version": 1, "status": "partial", "config": {}}
    (tmp_path / "result.json").write_text(json.dumps(partial))
    code, out, err = call(capsys, "resume", str(tmp_path))
    assert (code, out, err) == (0, f"the table\nRun folder: {tmp_path}\n", "")
    assert stub.calls == [("resume", tmp_path), ("print", tmp_path)]
    (tmp_path / "result.json").write_text(json.dumps(partial | {"status": "complete"}))
    said = f"{tmp_path}: complete; nothing to resume\n"
    assert call(capsys, "resume", str(tmp_path)) == (0, said, "")
    assert len(stub.calls) == 2


def test_an_interrupted_resume_says_what_there_is(
    stub: Stub, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    stub.raises = KeyboardInterrupt("interrupted after 3 of 9 steps")
    code, out, err = call(capsys, "resume", str(tmp_path))
    assert (code, out, err) == (130, "", "interrupted after 3 of 9 steps\n")


def test_plan_hands_its_options_on_and_ends_with_the_plan_folder(
    stub: Stub, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    args = ["--p", "0.1,0.5", "--steps", "5", "--power", "0.9", "--seed", "3", "--device", "cpu"]
    code, out, err = call(capsys, "plan", "demo", *args, "--out", str(tmp_path / "p"))
    assert (code, err) == (0, "")
    assert out.splitlines() == ["the tables", f"Plan folder: {tmp_path / 'p'}"]
    asked = {"p": "0.1,0.5", "steps": "5", "retrain_every": None, "power": 0.9}
    grid = {"executor": None, "is_detailed": False, **asked}
    expected = load_config("demo", seed=3, device="cpu")
    assert stub.calls[0] == ("plan", expected, tmp_path / "p", grid)


def test_an_interrupted_plan_says_how_it_goes_on(stub: Stub, capsys: pytest.CaptureFixture[str]):
    stub.raises = KeyboardInterrupt("interrupted: 1 of 2 runs are done")
    assert call(capsys, "plan") == (130, "", "interrupted: 1 of 2 runs are done\n")


def test_dry_run_says_what_would_run_and_runs_nothing(
    stub: Stub, capsys: pytest.CaptureFixture[str]
):
    code, out, _ = call(capsys, "run", "demo", "--dry-run", "--out", "x")
    assert code == 0
    assert out == "20 worlds of pooling\nnothing was run\n"
    assert stub.calls == [("check", load_config("demo"), Path("x"), False)]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("a: wrong", "b: wrong"), 2, "a: wrong\nb: wrong\n"),
        (RunError("the disk is full"), 1, "the disk is full\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (KeyboardInterrupt("interrupted; r stays"), 130, "interrupted; r stays\n"),
        (
            ZeroDivisionError("by\nzero"),
            1,
            "unexpected ZeroDivisionError: by zero (REALDATAEXP_DEBUG=1 shows where)\n",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_the_run_is_its_exit_code_and_no_traceback(
    error: BaseException,
    code: int,
    said: str,
    stub: Stub,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.delenv("REALDATAEXP_DEBUG", raising=False)
    stub.raises = error
    assert call(capsys, "run") == (code, "", said)


def test_what_became_of_a_failed_run_stands_in_its_line(
    stub: Stub, capsys: pytest.CaptureFixture[str]
):
    stub.raises = ZeroDivisionError("x")
    stub.raises.add_note("after 3 of 9 steps; r holds the run so far")
    code, _, err = call(capsys, "run")
    assert (code, err.count("\n")) == (1, 1)
    assert "x (after 3 of 9 steps; r holds the run so far; REALDATAEXP_DEBUG=1" in err


def test_debugging_shows_where_an_unexpected_error_came_from(
    stub: Stub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("REALDATAEXP_DEBUG", "1")
    stub.raises = ZeroDivisionError("x")
    code, _, err = call(capsys, "run")
    assert code == 1
    assert "Traceback" in err


def test_validate_lists_every_fault(stub: Stub, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    values = load_config("kuairand-pure").resolved()
    values["labels"][0]["alpha_T"] = float("nan")
    values["simulation"]["n_steps"] = 0
    values["sed"] = 1
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(values))
    code, out, err = call(capsys, "validate", str(path))
    assert (code, out, err.count("\n")) == (2, "", 3)


def test_validate_asks_for_the_data_where_there_are_none(
    stub: Stub, capsys: pytest.CaptureFixture[str]
):
    code, out, _ = call(capsys, "validate", "kuairand-1k")
    assert code == 0
    assert "the data was not checked" in out
    assert not stub.calls


def test_validate_checks_the_data(stub: Stub, capsys: pytest.CaptureFixture[str]):
    assert call(capsys, "validate", "kuairand-1k", "--data", "d") == (0, "kuairand-1k: ok\n", "")
    assert stub.calls == [("check", load_config("kuairand-1k", data="d"), None, True)]
    stub.raises = InputError("d: no such folder")
    assert call(capsys, "validate", "kuairand-1k", "--data", "d") == (2, "", "d: no such folder\n")


@pytest.mark.parametrize("name", ["demo", "si2023"])
def test_validate_checks_a_world_without_files(
    name: str, stub: Stub, capsys: pytest.CaptureFixture[str]
):
    assert call(capsys, "validate", name) == (0, f"{name}: ok\n", "")
    assert stub.calls == [("check", load_config(name), None, True)]


def test_validate_checks_overrides_too(stub: Stub, capsys: pytest.CaptureFixture[str]):
    args = ["validate", "demo", "--set", "experiment.replications=3"]
    assert call(capsys, *args) == (0, "demo: ok\n", "")
    expected = load_config("demo", ["experiment.replications=3"])
    assert stub.calls == [("check", expected, None, True)]


def test_help_lists_the_built_in_configs(capsys: pytest.CaptureFixture[str]):
    for command in ("run", "plan", "validate", "doctor"):
        code, out, _ = call(capsys, command, "--help")
        assert code == 0
        assert all(name in out for name in built_in_names()), command


def test_schema_is_json(capsys: pytest.CaptureFixture[str]):
    code, out, _ = call(capsys, "schema")
    assert code == 0
    assert "labels" in json.loads(out)["properties"]


def test_prepare_imports_what_the_config_needs_and_prints_what_is_there(
    stub: Stub, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    args = ["--cache", str(tmp_path), "--force", "--logs", "random", "--logs", "standard_late"]
    code, out, _ = call(capsys, "prepare", "d", *args)
    assert code == 0
    assert "1,234" in out
    assert "is_click" in out
    ((_, request, cache, _, force),) = stub.calls
    config = load_config("kuairand-pure")
    assert (request.path, cache, force) == (Path("d"), tmp_path, True)
    assert request.logs == ("random", "standard_late")
    assert request.numerical == config.feature.numerical
    assert request.targets == ("play_time_ms", "is_click")


def test_synth_hands_its_sizes_on(stub: Stub, capsys: pytest.CaptureFixture[str]):
    code, out, _ = call(capsys, "synth", "d", "--version", "1k", "--users", "5", "--seed", "2")
    assert code == 0
    assert "120,000" in out
    sizes = {"version": "1k", "users": 5, "videos": 1500, "rows": 120_000, "seed": 2}
    assert stub.calls == [("synth", Path("d"), sizes)]


def test_report_makes_the_plot_and_the_page_again(
    stub: Stub, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    (tmp_path / "result.json").write_text("{}")
    code, out, _ = call(capsys, "report", str(tmp_path), "--png")
    files = ("plot.svg", "plot.png", "report.html")
    assert (code, out) == (0, "".join(f"Wrote {tmp_path / name}\n" for name in files))
    assert stub.calls == [("plot", tmp_path, True), ("page", tmp_path, None)]


def test_report_compares_several_runs(
    stub: Stub, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    runs = [tmp_path / name for name in "ab"]
    for run in runs:
        run.mkdir()
        (run / "result.json").write_text("{}")
    page = tmp_path / "page.html"
    code, out, _ = call(capsys, "report", *map(str, runs), "--out", str(page))
    assert (code, out) == (0, f"Wrote {page}\n")
    assert stub.calls == [("several", runs, page)]
    code, _, err = call(capsys, "report", *map(str, runs), "--png")
    assert (code, err) == (2, "--png: draws the plot of one run; pass one RUN_DIR\n")
    code, _, err = call(capsys, "report", str(runs[0]), "--out", str(tmp_path / "no" / "x.html"))
    assert code == 2
    assert "no is no folder; make it first" in err


def test_the_public_api_is_imported_on_first_use():
    assert {"Result", "__version__", "load_config", "plan", "run"} <= set(realdataexp.__all__)
    assert set(realdataexp.__all__) <= set(dir(realdataexp))
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        _ = realdataexp.rum
    if importlib.util.find_spec("realdataexp.api"):
        assert realdataexp.load_config is load_config
