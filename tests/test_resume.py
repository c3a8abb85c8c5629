"""A run that was stopped, at whatever moment, ends with the results of one that was not."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import processes
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from realdataexp import cli
from realdataexp.api import run
from realdataexp.config import load_config, yaml_text
from realdataexp.designs.pooling import Pooling
from realdataexp.errors import InputError
from realdataexp.loop import Loop
from realdataexp.pretrain import Pretraining
from realdataexp.runs import checkpoint, results
from realdataexp.runs.checkpoint import Checkpoints, file_digest
from realdataexp.runs.experiment import resume_experiment
from realdataexp.runs.folder import RunLog
from realdataexp.runs.machine import Clock
from realdataexp.runs.shard import Validator

Settings = Callable[..., dict[str, Any]]


class Killed(BaseException):
    """Ends a run as a kill does: nothing more is written."""


def _kills() -> ModuleType:
    path = Path(__file__).parents[1] / "bench" / "kills.py"
    spec = importlib.util.spec_from_file_location("kills", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


kills = _kills()
fingerprint: Callable[[Path], dict[str, str]] = kills.fingerprint

DESIGNS = [
    "pooling", "splitting", "weighting", "switchback",
    {"name": "cluster", "n_clusters": 4},
    {"name": "weighting", "label": "refitted", "model": "logistic", "refit_every": 3},
]  # fmt: skip
LOOP = {
    "batch_size": 8, "n_candidate": 4, "n_steps": 12, "validate_every": 5, "save_every": 3,
    "retrain_every": 4,
}  # fmt: skip
PRETRAIN = {
    "batch_size": 256, "epochs": 2, "save_every_iters": 3, "validate_every_iters": 5,
    "early_stopping": 3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots and pages are made from the tables, and take longer than all else."""
    for name in ("write_plot", "write_report"):
        monkeypatch.setattr(results, name, lambda folder: None)


MODES = ("global", "compare", "weighting", "shadow", "si2023", "starts")


def settings_of(mode: str, small_settings: Settings) -> dict[str, Any]:
    if mode == "si2023":
        settings = load_config("si2023").resolved()
        settings["simulation"] |= {**LOOP, "scheduler": {"kind": "plateau", "patience": 1}}
        settings["pretrain"]["save_every_iters"] = 50
        settings["experiment"] |= {"replications": 2, "designs": ["pooling", "switchback"]}
        settings["dataset"]["si2023"]["pretrain_rows"] = 2000
        return settings
    if mode == "starts":
        return small_settings(
            logging={"pictures": True},
            simulation=LOOP,
            pretrain=PRETRAIN,
            experiment={"replications": 3, "starts": 2, "designs": DESIGNS[1:]},
        )
    return small_settings(
        logging={"pictures": True},
        mode=mode,
        simulation=LOOP,
        pretrain=PRETRAIN,
        experiment={"replications": 2, "designs": DESIGNS},
    )


@pytest.fixture(scope="module")
def alone(
    small_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """The folder of a mode's run that was left alone: do not change it."""
    root, made = tmp_path_factory.mktemp("alone"), {}

    def get(mode: str) -> Path:
        if mode not in made:
            made[mode] = run(settings_of(mode, small_settings), out=root / mode).folder
        return made[mode]

    return get


@contextmanager
def stopping(owner: Any, name: str, nth: int, error: type[BaseException]) -> Iterator[None]:
    """While this is open, the nth call of a function raises instead."""
    real, n = getattr(owner, name), 0

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal n
        n += 1
        if n == nth:
            raise error
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, call)
        with pytest.raises(error):
            yield
    assert n >= nth


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def codes(folder: Path) -> list[str]:
    return [warning["code"] for warning in result_of(folder)["warnings"]]


# --- stopped at a chosen moment ------------------------------------------------------------------

MOMENTS: dict[str, tuple[Any, str, int, type[BaseException]]] = {
    "first batch of pretraining": (Pretraining, "advance", 1, Killed),
    "pretraining": (Pretraining, "advance", 5, KeyboardInterrupt),
    "pretraining of a later start": (Pretraining, "advance", 25, Killed),
    "a later start's first batch": (Pretraining, "advance", 21, KeyboardInterrupt),
    "check of pretraining": (Validator, "validate", 2, Killed),
    "end of pretraining": (Pretraining, "finish", 1, Killed),
    "first checkpoint's state": (checkpoint, "write_json", 1, Killed),
    "first checkpoint's index": (checkpoint, "write_json", 3, Killed),
    "step 2": (Loop, "step", 3, KeyboardInterrupt),
    "step 6": (Loop, "step", 7, Killed),
    "step 10": (Loop, "step", 11, KeyboardInterrupt),
    "validation in the loop": (Validator, "predictions", 6, Killed),
    "a later checkpoint's tensors": (checkpoint, "write_tensors", 7, Killed),
    "a later checkpoint's digests": (checkpoint, "write_json", 17, Killed),
    "a later checkpoint's index": (checkpoint, "write_json", 18, Killed),
    "pruning": (Checkpoints, "write_index_and_prune", 6, Killed),
    "the results": (results, "write_json", 1, Killed),
    "the plot": (results, "write_plot", 1, Killed),
}
OF_OTHER_MODES = ("step 6", "a later checkpoint's index")
OF_ALL_DESIGNS = ("step 2", "step 10", *OF_OTHER_MODES)


