"""Each rule of perf on a made-up run, what it answers about the GPU, and a real run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from realdataexp import cli
from realdataexp.errors import InputError
from realdataexp.report import perf
from realdataexp.report.perf import (
    advise,
    draw_perf,
    gpu_answer,
    phase_seconds,
    read_perf,
    write_perf_plot,
)

TIMING = {
    "total_seconds": 100.0,
    "setup_seconds": 5.0,
    "pretrain_seconds": 20.0,
    "pretrain_validation_seconds": 1.0,
    "pretrain_checkpoint_seconds": 1.0,
    "loop_seconds": 70.0,
    "validation_seconds": 5.0,
    "checkpoint_seconds": 3.0,
    "arm_steps_per_second": 1000.0,
    "pretrain_rows_per_second": 5000.0,
    "peak_memory_mb": 500.0,
    "device_peak_memory_mb": None,
}
CPU = {"name": "cpu: x86_64 (threads: 4)", "reason": "best of cpu", "threads": 4}
GPU = {"name": "cuda: NVIDIA H200 (140 GiB)", "reason": "best of cuda, cpu", "threads": 4}
SAMPLE = {
    "process": 0,
    "phase": "loop",
    "cpu_percent": 350.0,
    "machine_percent": 99.0,
    "cores": 4,
    "memory_mb": 400.0,
    "gpu_percent": None,
    "gpu_memory_mb": None,
    "gpu_watts": None,
}
KINDS = {"gpu_percent": pl.Float64, "gpu_memory_mb": pl.Float64, "gpu_watts": pl.Float64}


def make(
    folder: Path,
    *samples: dict[str, Any],
    device: dict[str, Any] = CPU,
    timing: dict[str, Any] | None = None,
) -> Path:
    """A run folder with what perf reads; each sample replaces some values of a plain one."""
    result = {
        "schema_version": 1,
        "status": "complete",
        "timing": {**TIMING, **(timing or {})},
        "device": device,
        "config": {"simulation": {"batch_size": 64, "n_candidate": 10}},
    }
    (folder / "result.json").write_text(json.dumps(result))
    if samples:
        rows = [{**SAMPLE, "seconds": float(i), **x} for i, x in enumerate(samples)]
        pl.DataFrame(rows, schema_overrides=KINDS).write_parquet(folder / "monitor.parquet")
    return folder


def codes(folder: Path) -> list[str]:
    return [advice.code for advice in advise(read_perf(folder))]


def test_phases_add_up_and_hold_no_second_twice():
    phases = phase_seconds(TIMING)
    assert sum(phases.values()) == 100.0
    assert phases["pretrain: training"] == 18.0
    assert phases["loop: steps"] == 62.0
    assert phases["results"] == 5.0
    assert sum(phase_seconds({"total_seconds": 2.0}).values()) == 2.0


@pytest.mark.parametrize(
    ("timing", "expected"),
    [
        ({}, []),
        ({"total_seconds": 9.0, "setup_seconds": 1.0, "pretrain_seconds": 2.0,
          "loop_seconds": 5.0, "validation_seconds": 0.0, "checkpoint_seconds": 0.0,
          "pretrain_validation_seconds": 0.0, "pretrain_checkpoint_seconds": 0.0}, ["short"]),
        ({"total_seconds": 140.0, "setup_seconds": 45.0}, ["setup"]),
        ({"total_seconds": 200.0, "pretrain_seconds": 120.0}, ["pretraining"]),
        ({"total_seconds": 130.0}, ["results"]),
        ({"validation_seconds": 15.0}, ["validation"]),
        ({"checkpoint_seconds": 8.0}, ["checkpoints"]),
        ({"pretrain_validation_seconds": 5.0}, ["validation"]),
        ({"pretrain_checkpoint_seconds": 3.0}, ["checkpoints"]),
    ],
)  # fmt: skip
def test_rules_about_time(timing: dict[str, Any], expected: list[str], tmp_path: Path):
    assert codes(make(tmp_path, {}, timing=timing)) == [*expected, "cpu_full"]


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ({"gpu_percent": 10.0}, ["gpu_idle"]),
        ({"gpu_percent": 50.0}, []),
        ({"gpu_percent": 95.0}, ["gpu_busy"]),
        ({}, []),
        ({"gpu_percent": 50.0, "cpu_percent": 100.0}, ["crowded"]),
    ],
)
def test_rules_about_the_gpu(sample: dict[str, Any], expected: list[str], tmp_path: Path):
    assert codes(make(tmp_path, sample, device=GPU)) == expected


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ({"cpu_percent": 120.0, "machine_percent": 35.0}, ["threads_wait"]),
        ({"cpu_percent": 120.0, "machine_percent": 90.0}, ["crowded", "threads_wait"]),
        ({"cpu_percent": 390.0, "machine_percent": 30.0, "cores": 16}, ["cpu_bound"]),
        ({"cpu_percent": 390.0, "machine_percent": 99.0}, ["cpu_full"]),
    ],
)
def test_rules_about_the_cpu(sample: dict[str, Any], expected: list[str], tmp_path: Path):
    assert codes(make(tmp_path, sample)) == expected


def test_one_thread_cannot_wait_for_others_nor_be_told_to_be_one(tmp_path: Path):
    sample = {"cpu_percent": 50.0, "machine_percent": 90.0}
    (advice,) = advise(read_perf(make(tmp_path, sample, device={**CPU, "threads": 1})))
    assert (advice.code, "OMP" in advice.change) == ("crowded", False)


def test_use_is_that_of_learning_where_it_was_seen(tmp_path: Path):
    other = {"phase": "validation", "cpu_percent": 0.0, "machine_percent": 0.0}
    assert codes(make(tmp_path, other, {})) == ["cpu_full"]
    assert codes(make(tmp_path, other)) == ["threads_wait"]


def test_without_a_measurement_only_time_is_judged(tmp_path: Path):
    assert codes(make(tmp_path)) == ["not_measured"]
    make(tmp_path, {})
    rows = pl.read_parquet(tmp_path / "monitor.parquet")
    rows.clear().write_parquet(tmp_path / "monitor.parquet")
    assert codes(tmp_path) == ["not_measured"]
    assert write_perf_plot(tmp_path).is_file()


@pytest.mark.parametrize(
    ("device", "sample", "peak", "answer"),
    [
        (CPU, {}, None, "No: it ran on cpu"),
        (GPU, {"gpu_percent": 60.0, "gpu_watts": 300.0}, 900.0, "Yes: cuda: NVIDIA H200"),
        (GPU, {"gpu_percent": 0.0}, None, "Doubtful: cuda: NVIDIA H200"),
        (GPU, {}, 900.0, "Yes, as result.json says"),
        ({**GPU, "name": "mps: Apple's Metal"}, {}, None, "Yes, as result.json says: mps"),
    ],
)
def test_did_it_really_run_on_the_gpu(
    device: dict[str, Any], sample: dict[str, Any], peak: float | None, answer: str, tmp_path: Path
):
    folder = make(tmp_path, sample, device=device, timing={"device_peak_memory_mb": peak})
    said = gpu_answer(read_perf(folder))
    assert said.startswith(answer)
    assert ("took up to 900 MiB" in said) == (peak is not None)
    assert ("60 % of the time while learning, at 300 W" in said) == ("gpu_watts" in sample)


def test_the_plot_has_the_phases_and_what_was_measured(tmp_path: Path):
    samples = [{"phase": "pretrain"}, {"gpu_percent": 30.0}, {"process": 1, "gpu_percent": 40.0}]
    make(tmp_path, *samples, device=GPU)
    figure = draw_perf(read_perf(tmp_path))
    bars, curves = figure.axes
    assert [text.get_text() for text in curves.texts] == ["pretrain", "loop"]
    assert {line.get_label() for line in curves.get_lines()} >= {"GPU", "all cores of the machine"}
    assert len(bars.patches) == 8
    (tmp_path / "monitor.parquet").unlink()
    assert len(draw_perf(read_perf(tmp_path)).axes) == 1


def test_the_command_answers_on_a_real_run(
    small_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    shutil.copytree(small_run, tmp_path / "run")
    assert cli.main(["perf", str(tmp_path / "run")]) == 0
    out = capsys.readouterr().out
    for words in ("loop: steps", "arm-steps/s", "Did it really run on the GPU?", "perf.svg"):
        assert words in out
    found = read_perf(small_run)
    result = json.loads((small_run / "result.json").read_text())
    assert found.total == pytest.approx(result["timing"]["total_seconds"])
    assert "</svg>" in (tmp_path / "run" / "perf.svg").read_text()


def test_every_rule_is_on_its_page():
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    emitted = set(re.findall(r'Advice\(\s*"(\w+)"', Path(perf.__file__ or "").read_text()))
    assert len(emitted) == 8
    for code in (*emitted, *(rule[0] for rule in (*perf._LONGEST, *perf._PARTS))):
        assert f"| `{code}` |" in page


def test_a_folder_that_is_no_run_is_wrong_input(tmp_path: Path):
    assert cli.main(["perf", str(tmp_path)]) == 2
    make(tmp_path)
    (tmp_path / "monitor.parquet").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"monitor\.parquet"):
        read_perf(tmp_path)
