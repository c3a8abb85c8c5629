"""What `realdataexp doctor` finds: what this machine offers, and what would go wrong in a run."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import psutil
import torch
from rich.console import Console
from rich.text import Text

from realdataexp.config import (
    NO_MODEL,
    Config,
    LabelConfig,
    RunSettings,
    default_cache_dir,
    load_config,
)
from realdataexp.device import Device, available_devices, choose_device
from realdataexp.errors import InputError, RunError
from realdataexp.files import read_json, write_json
from realdataexp.report.table import wrapped
from realdataexp.runs.beforehand import largest_setting, memory_need
from realdataexp.runs.executors.ray import Ray
from realdataexp.runs.executors.slurm import Slurm, jobs_of
from realdataexp.runs.machine import free_memory, size
from realdataexp.runs.setup import make_blocks
from realdataexp.train.config import is_train, load_train
from realdataexp.train.run import check_training
from realdataexp.worlds import world_of

_CONFIG_FOR_DATA = "kuairand-pure"  # as of prepare
_N, _REPEATS = 1024, 5  # rows and columns of the product that is timed
_TOLERANCE, _AMP_TOLERANCE = 1e-3, 3e-2  # of the norm; rounding to 10 bits gives 5e-4, to 8 4e-3
_LOW_DISK, _NO_DISK = 1 << 30, 50 << 20
_LOW_MEMORY = 1 << 30
_SKLEARN = ("random_forest", "svm", "gradient_boosting")
_RULES_FROM = 30.0  # times the next label's spread
_TIGHT = 0.7  # share of what is free
_JOB_SECONDS = 120.0  # that a job is waited for, and what it wrote after it ended
_SEEN_SECONDS = 30.0
_FINDINGS = "findings.json"  # of a job's node
_DATA_REMEDY = "give the folder of a whole data set, or fetch one with realdataexp download"
_SIGNS = {"ok": ("ok  ", "green"), "warning": ("warn", "yellow"), "stop": ("STOP", "bold red")}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what, such as "disk".
        status: ok; warning: a run goes on, but look at it; stop: a run would end here.
        text: what was found.
        remedy: what to do about it; empty where it is ok.
    """

    check: str
    status: Literal["ok", "warning", "stop"]
    text: str
    remedy: str = ""


def stops(check: str, error: InputError, remedy: str = "mend this") -> list[Finding]:
    """A stop for each line of an input error, whose end, after the last `;`, says what to do."""
    findings = []
    for line in error.faults:
        text, _, own = line.rpartition("; ")
        has_own = bool(text) and not own.startswith("there is")
        findings.append(Finding(check, "stop", *((text, own) if has_own else (line, remedy))))
    return findings


def examine(
    source: str | None = None,
    data: Path | None = None,
    overrides: Sequence[str] = (),
    executor: str | None = None,
) -> list[Finding]:
    """Everything that can be said of the machine and, with a config or data, of a run with them.

    Nothing is imported and no network is trained: that is what `validate` and `run` do.

    Args:
        source: a YAML file or the name of a built-in config.
        data: folder of a data set; without a config `kuairand-pure` says what is needed of it.
        overrides: changes of the config, ``key.sub=value`` each.
        executor: slurm: have a job look at its node, too; ray: ask the cluster, too; without a
            config or data, of the demo's run.
    """
    if executor is not None and executor not in _ENGINES:
        raise InputError(
            f"--executor {executor}: doctor knows {', '.join(_ENGINES)}; leave it out for this "
            "machine"
        )
    if source is None and data is None and executor is None:
        return check_machine(None)
    if source is not None and is_train(source):
        if executor is not None:
            raise InputError(
                f"--executor {executor}: {source} trains, on one machine; leave it out"
            )
        return examine_training(source, data, overrides)
    try:
        default = "demo" if data is None else _CONFIG_FOR_DATA
        config = load_config(source or default, overrides, data=data)
    except InputError as error:
        return [*check_machine(None), *stops("config", error)]
    return [
        *check_machine(config),
        *check_data(config),
        *check_alphas(config),
        *check_needed_packages(config),
        check_need(config),
        *(() if executor is None else _ENGINES[executor](config)),
    ]


def examine_training(source: str, data: Path | None, overrides: Sequence[str]) -> list[Finding]:
    """The machine, and what a training would do, for which its data are read."""
    config = None
    try:
        config = load_train(source, overrides, data=data)
        found = [Finding("training", "ok", line) for line in check_training(config)]
    except InputError as error:
        found = stops("training", error)
    return [*check_machine(config), *found]


