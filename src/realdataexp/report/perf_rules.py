"""What bounds a run, and what to change: explicit rules about what its folder tells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from realdataexp.report.perf import RESULTS, TRAINING, Perf

_SHORT = 10.0  # seconds
_SETUP, _PRETRAINING, _RESULTS = 0.3, 0.5, 0.2
_VALIDATION, _CHECKPOINTS = 0.2, 0.1
_GPU_IDLE, _GPU_BUSY, _THREADS_BUSY, _MACHINE_FULL, _OTHERS = 30.0, 80.0, 70.0, 60.0, 25.0

_SETTINGS = {
    ("loop", "validation"): "simulation.validate_every, or lower validation.validation_batches",
    ("loop", "checkpoints"): "simulation.save_every",
    ("pretrain", "validation"): "pretrain.validate_every_iters",
    ("pretrain", "checkpoints"): "pretrain.save_every_iters",
}


@dataclass(frozen=True)
class Advice:
    """A rule that holds: its code, what was seen, and what to change."""

    code: str
    seen: str
    change: str


def advise(perf: Perf) -> list[Advice]:
    """The rules that hold for a run.

    In this order:

    - `short`: under 10 s in all, so mostly starting; the other figures say little.
    - `setup`: setup took over 30 %: the data were imported.
    - `pretraining`: its training took over 50 %.
    - `results`: over 20 %: interval methods.
    - `validation`, `checkpoints`: over 20 % and 10 % of the loop, or of pretraining.
    - `gpu_idle`: the GPU was at work under 30 % of the time: steps too small to fill it.
    - `gpu_busy`: over 80 %: the GPU is the bound.
    - `crowded`: other processes took over 25 % of the machine's cores.
    - `threads_wait`: on the CPU, several threads that were busy under 70 % of the time on
      average: they waited for each other, or others were in the way.
    - `cpu_bound`: on the CPU, its threads were busy over 70 %, the machine's cores under 60 %.
    - `cpu_full`: the same, the machine's cores over 60 %.
    - `not_measured`: there is no row of monitor.parquet, so rules about use cannot be asked.
    """
    return [*_by_time(perf), *_by_part(perf), *_by_gpu(perf), *_by_cpu(perf)]


def _by_time(perf: Perf) -> Iterator[Advice]:
    if perf.total < _SHORT:
        seen = f"the whole run took {perf.total:.1f} s, mostly starting"
        yield Advice("short", seen, "judge its speed by a longer one")
    share = perf.share("setup")
    if share > _SETUP:
        change = "import the data once with realdataexp prepare: later runs find them in the cache"
        yield Advice("setup", f"setup took {share:.0%} of the time", change)
    share = perf.share(TRAINING)
    if share > _PRETRAINING:
        change = "raise pretrain.batch_size, or lower pretrain.epochs or pretrain.max_rows"
        yield Advice("pretraining", f"pretraining took {share:.0%} of the time", change)
    share = perf.share(RESULTS)
    if share > _RESULTS:
        change = "name fewer methods in experiment.intervals"
        yield Advice("results", f"results took {share:.0%} of the time", change)


def _by_part(perf: Perf) -> Iterator[Advice]:
    limits = {"validation": _VALIDATION, "checkpoints": _CHECKPOINTS}
    for (phase, part), setting in _SETTINGS.items():
        whole = perf.share(*(p for p in perf.phases if p.startswith(phase)))
        share = perf.share(f"{phase}: {part}")
        if share > limits[part] * whole:
            yield Advice(
                part, f"{part} took {share / whole:.0%} of the {phase}", f"raise {setting}"
            )


def _by_gpu(perf: Perf) -> Iterator[Advice]:
    utilisation = perf.used["gpu_percent"]
    if perf.is_cpu or utilisation is None:
        return
    seen = f"the GPU was at work {utilisation:.0f} % of the time"
    if utilisation < _GPU_IDLE:
        change = (
            "give it more at once: raise experiment.replications, simulation.batch_size or "
            "pretrain.batch_size; a small experiment is faster with --device cpu"
        )
        yield Advice("gpu_idle", f"{seen}: steps are too small to fill it", change)
    if utilisation > _GPU_BUSY:
        change = "set use_amp: true, or take smaller networks, fewer designs or replications"
        yield Advice("gpu_busy", f"{seen}: it is the bound", change)


def _by_cpu(perf: Perf) -> Iterator[Advice]:
    threads = perf.device["threads"]
    busy, machine, others = (perf.used[f"{name}_percent"] for name in ("cpu", "machine", "others"))
    if busy is None or machine is None or others is None:
        change = "run again with this version, for more than a second"
        yield Advice("not_measured", "monitor.parquet holds no measurement", change)
        return
    if others > _OTHERS:
        seen = f"other processes took {others:.0f} % of the machine"
        change = "wait until they are done" if threads == 1 else "set OMP_NUM_THREADS=1"
        yield Advice("crowded", seen, change)
    if not perf.is_cpu:
        return
    per_thread = busy / threads
    if per_thread < _THREADS_BUSY and threads > 1:
        seen = f"{threads} threads were busy {per_thread:.0f} % of the time"
        change = (
            f"set OMP_NUM_THREADS={max(1, round(busy / 100))}, and run several experiments side "
            "by side; or raise experiment.replications or simulation.batch_size"
        )
        yield Advice("threads_wait", f"{seen}: they waited for each other", change)
    elif per_thread >= _THREADS_BUSY and machine < _MACHINE_FULL:
        seen = f"its CPU threads ({threads}) are the bound, and the machine has cores to spare"
        change = "raise OMP_NUM_THREADS, run several experiments side by side, or use a GPU"
        yield Advice("cpu_bound", seen, change)
    elif per_thread >= _THREADS_BUSY:
        change = "take fewer replications or designs or smaller networks, or use a GPU"
        yield Advice("cpu_full", "the CPU is the bound, and the machine's cores are taken", change)