@pytest.mark.parametrize(
    ("mode", "moment"),
    [
        *(("compare", moment) for moment in OF_ALL_DESIGNS),
        *((mode, moment) for mode in MODES if mode != "compare" for moment in OF_OTHER_MODES),
        # where the number of designs changes nothing
        *(
            ("weighting", moment)
            for moment in MOMENTS
            if moment not in OF_ALL_DESIGNS and "later start" not in moment
        ),
        ("starts", "pretraining of a later start"),
        ("starts", "a later start's first batch"),
    ],
)
def test_a_run_stopped_at_any_moment_ends_as_if_it_had_not_been(
    mode: str, moment: str, alone: Callable[[str], Path], small_settings: Settings, tmp_path: Path
):
    whole = alone(mode)
    with stopping(*MOMENTS[moment]):
        run(settings_of(mode, small_settings), out=tmp_path / "r")
    assert resume_experiment(tmp_path / "r") == tmp_path / "r"
    assert fingerprint(tmp_path / "r") == fingerprint(whole)
    assert [p for p in tmp_path.rglob("*") if ".tmp" in p.name] == []
    index = [(x / "checkpoints/index.json").read_text() for x in (tmp_path / "r", whole)]
    assert index[0] == index[1]
    names = [{p.name for p in (x / "checkpoints").iterdir()} for x in (tmp_path / "r", whole)]
    assert names[0] == names[1]


def test_a_run_may_be_stopped_again_and_again(
    alone: Callable[[str], Path], small_settings: Settings, tmp_path: Path
):
    with stopping(Pretraining, "advance", 5, Killed):
        run(settings_of("compare", small_settings), out=tmp_path / "r")
    for owner, name, nth in [
        (Pretraining, "advance", 4), (Loop, "step", 2), (Loop, "step", 6),
        (Validator, "validate", 1), (results, "write_json", 1),
    ]:  # fmt: skip
        with stopping(owner, name, nth, Killed):
            resume_experiment(tmp_path / "r")
    resume_experiment(tmp_path / "r")
    assert fingerprint(tmp_path / "r") == fingerprint(alone("compare"))


def test_the_seconds_of_all_processes_count(small_settings: Settings, tmp_path: Path):
    with stopping(Loop, "step", 11, Killed):
        run(settings_of("global", small_settings), out=tmp_path / "r")
    resume_experiment(tmp_path / "r")
    timing = result_of(tmp_path / "r")["timing"]
    state = json.loads((tmp_path / "r/checkpoints/step_12/state.json").read_text())
    assert timing["total_seconds"] > state["clock"]["total"] > state["clock"]["phases"]["loop"]
    assert timing["loop_seconds"] > timing["validation_seconds"] + timing["checkpoint_seconds"]
    assert timing["arm_steps_per_second"] > 0


def test_phases_that_go_on_are_part_of_a_clocks_state():
    clock = Clock()
    with clock.timed("loop"):
        first = clock.state()
        with clock.timed("validation"):
            second = clock.state()
    later = Clock()
    later.load_state(second)
    assert list(first["phases"]) == ["loop"] and list(second["phases"]) == ["loop", "validation"]
    assert 0 < second["phases"]["validation"] < second["phases"]["loop"] < second["total"]
    with later.timed("loop"):
        pass
    assert later.seconds["loop"] > second["phases"]["loop"] and later.total > second["total"]


# --- data that run out ---------------------------------------------------------------------------