def would_stop(findings: Iterable[Finding]) -> bool:
    """Whether something would end a run."""
    return any(finding.status == "stop" for finding in findings)


def print_findings(findings: Sequence[Finding], console: Console | None = None) -> None:
    """Print a line for each finding, what to do about it below, and a verdict."""
    console = console or Console(highlight=False)
    width = max((len(finding.check) for finding in findings), default=0)
    indent = " " * (width + 7)
    room = console.width - len(indent)
    for finding in findings:
        sign, style = _SIGNS[finding.status]
        first, *others = wrapped(finding.text, room)
        head = Text.assemble((sign, style), f" {finding.check.ljust(width)}  {first}")
        console.print(head, soft_wrap=True)
        others += wrapped(f"→ {finding.remedy}", room) if finding.remedy else []
        for line in others:
            console.print(Text(indent + line), soft_wrap=True)
    n = {status: sum(x.status == status for x in findings) for status in ("stop", "warning")}
    verdict = f"{n['stop'] or 'nothing'} would stop a run, warnings: {n['warning']}"
    console.print(Text(verdict, style="bold"), soft_wrap=True)


# --- the machine ---------------------------------------------------------------------------------


def check_machine(config: RunSettings | None) -> list[Finding]:
    """All that can be said without data; a config says which device and folders a run uses."""
    cache = config.cache_dir() if isinstance(config, Config) else default_cache_dir()
    results = Path("results") if config is None else config.path(config.logging.log_dir)
    return [
        *check_versions(),
        *check_devices(config),
        check_threads(),
        check_disk("cache", cache, "set REALDATAEXP_CACHE or dataset.cache_path elsewhere"),
        check_disk("results", results, "pass --out, or set logging.log_dir, elsewhere"),
        check_memory(),
        *check_packages(),
    ]


def check_versions() -> Iterator[Finding]:
    """Python, PyTorch, and the driver of an NVIDIA GPU."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    build = torch.version.cuda and f"CUDA {torch.version.cuda}"
    build = build or (torch.version.hip and f"ROCm {torch.version.hip}")
    yield Finding("torch", "ok", f"{torch.__version__}, built for {build or 'no CUDA or ROCm'}")
    driver, n_gpus = nvidia_driver()
    if driver is None:
        yield Finding("driver", "ok", "no NVIDIA driver answers")
    elif n_gpus and "cuda" not in available_devices():
        text = f"NVIDIA {driver} has {n_gpus} GPUs, but this PyTorch uses none"
        remedy = "install a PyTorch built for CUDA, not newer than the driver"
        yield Finding("driver", "warning", text, remedy)
    else:
        yield Finding("driver", "ok", f"NVIDIA {driver}, GPUs: {n_gpus}")


def nvidia_driver() -> tuple[str | None, int]:
    """The version of the NVIDIA driver and the number of its GPUs; (None, 0) where unknown."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # no package, no library, no driver: each has an error of its own
        return None, 0
    try:
        return nvml.nvmlSystemGetDriverVersion(), nvml.nvmlDeviceGetCount()
    finally:
        nvml.nvmlShutdown()


def check_devices(config: RunSettings | None) -> Iterator[Finding]:
    """Each device, with the proof that it computes; a stop if it is the one that would run."""
    there = available_devices()
    wanted = "auto" if config is None else config.device
    if wanted not in (*there, "auto"):
        try:
            choose_device(wanted)
        except InputError as error:
            yield from stops("device", error)
    used = there[0] if wanted == "auto" else wanted
    for kind in there:
        yield check_device(kind, kind == used)
        wants_amp = kind == used and config is not None and config.use_amp
        yield check_device(kind, wants_amp, use_amp=True)


def check_device(kind: str, is_used: bool, use_amp: bool = False) -> Finding:
    """Whether a device multiplies matrices, rightly, and how fast; or does in mixed precision."""
    if use_amp:
        name, tolerance, remedy = f"amp {kind}", _AMP_TOLERANCE, "set use_amp: false"
    else:
        name, tolerance = f"device {kind}", _TOLERANCE
        remedy = "take another with --device" + (" cpu" if kind != "cpu" else ", or mend PyTorch")
    bad: Literal["stop", "warning"] = "stop" if is_used else "warning"
    try:
        device = choose_device(kind, use_amp)
        error, gflops = prove(device)
    except Exception as fault:
        if use_amp and isinstance(fault, InputError):  # it has no mixed precision
            return stops(name, fault)[0] if is_used else Finding(name, "ok", "none")
        text = f"does not compute: {type(fault).__name__}: {' '.join(str(fault).split())}"
        return Finding(name, bad, text, remedy)
    what = str(device.amp).removeprefix("torch.") if use_amp else device.name
    if not error <= tolerance:
        return Finding(name, bad, f"{what}: wrong product, off by {error:.2g} of its size", remedy)
    used = ", which a run would use" if is_used and not use_amp else ""
    return Finding(name, "ok", f"{what}{used}: product right to {error:.1g}, {gflops:,.0f} GFLOP/s")


