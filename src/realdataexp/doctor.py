"""What `realdataexp doctor` finds: what this machine offers, and what would go wrong in a run."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from rich.console import Console
from rich.text import Text

from realdataexp.config import NO_MODEL, Config, LabelConfig, default_cache_dir, load_config
from realdataexp.device import Device, available_devices, choose_device
from realdataexp.errors import InputError
from realdataexp.report.table import wrapped
from realdataexp.runs.machine import free_memory, size
from realdataexp.runs.memory_need import largest_setting, memory_need
from realdataexp.worlds import world_of

_CONFIG_FOR_DATA = "kuairand-pure"  # as of prepare
_N = 1024  # rows and columns of the product that is timed
_REPEATS = 5
_TOLERANCE, _AMP_TOLERANCE = 1e-3, 3e-2  # of the norm; rounding to 10 bits gives 5e-4, to 8 4e-3
_LOW_DISK, _NO_DISK = 1 << 30, 50 << 20
_LOW_MEMORY = 1 << 30
_SKLEARN = ("random_forest", "svm", "gradient_boosting")
_RULES_FROM = 30.0  # times the next label's spread
_TIGHT = 0.7  # share of what is free
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


def _ok(check: str, text: str) -> Finding:
    return Finding(check, "ok", text)


def _warning(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, "warning", text, remedy)


def _stop(check: str, text: str, remedy: str) -> Finding:
    return Finding(check, "stop", text, remedy)


def stops(check: str, error: InputError, remedy: str = "mend this") -> list[Finding]:
    """A stop for each line of an input error.

    Args:
        check: what was looked at.
        error: its lines; behind the last `;` stands what to do, as a rule.
        remedy: for lines that do not say what to do.
    """
    findings = []
    for line in error.faults:
        text, _, own = line.rpartition("; ")
        has_own = bool(text) and not own.startswith("there is")
        findings.append(_stop(check, text, own) if has_own else _stop(check, line, remedy))
    return findings


def examine(
    source: str | None = None, data: Path | None = None, overrides: Sequence[str] = ()
) -> list[Finding]:
    """Everything that can be said of the machine and, with a config or data, of a run with them.

    Nothing is imported and no network is trained: that is what `validate` and `run` do.

    Args:
        source: a YAML file or the name of a built-in config.
        overrides: changes of the config, ``key.sub=value`` each.
        data: folder of a data set; without a config `kuairand-pure` says what is needed of it.
    """
    if source is None and data is None:
        return check_machine(None)
    try:
        config = load_config(source or _CONFIG_FOR_DATA, overrides, data=data)
    except InputError as error:
        return [*check_machine(None), *stops("config", error)]
    return [
        *check_machine(config),
        *check_data(config),
        *check_alphas(config),
        *check_needed_packages(config),
        check_need(config),
    ]


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
        if finding.remedy:
            others += wrapped(f"→ {finding.remedy}", room)
        for line in others:
            console.print(Text(indent + line), soft_wrap=True)
    n = {status: sum(x.status == status for x in findings) for status in ("stop", "warning")}
    verdict = f"{n['stop']} would stop a run" if n["stop"] else "nothing would stop a run"
    console.print(Text(f"{verdict}, warnings: {n['warning']}", style="bold"), soft_wrap=True)


# --- the machine ---------------------------------------------------------------------------------


def check_machine(config: Config | None) -> list[Finding]:
    """All that can be said without data; a config says which device and folders a run uses."""
    return [
        *check_versions(),
        *check_devices(config),
        check_threads(),
        *check_disks(config),
        check_memory(),
        *check_packages(),
    ]


def check_versions() -> Iterator[Finding]:
    """Python, PyTorch, and the driver of an NVIDIA GPU."""
    yield _ok("python", f"{platform.python_version()} on {platform.platform()}")
    build = torch.version.cuda and f"CUDA {torch.version.cuda}"
    build = build or (torch.version.hip and f"ROCm {torch.version.hip}")
    yield _ok("torch", f"{torch.__version__}, built for {build or 'no CUDA or ROCm'}")
    driver, n_gpus = nvidia_driver()
    if driver is None:
        yield _ok("driver", "no NVIDIA driver answers")
    elif n_gpus and "cuda" not in available_devices():
        text = f"NVIDIA {driver} has {n_gpus} GPUs, but this PyTorch uses none"
        yield _warning(
            "driver", text, "install a PyTorch built for CUDA, not newer than the driver"
        )
    else:
        yield _ok("driver", f"NVIDIA {driver}, GPUs: {n_gpus}")


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


def check_devices(config: Config | None) -> Iterator[Finding]:
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
        is_used = kind == used
        yield check_device(kind, is_used)
        yield check_device(kind, is_used and config is not None and config.use_amp, use_amp=True)


def check_device(kind: str, is_used: bool, use_amp: bool = False) -> Finding:
    """Whether a device multiplies matrices, rightly, and how fast; or does in mixed precision."""
    judge = _stop if is_used else _warning
    if use_amp:
        name, tolerance, remedy = f"amp {kind}", _AMP_TOLERANCE, "set use_amp: false"
    else:
        name, tolerance = f"device {kind}", _TOLERANCE
        remedy = "take another with --device" + (" cpu" if kind != "cpu" else ", or mend PyTorch")
    try:
        device = choose_device(kind, use_amp)
        error, gflops = prove(device)
    except Exception as fault:
        if use_amp and isinstance(fault, InputError):  # it has no mixed precision
            return stops(name, fault)[0] if is_used else _ok(name, "none")
        text = f"does not compute: {type(fault).__name__}: {' '.join(str(fault).split())}"
        return judge(name, text, remedy)
    what = str(device.amp).removeprefix("torch.") if use_amp else device.name
    if not error <= tolerance:
        return judge(name, f"{what}: wrong product, off by {error:.2g} of its size", remedy)
    used = ", which a run would use" if is_used and not use_amp else ""
    return _ok(name, f"{what}{used}: product right to {error:.1g}, {gflops:,.0f} GFLOP/s")


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
        return _warning("threads", text, f"set OMP_NUM_THREADS={usable}: more only wait")
    if threads > 1 and load + threads > 1.25 * usable:
        text += ": others use them too, and a run waits for its slowest process"
        return _warning("threads", text, "set OMP_NUM_THREADS=1")
    return _ok("threads", text)


def check_disks(config: Config | None) -> Iterator[Finding]:
    """Whether cache and results can be written, and how much."""
    cache = default_cache_dir() if config is None else config.cache_dir()
    results = Path("results") if config is None else config.path(config.logging.log_dir)
    yield check_disk("cache", cache, "set REALDATAEXP_CACHE or dataset.cache_path elsewhere")
    yield check_disk("results", results, "give --out or logging.log_dir elsewhere")


def check_disk(check: str, folder: Path, elsewhere: str) -> Finding:
    """A folder that runs write into, there or not yet."""
    there = _nearest_existing(folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return _stop(check, f"{folder}: {there} cannot be written", elsewhere)
    free = shutil.disk_usage(there).free
    text, remedy = f"{folder}: {size(free)} free", f"free some, or {elsewhere}"
    if free < _LOW_DISK:
        return (_stop if free < _NO_DISK else _warning)(check, text, remedy)
    return _ok(check, text)


def _nearest_existing(folder: Path) -> Path:
    return next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())


def check_memory() -> Finding:
    """The memory that is left for a run."""
    free = free_memory()
    text = f"{size(free)} of {size(psutil.virtual_memory().total)} available"
    if free < _LOW_MEMORY:
        return _warning("memory", text, "end other programs, or take fewer replications")
    return _ok("memory", text)


def check_packages() -> Iterator[Finding]:
    """What is lost without the optional packages."""
    if (version := installed("scikit-learn")) is not None:
        yield _ok("scikit-learn", version)
    else:
        lost = "not installed: no cluster design, no random_forest, svm, gradient_boosting"
        yield _warning("scikit-learn", lost, "pip install 'realdataexp[sklearn]'")
    if (version := installed("nvidia-ml-py")) is not None:
        yield _ok("nvidia-ml-py", version)
    elif "cuda" not in available_devices():
        yield _ok("nvidia-ml-py", "not installed, and no use for it: no NVIDIA GPU")
    else:
        lost = "not installed: runs do not tell the GPU's use, memory and power"
        yield _warning("nvidia-ml-py", lost, "pip install 'realdataexp[gpu]'")


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
    yield _ok("data", text)
    if files:
        yield from _check_import(config, sum(file.stat().st_size for file in files))


def _check_import(config: Config, n_bytes: int) -> Iterator[Finding]:
    """An import writes at most about what it reads."""
    cache = config.cache_dir().absolute()
    free = shutil.disk_usage(_nearest_existing(cache)).free
    if free < n_bytes:
        text = f"the files take {size(n_bytes)}; {cache} has {size(free)} free for their import"
        yield _warning("data", text, "free some, or set dataset.cache_path elsewhere")


def check_alphas(config: Config) -> Iterator[Finding]:
    """Whether the arms can rank differently, and every label's alphas do something."""
    yield _compare_arms(config)
    for label in config.labels:
        if label.model == NO_MODEL and {label.alpha_T, label.alpha_C} - {None, 1.0}:
            text = f"{label.name} has no model, so its alphas have no effect"
            yield _warning("alphas", text, "leave them out, or give it a model")
    is_raw = any(label.score_unit == "raw" for label in config.learned)
    for arm, policy in zip("TC", reversed(config.policies()), strict=True) if is_raw else ():
        ruling = ruling_label(config.learned, policy.score or {}, world_of(config).scatter)
        if ruling is not None:
            text = f"arm {arm}: {ruling.name} is likely to rule the score, in raw units"
            remedy = "set score_unit: standard, or smaller alphas for it"
            yield _warning("score_unit", text, remedy)


