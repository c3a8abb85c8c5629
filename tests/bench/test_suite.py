"""The suite: what it measures, what it writes, what it refuses."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import processes
import pytest

from bench import importing, process
from bench.suite import MEASUREMENTS, main
from realdataexp.errors import InputError, RunError

KEYS = {
    "schema_version", "status", "workload", "seed", "machine", "measurements", "figures",
    "comparison",
}  # fmt: skip
FIGURE_KEYS = {
    "measurement", "name", "value", "unit", "better", "n_repeats", "floor", "peer", "limit", "note",
}  # fmt: skip


class SomeFresh:
    """Processes of the suite: a fresh one where the figure is its memory, else a fork."""

    @staticmethod
    def run(args: list[str], **more: Any) -> Any:
        starts = subprocess if "bench.importing:import_data" in args else processes
        return starts.run(args, **more)


@pytest.fixture(scope="module")
def measured(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two measurements of the small size on a folder of one's own, with their baseline."""
    folder = tmp_path_factory.mktemp("bench")
    args = ["pretraining", "import", "--size", "small", "--data", str(small_data)]
    files = ["--out", str(folder / "out"), "--save-baseline", str(folder / "baseline.json")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process, "subprocess", SomeFresh)
        assert main([*args, *files]) == 0
    return folder


def test_a_suite_says_where_and_what_it_measured(measured: Path):
    result = json.loads((measured / "out/bench.json").read_text())
    assert result.keys() == KEYS
    assert (result["schema_version"], result["status"], result["seed"]) == (1, "complete", 0)
    assert result["workload"].startswith("size small on data_set, ")
    assert [*result["measurements"]] == ["import", "pretraining"]  # in the suite's order
    machine = result["machine"]
    assert machine["gflops"] > 0 and machine["gb_s"] > 0 and machine["n_threads"] >= 1
    assert machine["processor"] and machine["n_cpus"] and machine["torch"] and machine["python"]
    assert sorted(p.name for p in (measured / "out").iterdir()) == ["bench.json", "bench.md"]
    page = (measured / "out/bench.md").read_text()
    assert "## import: import of a data set" in page and "## pretraining: " in page


def test_figures_stand_beside_positive_floors_and_peers(measured: Path):
    figures = json.loads((measured / "out/bench.json").read_text())["figures"]
    by_name = {x["name"]: x for x in figures}
    assert [*by_name] == ["import", "import, peak memory", "pretraining"]
    for x in figures:
        assert x.keys() == FIGURE_KEYS
        assert x["value"] > 0 and x["floor"]["value"] > 0
        assert x["floor"]["ratio"] == pytest.approx(x["value"] / x["floor"]["value"])
    assert by_name["import"]["peer"]["what"].startswith("pandas")
    assert by_name["pretraining"]["peer"]["what"].startswith("a PyTorch DataLoader")
    memory = by_name["import, peak memory"]
    assert (memory["better"], memory["unit"]) == ("lower", "MiB")
    assert memory["value"] > memory["floor"]["value"]