def prove(device: Device, n: int = _N) -> tuple[float, float]:
    """Multiply two matrices on a device.

    Returns:
        How far the product is from that of the CPU in float64, relative to its size; and GFLOP/s,
        the median of a few repeats (of a product as small as those of a run, not the peak).
    """
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(n, n, generator=generator) for _ in range(2))
    there_a, there_b = device.tensor(a), device.tensor(b)
    seconds = []
    with device.autocast():
        product = there_a @ there_b  # warms up
        for _ in range(_REPEATS):
            device.synchronize()
            start = time.perf_counter()
            product = there_a @ there_b
            device.synchronize()
            seconds.append(time.perf_counter() - start)
    right = a.double() @ b.double()
    error = (product.cpu().double() - right).norm() / right.norm()
    return float(error), 2 * n**3 / statistics.median(seconds) / 1e9


def check_threads() -> Finding:
    """How many cores PyTorch uses, and whether somebody else does too."""
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    threads, load = torch.get_num_threads(), psutil.getloadavg()[0]
    setting = os.environ.get("OMP_NUM_THREADS") or "not set"
    text = f"PyTorch uses {threads} of {usable} cores (OMP_NUM_THREADS {setting}; load {load:.1f})"
    if threads > usable:
        return Finding("threads", "warning", text, f"set OMP_NUM_THREADS={usable}: more only wait")
    if threads > 1 and load + threads > 1.25 * usable:
        text += ": others use them too, and a run waits for its slowest process"
        return Finding("threads", "warning", text, "set OMP_NUM_THREADS=1")
    return Finding("threads", "ok", text)


def check_disk(check: str, folder: Path, elsewhere: str) -> Finding:
    """Whether a folder that runs write into, there or not yet, can be written, and how much."""
    there = _nearest_existing(folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return Finding(check, "stop", f"{folder}: {there} cannot be written", elsewhere)
    free = shutil.disk_usage(there).free
    text = f"{folder}: {size(free)} free"
    if free < _LOW_DISK:
        status: Literal["stop", "warning"] = "stop" if free < _NO_DISK else "warning"
        return Finding(check, status, text, f"free some, or {elsewhere}")
    return Finding(check, "ok", text)


def _nearest_existing(folder: Path) -> Path:
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())


def check_memory() -> Finding:
    """The memory that is left for a run."""
    free = free_memory()
    text = f"{size(free)} of {size(psutil.virtual_memory().total)} available"
    if free < _LOW_MEMORY:
        return Finding("memory", "warning", text, "end other programs, or take fewer replications")
    return Finding("memory", "ok", text)


def check_packages() -> Iterator[Finding]:
    """What is lost without the optional packages."""
    lost = {
        "scikit-learn": ("no cluster design, no random_forest, svm, gradient_boosting", "sklearn"),
        "nvidia-ml-py": ("runs do not tell the GPU's use, memory and power", "gpu"),
    }
    for package, (what, extra) in lost.items():
        if (version := installed(package)) is not None:
            yield Finding(package, "ok", version)
        elif extra == "gpu" and "cuda" not in available_devices():
            yield Finding(package, "ok", "not installed, and no use for it: no NVIDIA GPU")
        else:
            remedy = f"pip install 'realdataexp[{extra}]'"
            yield Finding(package, "warning", f"not installed: {what}", remedy)


def installed(package: str) -> str | None:
    """The version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# --- a run, before its data are imported ---------------------------------------------------------


def check_data(config: Config) -> Iterator[Finding]:
    """Whether the data set's files are there, whole, and with the columns that are asked for."""
    world = world_of(config)
    try:
        if faults := world.faults(config):
            raise InputError(*faults)
        text, files = world.found(config)
    except InputError as error:
        yield from stops("data", error, _DATA_REMEDY)
        return
    yield Finding("data", "ok", text)
    # an import writes at most about what it reads
    needed, cache = sum(file.stat().st_size for file in files), config.cache_dir().absolute()
    if files and (free := shutil.disk_usage(_nearest_existing(cache)).free) < needed:
        text = f"the files take {size(needed)}; {cache} has {size(free)} free for their import"
        yield Finding("data", "warning", text, "free some, or set dataset.cache_path elsewhere")