def _compare_arms(config: Config) -> Finding:
    control, treatment = config.policies()
    is_aa, learned = config.experiment.aa, config.learned
    if control.score is None or treatment.score is None or control.explore != treatment.explore:
        if control == treatment and not is_aa:
            text = "both arms do the same, and every effect is 0"
            return _warning("arms", text, "change one of them, or set experiment.aa: true")
        return _ok("arms", "an A/A test" if is_aa else "the arms differ")
    alpha_TL, alpha_CL = (
        [arm.score.get(x.name, 0.0) for x in learned] for arm in (treatment, control) if arm.score
    )
    for arm, alphas in (("T", alpha_TL), ("C", alpha_CL)):
        if not any(alphas) and not (is_aa and arm == "C"):
            text = f"arm {arm}: every alpha is 0, so all candidates tie and the first is shown"
            return _warning("alphas", text, f"give a label an alpha_{arm} other than 0")
    if is_aa:
        return _ok("alphas", "an A/A test: both arms rank with alpha_T")
    if alpha_TL == alpha_CL:
        text = "equal in both arms: they rank alike, and every effect is 0"
        return _warning("alphas", text, "change an alpha_T or alpha_C, or set experiment.aa: true")
    t, c = next((t, c) for t, c in zip(alpha_TL, alpha_CL, strict=True) if t or c)
    is_multiple = all(x * c == y * t for x, y in zip(alpha_TL, alpha_CL, strict=True))
    if is_multiple and t * c > 0:
        text = f"those of T are {t / c:g} times those of C: both arms rank alike"
        return _warning("alphas", text, "change the alphas' proportions")
    return _ok("alphas", "the arms can rank differently")