@pytest.mark.parametrize("save_every", [1, 1000])
@pytest.mark.parametrize("validate_every", [1, 1000])
def test_a_run_whose_data_ran_out_is_looked_at_and_saved_there_once(
    save_every: int, validate_every: int, small_settings: Settings, tmp_path: Path
):
    changes = {"batch_size": 16, "n_steps": 1000, "min_candidates": 150, "n_candidate": 150}
    loop = changes | {"save_every": save_every, "validate_every": validate_every}
    settings = small_settings(
        mode="pooling", simulation=loop, experiment={"replications": 1}, pretrain={"epochs": 1}
    )
    whole = run(settings, out=tmp_path / "alone").folder
    done = result_of(whole)["n_steps_done"]
    assert 0 < done < 60 and "data_exhausted" in codes(whole)
    metrics = pl.read_parquet(whole / "metrics.parquet")
    looks = metrics.filter(pl.col("split") == "validation", pl.col("phase") == "loop")
    assert looks["step"].max() == done
    assert not looks.drop("value").is_duplicated().any()
    index = json.loads((whole / "checkpoints/index.json").read_text())
    assert index["latest"] == f"step_{done}"
    # killed behind the last step, before and after the last look
    for nth in (2, 3) if validate_every > 1 else (done + 1,):
        out = tmp_path / f"r{nth}"
        with (
            stopping(Validator, "rankings", nth, Killed)
            if nth == 2
            else stopping(results, "write_json", 1, Killed)
        ):
            run(settings, out=out)
        resume_experiment(out)
        assert fingerprint(out) == fingerprint(whole)


# --- killed by the system ------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
def test_processes_killed_at_random_moments_end_as_one_that_was_not(
    small_config: Callable[..., Path], small_run: Path, tmp_path: Path
):
    config = small_config(
        simulation=LOOP | {"n_steps": 150, "save_every": 5},
        pretrain=PRETRAIN,
        experiment={"replications": 2, "designs": ["pooling", "weighting"]},
    )
    draw, out, log = random.Random(0), tmp_path / "r", tmp_path / "r" / "run.log"
    words = kills.start([str(config)], out)
    for _ in range(6):
        size = log.stat().st_size if log.exists() else 0
        with processes.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while process.poll() is None and not (log.exists() and log.stat().st_size > size):
                time.sleep(0.01)
            with suppress(subprocess.TimeoutExpired):
                process.wait(draw.uniform(0.0, 0.8))
            process.kill()
        assert process.returncode in (0, -signal.SIGKILL)
        words = kills.command("resume", "--quiet", str(out))
    processes.run(words, check=True, stdout=subprocess.DEVNULL)
    log_lines = log.read_text().splitlines()
    assert sum("resumes from" in line for line in log_lines) >= 3
    whole = run(config, out=tmp_path / "alone").folder
    assert fingerprint(out) == fingerprint(whole)


# --- what is damaged, foreign or malicious -------------------------------------------------------