def check_alphas(config: Config) -> Iterator[Finding]:
    """Whether the arms can rank differently, and every label's alphas do something."""
    yield _compare_arms(config)
    for label in config.labels:
        if label.model == NO_MODEL and {label.alpha_T, label.alpha_C} - {None, 1.0}:
            text = f"{label.name} has no model, so its alphas have no effect"
            yield Finding("alphas", "warning", text, "leave them out, or give it a model")
    is_raw = any(label.score_unit == "raw" for label in config.learned)
    for arm, policy in zip("TC", reversed(config.policies()), strict=True) if is_raw else ():
        ruling = ruling_label(config.learned, policy.score or {}, world_of(config).scatter)
        if ruling is not None:
            text = f"arm {arm}: {ruling.name} is likely to rule the score, in raw units"
            remedy = "set score_unit: standard, or smaller alphas for it"
            yield Finding("score_unit", "warning", text, remedy)


def _compare_arms(config: Config) -> Finding:
    control, treatment = config.policies()
    is_aa, learned = config.experiment.aa, config.learned
    if control.score is None or treatment.score is None or control.explore != treatment.explore:
        if control == treatment and not is_aa:
            text = "both arms do the same, and every effect is 0"
            remedy = "change one of them, or set experiment.aa: true"
            return Finding("arms", "warning", text, remedy)
        return Finding("arms", "ok", "an A/A test" if is_aa else "the arms differ")
    alpha_TL, alpha_CL = (
        [score.get(x.name, 0.0) for x in learned] for score in (treatment.score, control.score)
    )
    for arm, alphas in (("T", alpha_TL), ("C", alpha_CL)):
        if not any(alphas) and not (is_aa and arm == "C"):
            text = f"arm {arm}: every alpha is 0, so all candidates tie and the first is shown"
            return Finding("alphas", "warning", text, f"give a label an alpha_{arm} other than 0")
    if is_aa:
        return Finding("alphas", "ok", "an A/A test: both arms rank with alpha_T")
    if alpha_TL == alpha_CL:
        text = "equal in both arms: they rank alike, and every effect is 0"
        remedy = "change an alpha_T or alpha_C, or set experiment.aa: true"
        return Finding("alphas", "warning", text, remedy)
    t, c = next((t, c) for t, c in zip(alpha_TL, alpha_CL, strict=True) if t or c)
    is_multiple = all(x * c == y * t for x, y in zip(alpha_TL, alpha_CL, strict=True))
    if is_multiple and t * c > 0:
        text = f"those of T are {t / c:g} times those of C: both arms rank alike"
        return Finding("alphas", "warning", text, "change the alphas' proportions")
    return Finding("alphas", "ok", "the arms can rank differently")


def ruling_label(
    learned: Sequence[LabelConfig], score: Mapping[str, float], scatter: Callable[[str], float]
) -> LabelConfig | None:
    """The label that alone decides an arm's ranking: its term scatters 30 times the next one's.

    A standardised prediction scatters by less than 1, a raw one as its world says.
    """
    spread = {
        x.name: abs(score.get(x.name, 0.0))
        * (1.0 if x.score_unit == "standard" else scatter(x.target))
        for x in learned
    }
    first, *others = sorted(learned, key=lambda x: spread[x.name], reverse=True)
    next_one = spread[others[0].name] if others else 0.0
    return first if next_one and spread[first.name] >= _RULES_FROM * next_one else None


def check_needed_packages(config: Config) -> Iterator[Finding]:
    """Optional packages that the config's designs cannot do without."""
    for design in config.designs():
        needs = design.name == "cluster" or design.options.get("model") in _SKLEARN
        if needs and installed("scikit-learn") is None:
            text = f"design {design.label} needs scikit-learn, which is not installed"
            yield Finding("packages", "stop", text, "pip install 'realdataexp[sklearn]'")