def test_a_suite_compares_with_a_baseline_of_its_workload(
    measured: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(process, "subprocess", processes)
    baselines = json.loads((measured / "baseline.json").read_text())
    (baseline,) = baselines.values()
    assert baseline["ratios"].keys() == {
        "import: import", "import: import, peak memory", "pretraining: pretraining"
    }  # fmt: skip
    for kind in ("floor", "peer"):
        baseline["ratios"]["import: import"][kind] *= 1000  # as if it had been that much better
    path = tmp_path / "better.json"
    path.write_text(json.dumps(baselines))
    args = ["import", "--size", "small", "--data", str(small_data)]
    assert main([*args, "--out", str(tmp_path / "out"), "--baseline", str(path)]) == 0
    out = capsys.readouterr().out
    assert "2 of 3 ratios are more than 20 % worse" in out
    assert out.count("| import: import | ") == 2
    assert f"Bench folder: {tmp_path / 'out'}" in out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["pretrainin"], "NAME 'pretrainin': no such measurement; did you mean pretraining"),
        (["--size", "huge"], "--size huge: must be one of small, prototype"),
        (["--data", "nowhere"], "--data nowhere: no such folder"),
        (["si2023", "--data", "."], "--data: has no effect"),
        (["--scratch", "nowhere"], "--scratch nowhere: no such folder"),
        (["import", "--rows", "1"], "--rows 1: has no effect without the measurement big"),
        (["big", "--rows", "1,x"], "--rows 1,x: must be millions of rows"),
        (["big", "--rows", "0"], "--rows 0: must be millions of rows"),
        (["--baseline", "nowhere"], "--baseline nowhere: cannot be read"),
        (["--save-baseline", "nowhere/x"], "--save-baseline nowhere/x: nowhere is no folder"),
    ],
)
def test_a_wrong_name_or_option_is_one_line(
    args: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    assert main([*args]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith(message) and err.count("\n") == 1
    assert not any(tmp_path.iterdir())  # nothing is left behind


def test_a_baseline_of_another_workload_is_refused(
    measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    args = ["import", "--out", str(tmp_path / "out")]
    assert main([*args, "--baseline", str(measured / "baseline.json")]) == 2
    err = capsys.readouterr().err
    assert "has none of 'size prototype" in err and "but of 'size small on data_set" in err


def test_a_suite_overwrites_nothing(measured: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["si2023", "--size", "small", "--out", str(measured / "out")]) == 2
    assert "exists" in capsys.readouterr().err


def test_big_looks_for_space_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    args = ["big", "--rows", "1e9", "--out", str(tmp_path / "out")]
    assert main(args) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert "GB are free" in err and not (tmp_path / "out").exists()


def test_the_list_names_every_measurement(capsys: pytest.CaptureFixture[str]):
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*MEASUREMENTS]


def test_every_other_measurement_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "subprocess", processes)
    names = ["start", "arm-steps", "pandas", "si2023", "resume", "big"]
    out = tmp_path / "out"
    assert main([*names, "--size", "small", "--out", str(out)]) == 0
    result = json.loads((out / "bench.json").read_text())
    assert (result["status"], result["comparison"]) == ("complete", None)
    found = {(x["measurement"], x["name"]): x for x in result["figures"]}
    assert {measurement for measurement, _ in found} == {*names}
    for x in found.values():
        assert x["value"] >= 0
        assert all(x[kind]["value"] > 0 for kind in ("floor", "peer") if x[kind])
    assert found["pandas", "arm-steps, one replication"]["peer"]["ratio"] > 1
    assert found["resume", "resuming, until a step is done"]["peer"]["ratio"] > 0
    assert "9 networks a label" in found["arm-steps", "arm-steps, truth and 4 designs"]["note"]
    runs = {name: x for (part, name), x in found.items() if part == "big"}
    assert "7 worlds" in runs["0.02 M rows, comparison"]["note"]
    assert "14 worlds" in runs["0.02 M rows, comparison of many worlds"]["note"]
    limits = {name: x["limit"] for name, x in runs.items() if x["unit"] == "MiB"}
    assert len(limits) == 8
    for name, limit in limits.items():
        assert limit * 2**20 == pytest.approx(4e9 if "many worlds" in name else 3e9)


def test_what_a_fresh_process_holds_is_its_own(small_settings: Callable[..., dict[str, Any]]):
    ballast = b"x" * (600 << 20)
    found = process.measure(importing.parse, settings=small_settings())
    assert 0 < found["modules_mib"] <= found["peak_mib"] < 600 < len(ballast) / 2**19
    assert 0 < found["anonymous_mib"] <= found["peak_mib"]


def test_a_fault_in_a_process_keeps_its_kind(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process, "subprocess", processes)
    with pytest.raises(InputError, match="labels"):
        process.measure(importing.parse, settings={})
    with pytest.raises(RunError, match="unexpected keyword"):
        process.measure(importing.parse, nonsense=1)