def ruling_label(
    learned: Sequence[LabelConfig], score: Mapping[str, float], scatter: Callable[[str], float]
) -> LabelConfig | None:
    """The label that alone decides an arm's ranking, judged by about how far its term scatters.

    A standardised prediction scatters by less than 1, a raw one as its world says; a label rules
    with 30 times the next one's.
    """

    def spread(label: LabelConfig) -> float:
        return 1.0 if label.score_unit == "standard" else scatter(label.target)

    spreads = sorted(
        ((abs(score.get(x.name, 0.0)) * spread(x), x) for x in learned),
        key=lambda pair: pair[0],
        reverse=True,
    )
    if len(spreads) < 2 or spreads[1][0] == 0 or spreads[0][0] < _RULES_FROM * spreads[1][0]:
        return None
    return spreads[0][1]


def check_needed_packages(config: Config) -> Iterator[Finding]:
    """Optional packages that the config's designs cannot do without."""
    for design in config.designs():
        needs = design.name == "cluster" or design.options.get("model") in _SKLEARN
        if needs and installed("scikit-learn") is None:
            text = f"design {design.label} needs scikit-learn, which is not installed"
            yield _stop("packages", text, "pip install 'realdataexp[sklearn]'")


def check_need(config: Config) -> Finding:
    """Whether the run's memory fits, by the estimate of `memory_need`."""
    kind = config.device if config.device in available_devices() else "auto"
    device = choose_device(kind)  # check_devices tells where the one that is asked for is missing
    try:
        need = memory_need(config, device)
    except InputError as error:
        return stops("memory need", error)[0]
    except (Exception, SystemExit) as error:  # a model from outside, which only a run can judge
        text = f"not known: {type(error).__name__}: {' '.join(str(error).split())}"
        return _warning("memory need", text, "see what the run says: timing.peak_memory_mb")
    text = f"about {size(need.host)} for {need.networks:,} networks of {need.parameters:,} numbers"
    tight: list[tuple[int, float, str]] = [(need.host, free_memory(), "memory")]
    if need.device:
        text += f", {size(need.device)} of them on {device.torch.type}"
        tight.append((need.device, device_free(device), "device memory"))
    key, value = largest_setting(config)
    remedy = f"lower {key}, which is {value:,}, or the number of designs"
    for wanted, free, what in tight:
        if wanted > free:
            return _stop("memory need", f"{text}; {size(free)} of {what} are free", remedy)
        if wanted > _TIGHT * free:
            return _warning("memory need", f"{text}; {size(free)} of {what} are free", remedy)
    return _ok("memory need", text)


def device_free(device: Device) -> float:
    """Bytes that an accelerator has left; infinite where PyTorch does not tell."""
    ask = getattr(getattr(torch, device.torch.type, None), "mem_get_info", None)
    return math.inf if ask is None else float(ask()[0])