def check_need(config: Config) -> Finding:
    """Whether the run's memory fits, by the estimate of `memory_need`."""
    kind = config.device if config.device in available_devices() else "auto"
    device = choose_device(kind)  # check_devices tells where the one that is asked for is missing
    try:
        need = memory_need(config, device, make_blocks(config))
    except InputError as error:
        return stops("memory need", error)[0]
    except (Exception, SystemExit) as error:  # a model from outside, which only a run can judge
        text = f"not known: {type(error).__name__}: {' '.join(str(error).split())}"
        remedy = "see what the run says: timing.peak_memory_mb"
        return Finding("memory need", "warning", text, remedy)
    text = f"about {size(need.host)} for {need.networks:,} networks of {need.parameters:,} numbers"
    tight: list[tuple[int, float, str]] = [(need.host, free_memory(), "memory")]
    if need.device:
        text += f", {size(need.device)} of them on {device.torch.type}"
        tight.append((need.device, device_free(device), "device memory"))
    key, value = largest_setting(config)
    remedy = f"lower {key}, which is {value:,}, or the number of designs"
    for wanted, free, what in tight:
        if wanted > _TIGHT * free:
            status: Literal["stop", "warning"] = "stop" if wanted > free else "warning"
            return Finding(
                "memory need", status, f"{text}; {size(free)} of {what} are free", remedy
            )
    return Finding("memory need", "ok", text)


def device_free(device: Device) -> float:
    """Bytes that an accelerator has left; infinite where PyTorch does not tell."""
    ask = getattr(getattr(torch, device.torch.type, None), "mem_get_info", None)
    return math.inf if ask is None else float(ask()[0])


# --- a cluster -----------------------------------------------------------------------------------


def check_slurm(config: Config) -> Iterator[Finding]:
    """Whether Slurm takes the jobs of such a run, and what one finds on its node in ten seconds."""
    results = _nearest_existing(config.path(config.logging.log_dir))
    with tempfile.TemporaryDirectory(prefix=".doctor-", dir=results) as folder:
        job = Slurm(Path(folder), config.cluster, program="realdataexp.doctor")
        try:
            yield Finding("slurm", "ok", job.check())
            yield from _on_a_node(job, Path(folder) / "0", config.cluster.gpus)
        except InputError as error:
            yield from stops("slurm", error)
        except RunError as error:
            yield Finding("slurm", "stop", str(error), "ask who runs the cluster")
        finally:
            job.cancel()


def check_ray(config: Config) -> Iterator[Finding]:
    """Whether a cluster answers, or can be started here, and has what a part asks for."""
    try:
        yield Finding("ray", "ok", Ray(Path(), config.cluster).check())
    except InputError as error:
        yield from stops("ray", error)


_ENGINES: dict[str, Callable[[Config], Iterator[Finding]]] = {
    "slurm": check_slurm,
    "ray": check_ray,
}


def _on_a_node(job: Slurm, part: Path, n_gpus: float) -> Iterator[Finding]:
    """What a job says of the node where it runs; ``part`` is its folder."""
    part.mkdir()
    job.start([part])
    path, until = part / _FINDINGS, time.monotonic() + _JOB_SECONDS
    while not path.exists():
        time.sleep(1.0)
        state = jobs_of(part.parent)[part.name]
        if not state.is_alive:
            until = min(until, time.monotonic() + _SEEN_SECONDS)
        if time.monotonic() < until:
            continue
        if state.is_alive:
            text = f"job {state.number} is {state.state} after {_JOB_SECONDS:g} s ({state.reason})"
            yield Finding("slurm job", "warning", text, "try again when the queue is shorter")
        else:
            text = f"{state.end}; nothing that it wrote to {part} is seen here"
            remedy = "set logging.log_dir on storage that all nodes share, or mend cluster.setup"
            yield Finding("slurm job", "stop", text, remedy)
        return
    there = [Finding(**x) for x in read_json(path)]
    yield Finding("storage", "ok", f"{part.parents[1]}: what a job wrote there is seen here")
    yield from (replace(x, check=f"node: {x.check}") for x in there)
    kinds = {x.check for x in there if x.status == "ok" and x.check.startswith("device ")}
    if not n_gpus:
        yield Finding("node: gpu", "ok", "none is asked for (cluster.gpus = 0)")
    elif not kinds - {"device cpu"}:
        text = f"cluster.gpus = {n_gpus:g}, but a job with so many computes on none"
        remedy = "install a PyTorch for that GPU there, or mend cluster.setup"
        yield Finding("node: gpu", "stop", text, remedy)


if __name__ == "__main__":  # as such a job
    write_json(Path(sys.argv[1]) / _FINDINGS, [vars(x) for x in check_machine(None)])