@pytest.fixture(scope="module")
def _stopped(small_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("stopped") / "r"
    with stopping(Loop, "step", 11, Killed):
        run(settings_of("weighting", small_settings), out=out)
    return out


@pytest.fixture
def stopped(_stopped: Path, tmp_path: Path) -> Path:
    """A run that was killed in step 10; its newest checkpoint is step_9."""
    return Path(shutil.copytree(_stopped, tmp_path / "stopped"))


def index_of(folder: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((folder / "checkpoints/index.json").read_text())
    return index


def newest(folder: Path) -> Path:
    return folder / "checkpoints" / index_of(folder)["latest"]


def resume(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(["resume", "--quiet", str(folder)])
    out, err = capsys.readouterr()
    return code, out, err


def seal(place: Path) -> None:
    """Make the digests right again."""
    names = ("state.safetensors", "state.json")
    (place / "digests.json").write_text(json.dumps({x: file_digest(place / x) for x in names}))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def last_rows(place: Path) -> Path:
    rows = json.loads((place / "state.json").read_text())["rows"]
    return place.parent / "rows" / rows[-2]["name"]


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated tensors": lambda at: truncate(at / "state.safetensors"),
    "flipped byte": lambda at: flip(at / "state.safetensors"),
    "empty tensors": lambda at: (at / "state.safetensors").write_bytes(b"") and None,
    "no tensors": lambda at: (at / "state.safetensors").unlink(),
    "no state": lambda at: (at / "state.json").unlink(),
    "state is no JSON": lambda at: (at / "state.json").write_text("{") and None,
    "no digests": lambda at: (at / "digests.json").unlink(),
    "digests are no JSON": lambda at: (at / "digests.json").write_bytes(b"\xff\x00") and None,
    "digests are a list": lambda at: (at / "digests.json").write_text("[]") and None,
    "no folder": lambda at: shutil.rmtree(at),
    "pickle, found out": lambda at: (
        (at / "state.safetensors").write_bytes(pickle.dumps({})) and None
    ),
    "no rows": lambda at: last_rows(at).unlink(),
    "damaged rows": lambda at: flip(last_rows(at)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_used(
    damage: str, stopped: Path, alone: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
):
    place = newest(stopped)
    before = index_of(stopped)["kept"][-2]
    DAMAGES[damage](place)
    code, _, err = resume(stopped, capsys)
    assert (code, "Traceback" in err) == (0, False)
    found, whole = result_of(stopped), result_of(alone("weighting"))
    added = [x for x in found["warnings"] if x not in whole["warnings"]]
    assert [x["code"] for x in added] == ["damaged_checkpoint"]
    assert str(place.parent) in added[0]["message"] and f"{before} is used" in added[0]["message"]
    assert [x for x in found["warnings"] if x not in added] == whole["warnings"]
    for result in (found, whole):
        for key in ("warnings", "timing", "device", "versions"):
            result.pop(key)
    assert found == whole
    now, then = fingerprint(stopped), fingerprint(alone("weighting"))
    assert {k: v for k, v in now.items() if k != "result.json"} == {
        k: v for k, v in then.items() if k != "result.json"
    }
    assert index_of(stopped) == index_of(alone("weighting"))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"kept": []}', '{"kept": ["../../x"]}', "[" * 9999]
)
def test_without_a_sound_index_the_checkpoints_that_are_there_are_used(
    text: str, stopped: Path, alone: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
):
    name = newest(stopped).name
    (stopped / "checkpoints/index.json").write_text(text)
    assert resume(stopped, capsys)[0] == 0
    (said,) = [w for w in result_of(stopped)["warnings"] if w["code"] == "damaged_checkpoint"]
    assert said["message"] == f"{stopped}/checkpoints/index.json: damaged; {name} is used"
    assert index_of(stopped) == index_of(alone("weighting"))


@pytest.mark.parametrize("names", [["step_12"], ["pretrain_1", "step_12"]])
def test_an_index_of_missing_checkpoints_hides_none_that_is_there(
    names: list[str],
    stopped: Path,
    alone: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
):
    path = stopped / "checkpoints/index.json"
    path.write_text(json.dumps({"latest": names[-1], "best": {}, "kept": names}))
    assert resume(stopped, capsys)[0] == 0
    found = [w["message"] for w in result_of(stopped)["warnings"] if "checkpoint" in w["code"]]
    missing = stopped / "checkpoints/step_12/digests.json"
    assert found == [f"{missing}: missing; step_9 is used"]
    now, then = fingerprint(stopped), fingerprint(alone("weighting"))
    assert now.pop("result.json") != then.pop("result.json") and now == then


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX's")
@pytest.mark.parametrize(
    "name", ["checkpoints/index.json", "checkpoints/step_9/digests.json",
             "checkpoints/step_9/state.json", "checkpoints/step_9/state.safetensors",
             "monitor.parquet", "result.json", "places.json"],
)  # fmt: skip
def test_a_pipe_in_place_of_a_file_is_not_waited_for(
    name: str, stopped: Path, capsys: pytest.CaptureFixture[str]
):
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("hangs"))
    signal.alarm(60)
    (stopped / name).unlink(missing_ok=True)
    os.mkfifo(stopped / name)
    assert resume(stopped, capsys)[0] == 0
    signal.alarm(0)


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX's")
@pytest.mark.parametrize("name", ["config.yaml", "run.log"])
def test_a_pipe_in_place_of_the_config_or_the_log_is_refused(
    name: str, stopped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(yaml_text, "_PIPE_SECONDS", 0.5)
    (stopped / name).unlink()
    os.mkfifo(stopped / name)
    code, _, err = resume(stopped, capsys)
    assert (code, one_line(err), name in err) == (2, True, True), err


def test_where_the_index_is_missing_nothing_was_damaged(
    stopped: Path, alone: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
):
    (stopped / "checkpoints/index.json").unlink()
    assert resume(stopped, capsys)[0] == 0
    assert fingerprint(stopped) == fingerprint(alone("weighting"))


def one_line(err: str) -> bool:
    return err.count("\n") == 1 and "Traceback" not in err


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.name not in ("run.log", "monitor.parquet", "status.json")
    }


def test_where_all_are_damaged_each_is_told(stopped: Path, capsys: pytest.CaptureFixture[str]):
    kept = index_of(stopped)["kept"]
    for name in kept:
        flip(stopped / "checkpoints" / name / "state.safetensors")
    before = contents(stopped)
    code, _, err = resume(stopped, capsys)
    assert (code, err.count("\n")) == (2, len(kept))
    assert all("is not what was written; run the config again" in x for x in err.splitlines())
    assert contents(stopped) == before


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def put_pickle(place: Path) -> None:
    (place / "state.safetensors").write_bytes(pickle.dumps(_Evil(place.parents[2] / "evil")))


def put_zip(place: Path) -> None:
    torch.save({"x": _Evil(place.parents[2] / "evil")}, place / "state.safetensors")


def change_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def apply(place: Path) -> None:
        tensors = {k: t.clone() for k, t in load_file(place / "state.safetensors").items()}
        change(tensors)
        save_file(tensors, place / "state.safetensors")

    return apply


def change_state(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(place: Path) -> None:
        state = json.loads((place / "state.json").read_text())
        change(state)
        (place / "state.json").write_text(json.dumps(state))

    return apply


def a_name(tensors: dict[str, torch.Tensor], part: str) -> str:
    return next(name for name in tensors if part in name)


def fill(part: str, value: float) -> Callable[[Path], None]:
    return change_tensors(lambda t: t[a_name(t, part)].view(-1)[:1].fill_(value))


def reshape(part: str) -> Callable[[Path], None]:
    return change_tensors(lambda t: t.update({a_name(t, part): torch.zeros(3, 5)}))


def swap_rows(place: Path) -> None:
    """The metrics in place of the outcomes, with the right digest."""
    state = json.loads((place / "state.json").read_text())
    outcomes, metrics = (next(x for x in state["rows"] if k in x["name"]) for k in ("outc", "metr"))
    rows = place.parent / "rows"
    shutil.copy(rows / metrics["name"], rows / outcomes["name"])
    outcomes["sha256"] = metrics["sha256"]
    (place / "state.json").write_text(json.dumps(state))


def put_text(place: Path) -> None:
    (place / "state.json").write_text("{")


def change_rows(
    kind: str, change: Callable[[pl.DataFrame], pl.DataFrame]
) -> Callable[[Path], None]:
    """Another table in place of the last of a kind, with the right digest."""

    def apply(place: Path) -> None:
        state = json.loads((place / "state.json").read_text())
        path = next(
            place.parent / "rows" / row["name"]
            for row in reversed(state["rows"])
            if kind in row["name"] and pl.read_parquet(place.parent / "rows" / row["name"]).height
        )
        change(pl.read_parquet(path)).write_parquet(path)
        next(x for x in state["rows"] if x["name"] == path.name)["sha256"] = file_digest(path)
        (place / "state.json").write_text(json.dumps(state))

    return apply


def set_all(name: str, value: float) -> Callable[[Path], None]:
    return change_tensors(lambda t: t[name].fill_(value))


# intact and of the right shapes and types, but at odds with itself
FORGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no rows": (change_state(lambda s: s.update(rows=[])), "rows"),
    "rows of a save less": (change_state(lambda s: s.update(rows=s["rows"][:-4])), "rows"),
    "rows of a table less": (change_state(lambda s: s["rows"].pop(0)), "rows"),
    "rows in another order": (change_state(lambda s: s["rows"].reverse()), "rows"),
    "rows twice": (change_state(lambda s: s.update(rows=s["rows"] * 2)), "rows"),
    "rows elsewhere": (
        change_state(lambda s: s["rows"][0].update(name=f"../rows/{s['rows'][0]['name']}")), "rows"
    ),
    "a step less": (change_rows("curve", lambda t: t[:-1]), "rows"),
    "a step twice": (
        change_rows("curve", lambda t: t.with_columns(pl.lit(0, pl.Int64).alias("step"))), "rows"
    ),
    "an outcome less": (change_rows("outcomes", lambda t: t[1:]), "rows"),
    "an outcome twice": (change_rows("outcomes", lambda t: pl.concat([t[1:], t[-1:]])), "rows"),
    "more outcomes than visits": (
        change_rows("outcomes", lambda t: t.with_columns(n=pl.col("n") + 1000)), "rows"
    ),
    "outcomes of nobody": (
        change_rows("outcomes", lambda t: t.with_columns(pl.lit("x").alias("design"))), "rows"
    ),
    "an infinite sum": (
        change_rows("outcomes", lambda t: t.with_columns(pl.lit(math.inf).alias("sum"))), "rows"
    ),
    "a metric less": (change_rows("metrics", lambda t: t[1:]), "rows"),
    "a count below 0": (fill("network.0.n_updates", -1), "below 0"),
    "a moment below 0": (fill("network.0.moment_2", -1.0), "below 0"),
    "a rate of NaN": (fill("network.0.rate_factor", math.nan), "not finite"),
    "more visits than were": (fill("recorder.n_visits_W", 10_000), "rows"),
    "a chain without end": (set_all("world.previous", 3), "world"),
    "a chain out of range": (set_all("world.last_visit", 2**30), "world"),
    "users whom nobody knows": (set_all("world.eligible", 2**30), "world"),
    "a user twice": (set_all("world.eligible", 0), "world"),
    "more visits than rows": (set_all("world.n_visits", 2**20), "world"),
    "slots below 0": (set_all("world.slot", -1), "world"),
    "an id of no category": (fill("loop.0.batch.visit.user_cat", 2**30), "no category"),
    "a look to come": (change_state(lambda s: s.update(n_steps_validated=11)), "is of step 9"),
    "steps to come": (change_state(lambda s: s.update(n_steps_done=10**9)), "is of step"),
    "another phase": (change_state(lambda s: s.update(phase="pretrain")), "is of step 9"),
    "a huge number": (
        lambda at: (at / "state.json").write_text('{"rows": [], "n": 1e999}') and None, "no state"
    ),
}  # fmt: skip

FOREIGN: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickle": (put_pickle, "no safetensors file"),
    "torch.save": (put_zip, "no safetensors file"),
    "no JSON": (put_text, "no state of a run"),
    "a list": (lambda at: (at / "state.json").write_text("[]") and None, "no state of a run"),
    "NaN weight": (fill("network.0.params.", float("nan")), "not finite"),
    "infinite weight": (fill("network.1.params.", float("inf")), "not finite"),
    "NaN moment": (fill("network.0.moment_2", float("nan")), "not finite"),
    "NaN weight of G": (fill("design.0.params.", float("nan")), "not finite"),
    "shape of a weight": (reshape("network.0.params."), "instead of"),
    "shape of a count": (reshape("n_updates"), "instead of"),
    "shape of a lesson": (reshape("loop.0.batch.candidate.video_num"), "wait for training"),
    "a lesson less": (
        change_tensors(lambda t: [t.pop(x) for x in [*t] if x.startswith("loop.0.y")]),
        "wait for training",
    ),
    "shape of the world": (reshape("world.slot"), "instead of"),
    "shape of the recorder": (reshape("recorder."), "instead of"),
    "type": (
        change_tensors(lambda t: t.update({(n := a_name(t, "params")): t[n].double()})),
        "instead of",
    ),
    "tensor missing": (change_tensors(lambda t: t.pop(a_name(t, "moment_1"))), "is missing"),
    "tensor unknown": (
        change_tensors(lambda t: t.update({"network.0.params.x": torch.zeros(1)})),
        "is unknown",
    ),
    "no tensors": (change_tensors(lambda t: t.clear()), "not a state of this run"),
    **{
        f"no {key}": (change_state(lambda s, k=key: s.pop(k)), "state")
        for key in (
            "phase", "identity", "rows", "best", "n_steps_done", "warnings", "clock"
        )
    },
    "phase": (change_state(lambda s: s.update(phase="x")), "phase"),
    "steps as a text": (change_state(lambda s: s.update(n_steps_done="9")), "n_steps_done"),
    "another step": (change_state(lambda s: s.update(n_steps_done=3)), "is of step 3"),
    "warnings": (change_state(lambda s: s.update(warnings=[1])), "warnings"),
    "best": (change_state(lambda s: s.update(best={"loop": {"a": {"networks": "x"}}})), "best"),
    "figures": (
        change_state(lambda s: s.update(weight_metrics={"weighting": {"auc": "high"}})),
        "not a state of this run",
    ),
    "rows of another table": (swap_rows, "other columns"),
    **FORGED,
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_intact_but_no_state_of_the_run_is_refused(
    kind: str, stopped: Path, capsys: pytest.CaptureFixture[str]
):
    place, (change, said) = newest(stopped), FOREIGN[kind]
    change(place)
    seal(place)
    before = contents(stopped)
    code, out, err = resume(stopped, capsys)
    assert (code, out) == (2, "")
    assert one_line(err), err
    assert said in err and place.name in err and "run the config again" in err
    assert contents(stopped) == before
    assert not (stopped / "evil").exists()


def test_a_checkpoint_of_pretraining_is_checked_too(
    small_settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with stopping(Pretraining, "advance", 6, Killed):
        run(settings_of("global", small_settings), out=tmp_path / "r")
    place = newest(tmp_path / "r")
    assert place.name == "pretrain_5"
    for part, said in [("learner.0.params", "not finite"), ("best.0.", "not finite")]:
        copy = Path(shutil.copytree(tmp_path / "r", tmp_path / part))
        fill(f"pretraining.{part}", float("nan"))(newest(copy))
        seal(newest(copy))
        code, _, err = resume(copy, capsys)
        assert (code, one_line(err), said in err) == (2, True, True)
    reshape("pretraining.losses")(place)
    seal(place)
    code, _, err = resume(tmp_path / "r", capsys)
    assert (code, one_line(err), "instead of" in err) == (2, True, True)


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    change(config)
    path.write_text(yaml.safe_dump(config))


def test_another_config_is_refused_with_what_differs(
    stopped: Path, capsys: pytest.CaptureFixture[str]
):
    def change(config: dict[str, Any]) -> None:
        config["simulation"]["n_steps"] = 20
        config["labels"][1]["alpha_T"] = 0.5

    edit(stopped, change)
    before = contents(stopped)
    code, out, err = resume(stopped, capsys)
    name = newest(stopped).name
    told = "when {0} was made and is {1}: put it back, or run the config anew"
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"{stopped}: config.labels.1.alpha_T was 0.0 {told.format(name, 0.5)}",
        f"{stopped}: config.simulation.n_steps was 12 {told.format(name, 20)}",
    ]
    assert contents(stopped) == before


def test_a_config_that_is_none_is_refused(stopped: Path, capsys: pytest.CaptureFixture[str]):
    edit(stopped, lambda config: config["simulation"].update(n_steps=0))
    code, _, err = resume(stopped, capsys)
    assert (code, one_line(err), "simulation.n_steps = 0" in err) == (2, True, True)


def test_other_data_are_refused(
    small_data: Path, small_settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = Path(shutil.copytree(small_data, tmp_path / "data"))
    settings = settings_of("global", small_settings)
    settings["dataset"] |= {"path": str(data), "cache_path": str(tmp_path / "cache")}
    with stopping(Loop, "step", 5, Killed):
        run(settings, out=tmp_path / "r")
    path = next(data.rglob("log_standard_4_22*.csv"))
    lines = path.read_text().splitlines()
    column = lines[0].split(",").index("play_time_ms")
    row = lines[1].split(",")
    row[column] = str(int(row[column]) + 1)
    path.write_text("\n".join([lines[0], ",".join(row), *lines[2:]]) + "\n")
    code, _, err = resume(tmp_path / "r", capsys)
    assert (code, one_line(err)) == (2, True)
    assert f"{tmp_path / 'r'}: data." in err and "put it back" in err


# --- from other folders, with data elsewhere -----------------------------------------------------

OWN = """
from realdataexp.designs.pooling import Pooling


class Mine(Pooling):
    pass
"""


@pytest.fixture
def moved(
    small_data: Path, small_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """Where a run with relative paths was stopped, and one of the same that was left alone."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    shutil.copytree(small_data, home / "shop")
    settings = settings_of("pooling", small_settings)
    settings["dataset"] |= {"path": "shop", "cache_path": "cache"}
    run(settings, out="alone")
    with stopping(Loop, "step", 8, Killed):
        run(settings, out="r")
    return home / "r", home / "alone"


@pytest.mark.parametrize("way", ["as it was", "data moved", "all moved"])
def test_a_run_with_relative_paths_is_resumed_from_any_folder(
    way: str,
    moved: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    folder, whole = moved
    shutil.rmtree(folder.parent / "cache")
    monkeypatch.chdir("/")
    words: list[str] = []
    if way == "data moved":
        shutil.move(folder.parent / "shop", tmp_path / "elsewhere")
        code, _, err = resume(folder, capsys)
        assert (code, one_line(err)) == (2, True)
        assert f"{folder.parent / 'shop'}: no such folder; set dataset.path (or --data)" in err
        words = ["--data", str(tmp_path / "elsewhere")]
    if way == "all moved":
        new = tmp_path / "new"
        shutil.move(folder.parent, new)
        folder, whole = new / "r", new / "alone"
        monkeypatch.chdir(new)
    assert cli.main(["resume", "--quiet", str(folder), *words]) == 0
    assert fingerprint(folder) == fingerprint(whole)
    assert not Path("/cache").exists()
    places = json.loads((folder / "places.json").read_text())
    assert places["data"] == (words[1] if words else None)


def test_a_folder_for_data_that_have_none_is_refused(
    small_settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with stopping(Loop, "step", 2, Killed):
        run(settings_of("si2023", small_settings), out=tmp_path / "r")
    code = cli.main(["resume", "--quiet", str(tmp_path / "r"), "--data", str(tmp_path)])
    assert (code, one_line(err := capsys.readouterr().err)) == (2, True)
    assert "--data" in err and "si2023 has no folder" in err


def test_a_run_whose_own_module_is_not_found_says_where_it_was(
    small_settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "code").mkdir()
    (tmp_path / "code/design_of_my_own.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path / "code")
    settings = settings_of("pooling", small_settings) | {"mode": "design_of_my_own:Mine"}
    with stopping(Loop, "step", 5, Killed):
        run(settings, out=tmp_path / "r")
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "design_of_my_own")
    code, _, err = resume(tmp_path / "r", capsys)
    assert (code, one_line(err)) == (2, True)
    assert f"it was in {tmp_path}/code: set PYTHONPATH={tmp_path}/code and resume again" in err


@pytest.mark.parametrize("text", ["", "[]", '{"folder": 7}', '{"folder": "/nowhere"}', "[" * 9999])
def test_odd_places_are_as_good_as_none(
    text: str, stopped: Path, alone: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
):
    (stopped / "places.json").write_text(text)
    assert resume(stopped, capsys)[0] == 0
    assert fingerprint(stopped) == fingerprint(alone("weighting"))


# --- other folders -------------------------------------------------------------------------------


def test_a_finished_run_is_left_alone(small_run: Path, capsys: pytest.CaptureFixture[str]):
    before = contents(small_run)
    log = (small_run / "run.log").read_bytes()
    assert resume(small_run, capsys) == (0, f"{small_run}: complete; nothing to resume\n", "")
    assert contents(small_run) == before and (small_run / "run.log").read_bytes() == log


def test_resume_ends_with_the_table_and_can_be_said_twice(
    stopped: Path, capsys: pytest.CaptureFixture[str]
):
    code, out, err = resume(stopped, capsys)
    assert (code, err) == (0, "")
    assert out.endswith(f"Run folder: {stopped}\n") and out.count("\n") > 2
    assert resume(stopped, capsys) == (0, f"{stopped}: complete; nothing to resume\n", "")


def test_a_partial_run_goes_on(
    alone: Callable[[str], Path], small_settings: Settings, tmp_path: Path
):
    with stopping(Loop, "step", 8, KeyboardInterrupt):
        run(settings_of("shadow", small_settings), out=tmp_path / "r")
    assert result_of(tmp_path / "r")["status"] == "partial"
    with stopping(Loop, "step", 3, KeyboardInterrupt):
        resume_experiment(tmp_path / "r")
    assert result_of(tmp_path / "r")["status"] == "partial"
    resume_experiment(tmp_path / "r")
    assert fingerprint(tmp_path / "r") == fingerprint(alone("shadow"))


@pytest.mark.parametrize("kind", ["nothing", "empty", "other files", "a file"])
def test_a_folder_that_is_no_run_is_refused(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "r"
    if kind == "a file":
        folder.write_text("")
    elif kind != "nothing":
        folder.mkdir()
    if kind == "other files":
        (folder / "notes.txt").write_text("mine")
    code, out, err = resume(folder, capsys)
    assert (code, out) == (2, "")
    assert one_line(err) and f"{folder}: holds no config.yaml, so no run to resume" in err
    assert kind != "empty" or not any(folder.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "{}",
        "[1]",
        "[" * 9999,
        '{"schema_version": NaN}',
        '{"schema_version": [], "status": "complete"}',
    ],
)
def test_a_result_that_is_none_stops_no_resume(
    text: str, stopped: Path, alone: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
):
    (stopped / "result.json").write_text(text)
    assert resume(stopped, capsys)[0] == 0
    assert fingerprint(stopped) == fingerprint(alone("weighting"))
    assert "[run] " in (log := (stopped / "run.log").read_text())
    assert f"the result is written anew: {stopped}/result.json: " in log


@pytest.mark.skipif(os.name != "posix", reason="locks are POSIX's")
def test_a_folder_that_another_process_writes_is_refused(
    stopped: Path, capsys: pytest.CaptureFixture[str]
):
    log = RunLog("INFO")
    log.open(stopped / "run.log", is_new=False)
    try:
        before = contents(stopped)
        code, _, err = resume(stopped, capsys)
        assert (code, one_line(err), "another run is writing there" in err) == (2, True, True)
        assert contents(stopped) == before
    finally:
        log.stop()
    assert resume(stopped, capsys)[0] == 0


def test_killed_before_the_first_checkpoint_it_starts_anew(
    alone: Callable[[str], Path], small_settings: Settings, tmp_path: Path
):
    with stopping(Pretraining, "advance", 2, Killed):
        run(settings_of("global", small_settings), out=tmp_path / "r")
    assert not (tmp_path / "r/checkpoints").exists()
    resume_experiment(tmp_path / "r")
    assert "no checkpoint yet: starts anew" in (tmp_path / "r/run.log").read_text()
    assert fingerprint(tmp_path / "r") == fingerprint(alone("global"))


class Unsure(Pooling):
    """Says of its weights what is no number."""

    def diagnostics(self, evidence: Mapping[str, torch.Tensor], p: float) -> dict[str, float]:
        weights = {"mean_weight_C": 1.0, "mean_weight_T": 1.0}
        return {"log_loss": math.nan, "log_loss_of_constant": -math.inf, **weights}


def test_weights_that_have_no_number_can_be_saved(small_settings: Settings, tmp_path: Path):
    settings = settings_of("pooling", small_settings)
    settings["mode"] = f"{__name__}:Unsure"
    whole = run(settings, out=tmp_path / "alone").folder
    figures = result_of(whole)["weights"]["Unsure"]
    assert list(figures.values()) == [None, None, 1.0, 1.0]
    with stopping(Loop, "step", 12, Killed):
        run(settings, out=tmp_path / "r")
    resume_experiment(tmp_path / "r")
    assert fingerprint(tmp_path / "r") == fingerprint(whole)


def test_resume_refuses_a_folder_without_a_config(tmp_path: Path):
    with pytest.raises(InputError, match="no run to resume"):
        resume_experiment(tmp_path)
