"""Runs that are tracked, and finished runs that are imported, in the real libraries."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stores
import yaml
from mlflow import MlflowClient
from processes import Popen
from stores import in_mlflow, in_tensorboard, mlflow_run, repeatable, result_of, single

from realdataexp import cli
from realdataexp.api import run
from realdataexp.config import load_config
from realdataexp.errors import InputError
from realdataexp.loop import Loop
from realdataexp.runs import results
from realdataexp.runs.checkpoint import Checkpoints
from realdataexp.runs.experiment import check_experiment, resume_experiment
from realdataexp.tracking import mlflow as own_mlflow
from realdataexp.tracking.session import import_run

Settings = Callable[..., dict[str, Any]]
TABLES = ("outcomes", "metrics", "estimates", "units")


class Killed(BaseException):
    """Ends a run as a kill does: nothing more is written."""


@pytest.fixture(scope="module")
def tracked_settings(
    small_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., dict[str, Any]]:
    """Settings of a tracked small run; those of `small_run` but for the logging."""
    log_dir = tmp_path_factory.mktemp("log_dir")

    def make(*trackers: Any) -> dict[str, Any]:
        logging = {"log_dir": str(log_dir), "trackers": list(trackers), "pictures": True}
        return small_settings(logging=logging)

    return make


@pytest.fixture(scope="module")
def tracked(
    tracked_settings: Callable[..., dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run that both trackers were told of: do not change it."""
    out = tmp_path_factory.mktemp("tracked") / "run"
    return run(tracked_settings("tensorboard", "mlflow"), out=out).folder


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("write_plot", "write_report"):
        monkeypatch.setattr(results, name, lambda folder: None)


def database_of(folder: Path) -> str:
    log_dir = result_of(folder)["config"]["logging"]["log_dir"]
    return f"sqlite:///{log_dir}/mlflow.db"


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = cli.main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out, err


# --- live and imported ---------------------------------------------------------------------------


def test_both_trackers_have_the_same_series_and_each_point_once(tracked: Path):
    there = in_mlflow(tracked)
    assert in_tensorboard(tracked) == single(there)
    for points in there.values():
        steps = [step for step, _ in points]
        assert steps == sorted(set(steps))
    # steps done, not numbers of steps
    assert [step for step, _ in there["outcome/click/pooling_T"]] == list(range(1, 11))
    looks = [step for step, _ in there["validation/click/auc/pooling/shared"]]
    assert looks == [0, 5, 10]
    result = result_of(tracked)
    assert there["gte/GTE_click"] == [(10, result["gte_results"]["GTE_click"])]
    assert not any(w["code"] == "tracker_failed" for w in result["warnings"])


def test_an_imported_run_has_the_series_of_the_live_one_and_no_point_twice(
    tracked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    again = tmp_path / "again"
    left_out = shutil.ignore_patterns("tensorboard", "tracking.json", "checkpoints")
    shutil.copytree(tracked, again, ignore=left_out)
    uri = database_of(tracked)
    n = sum(len(points) for points in in_mlflow(tracked).values())
    for sent in (n, 0):
        code, out, _ = call(capsys, "track", again, "--to", "mlflow", "--experiment", "again")
        assert code == 0 and f"sent {sent:,} points to mlflow, which had {n - sent:,}" in out
        assert f"mlflow ui --backend-store-uri {uri} (the page needs all of MLflow" in out
        code, out, _ = call(capsys, "track", again, "--to", "tensorboard")
        assert code == 0 and f"sent {sent:,} points to tensorboard" in out
        assert f"tensorboard --logdir {again / 'tensorboard'}" in out
        assert in_mlflow(again) == in_mlflow(tracked)
        assert in_tensorboard(again) == in_tensorboard(tracked)
    client, stored = mlflow_run(again)
    assert client.get_experiment(stored.info.experiment_id).name == "again"
    assert len(client.search_runs([stored.info.experiment_id])) == 1


def test_importing_a_run_that_was_tracked_live_sends_nothing(
    tracked: Path, capsys: pytest.CaptureFixture[str]
):
    before = in_mlflow(tracked), in_tensorboard(tracked)
    for name in ("tensorboard", "mlflow"):
        assert "sent 0 points" in call(capsys, "track", tracked, "--to", name)[1]
    assert (in_mlflow(tracked), in_tensorboard(tracked)) == before


def test_mlflow_knows_the_config_what_tells_runs_apart_and_the_files(tracked: Path):
    client, stored = mlflow_run(tracked)
    assert stored.info.status == "FINISHED" and stored.info.run_name == "run"
    assert client.get_experiment(stored.info.experiment_id).name == "realdataexp"
    params, tags = stored.data.params, stored.data.tags
    assert params["simulation.n_steps"] == "10" and params["labels.1.name"] == "click"
    assert not any("trackers" in name for name in params)
    assert (tags["mode"], tags["seed"]) == ("compare", "0")
    assert tags["version.torch"] == result_of(tracked)["versions"]["torch"]
    files = {file.path for file in client.list_artifacts(stored.info.run_id)}
    assert files == {"config.yaml", "result.json", "plot.svg", "report.html"}
    log_dir = Path(result_of(tracked)["config"]["logging"]["log_dir"])
    assert (log_dir / "mlflow.db").is_file()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    copies = list((log_dir / "mlflow-artifacts").rglob("result.json"))
    assert (tracked / "result.json").read_bytes() in [copy.read_bytes() for copy in copies]


def test_a_run_that_was_deleted_in_mlflow_is_imported_anew(
    tracked: Path, small_run: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(small_run, tmp_path / "r"))
    options = {"uri": database_of(tracked), "experiment": "mine"}
    import_run(folder, "mlflow", options)
    client, first = mlflow_run(folder)
    client.delete_run(first.info.run_id)
    assert "had 0 of them already" in import_run(folder, "mlflow", options)[0]
    _, second = mlflow_run(folder)
    assert second.info.run_id != first.info.run_id
    assert client.get_experiment(second.info.experiment_id).name == "mine"


def test_several_processes_may_begin_with_one_new_database(tracked: Path, tmp_path: Path):
    copies = [tmp_path / f"r{i}" for i in range(2)]
    for copy in copies:
        shutil.copytree(tracked, copy, ignore=shutil.ignore_patterns("track*", "checkpoints"))
    words = [sys.executable, "-m", "realdataexp", "track"]
    options = ["--to", "mlflow", "--uri", f"sqlite:///{tmp_path}/new.db"]
    processes = [Popen([*words, str(copy), *options]) for copy in copies]
    assert [process.wait() for process in processes] == [0, 0]
    client, stored = mlflow_run(copies[0])
    assert len(client.search_runs([stored.info.experiment_id])) == 2
    assert in_mlflow(copies[1]) == in_mlflow(tracked)
    assert not list(tmp_path.glob(".*"))


# --- off by default, and without influence -------------------------------------------------------


def test_without_trackers_nothing_is_imported_and_nothing_written(
    small_config: Callable[..., Path], tmp_path: Path
):
    config = small_config(simulation={"n_steps": 1}, experiment={"designs": ["pooling"]})
    code = (
        "import sys\nfrom realdataexp import cli\n"
        f"assert cli.main(['run', {str(config)!r}, '--out', {str(tmp_path / 'r')!r}]) == 0\n"
        "print('loaded', {'mlflow', 'tensorboard', 'sqlalchemy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("loaded set()\n")
    assert not list(tmp_path.rglob("*track*")) + list(tmp_path.rglob("*tensorboard*"))


def test_tracking_changes_no_bit_of_a_result(tracked: Path, small_run: Path):
    for name in TABLES:
        file = f"{name}.parquet"
        assert (tracked / file).read_bytes() == (small_run / file).read_bytes(), name
    left_out = ("config", "timing", "device", "versions")
    one, other = (
        {key: value for key, value in result_of(folder).items() if key not in left_out}
        for folder in (tracked, small_run)
    )
    assert one == other


# --- interrupted ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("owner", "name", "nth", "error"),
    [(Loop, "step", 8, KeyboardInterrupt), (Checkpoints, "save", 4, Killed)],
)
def test_a_resumed_run_has_the_series_of_a_whole_one(
    owner: Any, name: str, nth: int, error: type[BaseException], tracked: Path,
    tracked_settings: Callable[..., dict[str, Any]], tmp_path: Path,
):  # fmt: skip
    stop(owner, name, nth, error, tracked_settings("tensorboard", "mlflow"), tmp_path / "r")
    status = mlflow_run(tmp_path / "r")[1].info.status
    assert status == "KILLED"
    (file,) = (tmp_path / "r" / "tensorboard").iterdir()
    with file.open("ab") as half_a_record:
        half_a_record.write(b"\x40\x00\x00")
    resume_experiment(tmp_path / "r")
    assert repeatable(in_mlflow(tmp_path / "r")) == repeatable(in_mlflow(tracked))
    assert repeatable(in_tensorboard(tmp_path / "r")) == repeatable(in_tensorboard(tracked))
    assert mlflow_run(tmp_path / "r")[1].info.status == "FINISHED"


def stop(
    owner: Any, name: str, nth: int, error: type[BaseException], settings: dict[str, Any], out: Path
) -> None:
    """Run until the nth call of a function, which raises instead."""
    real, n = getattr(owner, name), 0

    def stopping(*args: Any, **kwargs: Any) -> Any:
        nonlocal n
        n += 1
        if n == nth:
            raise error
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, stopping)
        with pytest.raises(error):
            run(settings, out=out)


@pytest.mark.usefixtures("no_pictures")
def test_other_trackers_do_not_make_it_another_run(
    tracked: Path, tracked_settings: Callable[..., dict[str, Any]], tmp_path: Path
):
    out = tmp_path / "r"
    stop(Loop, "step", 8, KeyboardInterrupt, tracked_settings(), out)
    with pytest.raises(InputError, match=r"status = 'partial': only a complete run.*resume"):
        import_run(out, "tensorboard", {})
    config = yaml.safe_load((out / "config.yaml").read_text())
    config["logging"]["trackers"] = ["tensorboard"]
    (out / "config.yaml").write_text(yaml.safe_dump(config))
    resume_experiment(out)
    # what had come before it was there is sent too
    assert repeatable(in_tensorboard(out)) == repeatable(in_tensorboard(tracked))


# --- what goes wrong -----------------------------------------------------------------------------


def test_a_missing_library_is_one_line_before_anything_is_made(
    small_config: Callable[..., Path], small_run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    for module, extra in (("tensorboard", "tensorboard"), ("sqlalchemy", "mlflow")):
        monkeypatch.setitem(sys.modules, module, None)
        config = small_config(logging={"trackers": [extra]})
        for words in (
            ("run", config, "--out", tmp_path / "r"),
            ("run", config, "--dry-run"),
            ("track", small_run, "--to", extra),
        ):
            code, _, err = call(capsys, *words)
            assert (code, err.count("\n")) == (2, 1)
            assert err.startswith(f"tracker {extra}: its library cannot be imported")
            assert f"pip install 'realdataexp[{extra}]'" in err
    assert not (tmp_path / "r").exists()


def test_a_database_that_cannot_be_used_is_said_at_the_start(
    tracked_settings: Callable[..., dict[str, Any]], small_run: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    (tmp_path / "no.db").write_text("this is no database, whatever its name may say")
    uri = f"sqlite:///{tmp_path}/no.db"
    with pytest.raises(InputError, match=r"mlflow cannot be written to: .*file is not a database"):
        run(tracked_settings({"name": "mlflow", "uri": uri}), out=tmp_path / "r")
    assert not (tmp_path / "r").exists()
    code, _, err = call(capsys, "track", small_run, "--to", "mlflow", "--uri", uri)
    said = err.splitlines()[-1]  # MLflow, which other tests imported, speaks before
    assert code == 2 and said.startswith(f"{small_run}: mlflow cannot be written to")
    assert "file is not a database" in said


@pytest.mark.usefixtures("no_pictures")
def test_a_database_that_breaks_in_mid_run_ends_in_a_warning_and_a_whole_run(
    tracked_settings: Callable[..., dict[str, Any]], small_run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    real, n = Loop.step, 0

    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal n
        n += 1
        if n == 7:
            with sqlite3.connect(tmp_path / "x.db") as database:
                database.execute("DROP TABLE metrics")
        return real(*args, **kwargs)

    monkeypatch.setattr(Loop, "step", step)
    uri = f"sqlite:///{tmp_path}/x.db"
    folder = run(tracked_settings({"name": "mlflow", "uri": uri}), out=tmp_path / "r").folder
    (said,) = warnings_of(folder)
    assert "mlflow: 2 of 4 transfers failed, the last with" in said
    assert said.endswith("send what is missing with: realdataexp track RUN_DIR --to mlflow")
    assert result_of(folder)["status"] == "complete"
    for name in TABLES:
        file = f"{name}.parquet"
        assert (folder / file).read_bytes() == (small_run / file).read_bytes(), name


def warnings_of(folder: Path) -> list[str]:
    found = result_of(folder)["warnings"]
    return [warning["message"] for warning in found if warning["code"] == "tracker_failed"]


@pytest.mark.usefixtures("no_pictures")
def test_a_tracker_that_fails_for_a_while_gets_everything_later(
    tracked: Path, tracked_settings: Callable[..., dict[str, Any]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    real, n = own_mlflow._Run.log, 0

    def log(*args: Any) -> None:
        nonlocal n
        n += 1
        real(*args)
        if n == 2:
            raise OSError(28, "No space left on device")  # stored, but nobody can know

    monkeypatch.setattr(own_mlflow._Run, "log", log)
    folder = run(tracked_settings("mlflow"), out=tmp_path / "r").folder
    (said,) = warnings_of(folder)
    assert said.startswith("mlflow: 1 of 4 transfers failed, the last with OSError: [Errno 28]")
    assert said.endswith("what they lacked came later")
    assert repeatable(in_mlflow(folder)) == repeatable(in_mlflow(tracked))


@pytest.mark.usefixtures("no_pictures")
def test_files_that_are_not_taken_are_told_of_in_the_result(
    tracked_settings: Callable[..., dict[str, Any]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    def refuse(*args: Any) -> None:
        raise PermissionError("the folder of the files cannot be written")

    monkeypatch.setattr(MlflowClient, "log_artifact", refuse)
    folder = run(tracked_settings("mlflow"), out=tmp_path / "r").folder
    (said,) = warnings_of(folder)
    assert "1 of 5 transfers failed, the last with PermissionError" in said
    monkeypatch.undo()
    assert "sent 0 points" in import_run(folder, "mlflow", {})[0]
    client, stored = mlflow_run(folder)
    assert "result.json" in {file.path for file in client.list_artifacts(stored.info.run_id)}


# --- the config, and trackers from outside -------------------------------------------------------


@pytest.mark.parametrize(
    ("trackers", "said"),
    [
        ("[mlflw]", "logging.trackers.0.name = \"mlflw\": unknown tracker; did you mean mlflow?"),
        ("[mlflow, {name: mlflow}]", "mlflow stands more than once"),
        ("[{name: mlflow, uri: runs.db}]", "logging.trackers.0.uri = \"runs.db\": must be a local"),
        ("[{name: mlflow, url: x}]", "logging.trackers.0.url: unknown key; did you mean uri?"),
        ("[{name: tensorboard, uri: x}]", "there are no settings here: remove it"),
    ],
)  # fmt: skip
def test_a_wrong_tracker_is_one_line(trackers: str, said: str):
    with pytest.raises(InputError) as raised:
        load_config("demo", [f"logging.trackers={trackers}"])
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_trackers_are_kept_in_the_config_of_a_run():
    trackers = "[tensorboard, {name: mlflow, uri: 'sqlite:///x.db'}, {name: 'a.b:C', depth: 3}]"
    config = load_config("demo", [f"logging.trackers={trackers}"])
    written = config.resolved()["logging"]["trackers"]
    assert written == yaml.safe_load(trackers)
    assert load_config(config.resolved()) == config
    assert load_config("demo").logging.trackers == ()


OUTSIDE = '''
import json
from realdataexp.tracking import Tracker, Writer

class Lines(Tracker):
    """A line of JSON for each point."""
    file: str = "points.jsonl"

    def open(self, run):
        return _Lines(run.folder / self.file)

class _Lines(Writer):
    def __init__(self, path):
        self.path, self.hint = path, f"cat {path}"

    def last_steps(self):
        lines = self.path.read_text().splitlines() if self.path.exists() else ()
        return {name: step for name, step, _ in map(json.loads, lines)}

    def log(self, points):
        with self.path.open("a") as file:
            file.writelines(json.dumps(point) + "\\n" for point in points)
'''


@pytest.mark.usefixtures("no_pictures")
def test_a_tracker_from_outside_is_one_file_and_one_name(
    small_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "outside_tracker.py").write_text(OUTSIDE)
    monkeypatch.syspath_prepend(tmp_path)
    tracker = {"name": "outside_tracker:Lines", "file": "own.jsonl"}
    settings = small_settings(
        mode="pooling", simulation={"n_steps": 2}, logging={"trackers": [tracker]}
    )
    folder = run(settings, out=tmp_path / "r").folder
    n_lines = len((folder / "own.jsonl").read_text().splitlines())
    assert n_lines > 50
    assert f"sent 0 points to {tracker['name']}" in import_run(folder, tracker["name"], {})[0]
    assert len((folder / "own.jsonl").read_text().splitlines()) == n_lines
    tracker["fil"] = tracker.pop("file")
    with pytest.raises(
        InputError, match=r"logging\.trackers\.0\.fil: unknown key; did you mean file"
    ):
        check_experiment(load_config(settings))
    settings["logging"]["trackers"] = ["outside_tracker:Writer"]
    with pytest.raises(InputError, match=r"is not a realdataexp\.tracking\.Tracker"):
        check_experiment(load_config(settings))


def test_stores_reads_what_is_there_twice(tmp_path: Path):
    # the oracle of this file must see a point that is written twice
    from realdataexp.tracking import Point
    from realdataexp.tracking.tensorboard import _Events

    (tmp_path / "tensorboard").mkdir()
    writer = _Events(tmp_path / "tensorboard")
    writer.log([Point("a", 1, 0.5), Point("a", 1, 0.5)])
    writer.close(is_finished=True)
    assert stores.in_tensorboard(tmp_path) == {"a": [(1, 0.5), (1, 0.5)]}
