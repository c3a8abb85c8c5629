"""The one place that knows the device; no other file asks what it is."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import os
import platform
import sys
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, dtype

from realdataexp.errors import InputError

_ORDER = ("cuda", "xpu", "mps", "dml", "cpu")
WITHOUT_FLOAT64 = ("mps", "privateuseone")
"""PyTorch's names of Apple's and DirectML's devices, which have no wider number than float32."""

_PINNED_BYTES = 16 << 20
_LANES = 64  # a multiple of the elements that any CPU's vector loop takes at once
_ROWS_BEFORE_THREADS = 32768
_FLOAT64 = torch.float64
_TorchDevice = torch.device
_MKL_BRANCH, _MKL_OFF = 1, 1  # mkl_types.h: MKL_CBWR_BRANCH, MKL_CBWR_BRANCH_OFF
_CALLERS_THREADS: ContextVar[int | None] = ContextVar("threads", default=None)


@dataclass(frozen=True)
class Device:
    """Where tensors live and how the arithmetic is done there.

    Attributes:
        torch: the PyTorch device.
        reason: why it was chosen, for the log.
        chunk_bytes: bytes of activations that one chunk of stacked networks should stay within:
            the cache of a CPU, a share of the memory of an accelerator.
        amp: the type that matrix products run in (automatic mixed precision); None = float32.
        name: what it is, such as "cuda: NVIDIA H200 (140 GiB)".
        float64: float64, or float32 where the device has nothing wider.
        has_graphs: whether operations can be recorded and started as one.
    """

    torch: torch.device
    reason: str
    chunk_bytes: int
    amp: dtype | None = None
    name: str = ""
    float64: dtype = _FLOAT64
    has_graphs: bool = False

    @property
    def description(self) -> str:
        """What it is and why it was chosen."""
        return f"{self.name}, {self.reason}"

    @property
    def is_cpu(self) -> bool:
        """Whether it is the CPU."""
        return self.torch.type == "cpu"

    @property
    def needs_scaling(self) -> bool:
        """Whether gradients are too small for the type in use, so that losses must be scaled."""
        return self.amp == torch.float16

    @property
    def with_float64(self) -> _TorchDevice:
        """Where float64 can be computed: on the device, or on the host."""
        return self.torch if self.float64 == torch.float64 else torch.device("cpu")

    def tensor(self, array: np.ndarray | Tensor) -> Tensor:
        """Data of the host on the device; on the CPU they share the memory: do not write to them.

        Nothing waits for CUDA, unless the array is large. float64 becomes ``self.float64``,
        rounded towards zero so that a draw from [0, 1) stays below 1.
        """
        if isinstance(array, np.ndarray):
            array = _tensor_of(array)
        if array.dtype == torch.float64 != self.float64:
            rounded = array.to(self.float64)
            inwards = rounded.nextafter(torch.zeros_like(rounded))
            array = torch.where(rounded.abs() > array.abs(), inwards, rounded)
        if self.torch.type == "cuda" and array.is_cpu and array.nbytes <= _PINNED_BYTES:
            return array.pin_memory().to(self.torch, non_blocking=True)
        return array.to(self.torch)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Mixed precision for the forward pass, or nothing."""
        if self.amp is None:
            return contextlib.nullcontext()
        return torch.autocast(self.torch.type, dtype=self.amp)

    def synchronize(self) -> None:
        """Wait until the device has done all it was told to; for timing, outside of steps."""
        accelerator = torch.accelerator.current_accelerator()
        if accelerator is not None and accelerator.type == self.torch.type:
            torch.accelerator.synchronize()

    def memory_mb(self) -> float | None:
        """The most MiB of an accelerator that tensors have held so far; None where not counted."""
        peak = getattr(getattr(torch, self.torch.type, None), "max_memory_allocated", None)
        return None if peak is None else peak() / 2**20


def available_devices() -> tuple[str, ...]:
    """The kinds of device found on this machine, best first."""
    found = {
        "cuda": torch.cuda.is_available(),
        "xpu": torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available(),
        "dml": _directml() is not None,
        "cpu": True,
    }
    return tuple(kind for kind in _ORDER if found[kind])


def n_gpus() -> int:
    """GPUs that CUDA or ROCm offers to this process."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def can_fork(device: Device) -> bool:
    """Whether processes may be forked that compute there: where PyTorch sees no GPU."""
    return device.is_cpu and sys.platform == "linux" and available_devices() == ("cpu",)


def choose_device(wanted: str, use_amp: bool = False) -> Device:
    """The device called ``wanted``, or the best one for "auto".

    CUDA is told to compute the same bits in every run.

    Raises:
        InputError: the device is not on this machine, or has no mixed precision for ``use_amp``.
    """
    there = available_devices()
    if wanted != "auto" and wanted not in there:
        raise InputError(
            f"device = {wanted!r}: not on this machine, as PyTorch {torch.__version__} sees it; "
            f"there is: {', '.join(there)}; use one of these or auto"
        )
    kind = there[0] if wanted == "auto" else wanted
    reason = f"best of {', '.join(there)}" if wanted == "auto" else "as asked"
    amp = None
    if use_amp:
        amp, how = _mixed_precision(kind)
        reason += f"; use_amp: {how}"
    if kind == "cuda":
        if torch.version.hip:
            reason += f"; cuda is AMD's ROCm {torch.version.hip}"
        _make_reproducible()
    dml = _directml() if kind == "dml" else None
    return Device(
        torch.device(kind) if dml is None else dml.device(),
        reason,
        chunk_bytes=8 << 20 if kind == "cpu" else 1 << 30,
        amp=amp,
        name=f"{kind}: {_name(kind)}",
        float64=torch.float32 if kind in ("mps", "dml") else torch.float64,
        has_graphs=kind == "cuda" and not torch.version.hip,
    )


def usable_threads() -> int:
    """Threads that PyTorch has; inside `own_arithmetic`, those that the caller's PyTorch has."""
    return _CALLERS_THREADS.get() or torch.get_num_threads()


@contextlib.contextmanager
def own_arithmetic() -> Iterator[None]:
    """PyTorch's and NumPy's settings as a run needs them, and afterwards the caller's again.

    What changes last bits is the same for every run: one thread, as PyTorch and MKL add up in
    another order when they share a sum out (a run's parallelism is processes); float32 by default,
    at full precision, made on the host; gradients; no mixed precision; denormal numbers.
    """
    threads, dtype, home = usable_threads(), torch.get_default_dtype(), torch.get_default_device()
    least = torch.tensor(2.0**-1074, dtype=torch.float64, device="cpu")
    flushes = bool(least * 1.0 == 0.0)
    autocasts = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    token = _CALLERS_THREADS.set(threads)
    try:
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float32)
        torch.set_flush_denormal(False)
        with contextlib.ExitStack() as stack:
            stack.enter_context(_full_precision())
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(np.errstate(all="warn", under="ignore"))
            for kind in autocasts:
                stack.enter_context(torch.autocast(kind, enabled=False))
            if home.type != "cpu":
                stack.enter_context(torch.device("cpu"))
            yield
    finally:
        _CALLERS_THREADS.reset(token)
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)
        torch.set_flush_denormal(flushes)


def by_rows(function: Callable[..., Tensor], raw_XO: Tensor, *others_X: Tensor) -> Tensor:
    """Apply a function of rows so that a row's result does not depend on its place, to the bit.

    PyTorch computes exp, log and their kin in SIMD lanes, but the last few elements of a tensor
    (or of a thread's share of it) one by one, with other last bits. Padded to whole lanes, in
    blocks below the size from which threads share the work, there are no last few. Accelerators
    compute each element alike.

    Args:
        function: (raw_XO, *others_X) -> result_X, each row for itself.
        raw_XO: any shape X, with a last axis O.
        others_X: of the shape X.
    """
    if not raw_XO.is_cpu:
        return function(raw_XO, *others_X)
    shape, n = raw_XO.shape[:-1], raw_XO.shape[:-1].numel()
    pad = -n % _LANES
    raw_NO = F.pad(raw_XO.reshape(n, -1), (0, 0, 0, pad))
    others_N = [F.pad(x.reshape(n), (0, pad)) for x in others_X]
    starts = range(0, n + pad, _ROWS_BEFORE_THREADS)
    parts = [
        function(*(x[i : i + _ROWS_BEFORE_THREADS] for x in (raw_NO, *others_N))) for i in starts
    ]
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[:n].view(shape)


def multiplies_by_place() -> bool:
    """Whether MKL's products depend on where in memory their factors lie, as far as it tells.

    It hears of ``MKL_CBWR``, which the package sets, at its first product and never again.
    """
    library = Path(torch.__file__).with_name("lib") / "libtorch_cpu.so"
    try:
        mode = ctypes.CDLL(str(library)).mkl_serv_cbwr_get
    except (OSError, AttributeError):  # no MKL, or one in a library of its own
        return False
    return mode(_MKL_BRANCH) == _MKL_OFF


def own_scikit_learn() -> contextlib.AbstractContextManager[object]:
    """scikit-learn with one thread: the more share its sums out, the other their last bits."""
    from threadpoolctl import threadpool_limits  # which scikit-learn brings

    return threadpool_limits(1)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Matrix products of float32 in float32, whatever the caller allows."""
    if not hasattr(torch.backends.mkldnn, "matmul"):  # before PyTorch 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    backends: tuple[Any, ...] = (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)
    precisions = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, precisions, strict=True):
            backend.fp32_precision = precision


def _tensor_of(array: np.ndarray) -> Tensor:
    """The array as a tensor, in the same memory."""
    if array.flags.writeable:
        return torch.from_numpy(array)
    with warnings.catch_warnings():
        # read-only memory maps: torch has no read-only tensors and says so
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _directml() -> ModuleType | None:
    """torch_directml, where it is installed, fits this PyTorch, and finds a GPU."""
    if importlib.util.find_spec("torch_directml") is None:
        return None
    with contextlib.suppress(ImportError, OSError, RuntimeError):
        module = importlib.import_module("torch_directml")
        return module if module.is_available() else None
    return None


def _name(kind: str) -> str:
    """What the device is called, and its size."""
    if kind in ("cuda", "xpu"):
        found = getattr(torch, kind).get_device_properties(0)
        return f"{found.name} ({found.total_memory / 2**30:.0f} GiB)"
    if kind == "cpu":
        return f"{platform.machine()} (threads: {usable_threads()})"
    return {"mps": "Apple's Metal", "dml": "DirectML"}[kind]


def _mixed_precision(kind: str) -> tuple[dtype, str]:
    """The type that matrix products run in, and what to say of it."""
    if kind == "dml":
        raise InputError(
            "use_amp = true: DirectML has no mixed precision in PyTorch; set use_amp: false"
        )
    if kind == "cpu":
        return torch.bfloat16, "bf16 (slower than float32 on a CPU without instructions for it)"
    if kind == "mps":
        has_bf16 = torch.backends.mps.is_macos_or_newer(14, 0)
    else:
        has_bf16 = getattr(torch, kind).is_bf16_supported(including_emulation=False)
    if has_bf16:
        return torch.bfloat16, "bf16"
    return torch.float16, "fp16 with scaled losses, as this GPU has no bf16"


def _make_reproducible() -> None:
    """Make CUDA give the same bits again, before it starts; what cannot, warns when it runs."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


# --- operations that are recorded once and then started as one -----------------------------------

_CALLS_BEFORE = 2  # of a kind before it is recorded: they load kernels and libraries
_Results = tuple[Tensor, ...]


class Graphs:
    """Recordings of the functions of one object, where the device can (CUDA graphs).

    A step is hundreds of small operations, most of which a GPU ends sooner than the host can start
    the next. A recording starts them all at once: the same operations in the same order, so that
    nothing changes to the bit.

    A function may change tensors in place that stay where they are, such as parameters. What it
    does may depend on the shapes and types of its tensors and on settings, but on nothing else
    that changes on the host, and it may not ask the device for a number.
    """

    def __init__(self, device: Device, *, can_record: bool = True) -> None:
        """Start without any; ``can_record``: whether the functions are as they must be."""
        self._is_on = device.has_graphs and can_record
        self._n_calls: dict[Hashable, int] = {}
        self._recordings: dict[Hashable, _Recording] = {}

    def run(self, function: Callable[..., _Results], *arguments: Any) -> _Results:
        """What a method gives for the arguments, in tensors that are the caller's own.

        Arguments are tensors, dicts and dataclasses of tensors alone, and hashable settings.
        """
        if not self._is_on:
            return function(*arguments)
        found = [_tensors(x) for x in arguments]
        tensors = [x for own in found for x in own]
        kind = (
            function.__name__,
            *((x.shape, x.stride(), x.dtype) for x in tensors),
            *(x for x, own in zip(arguments, found, strict=True) if not own),
        )
        if kind not in self._recordings:
            self._n_calls[kind] = self._n_calls.get(kind, 0) + 1
            if self._n_calls[kind] <= _CALLS_BEFORE:
                with _on_own_stream():
                    return function(*arguments)
            self._recordings[kind] = _Recording(function, arguments)
        return self._recordings[kind].replay(tensors)


class _Recording:
    """The operations of one kind of call; what they read and give lies always in one place."""

    def __init__(self, function: Callable[..., _Results], arguments: Sequence[Any]) -> None:
        own = [_copy(x) for x in arguments]
        self._inputs, self._graph = _tensors(own), torch.cuda.CUDAGraph()
        torch.cuda.empty_cache()  # a recording cannot use what earlier calls have left
        with _on_own_stream():
            self._graph.capture_begin(capture_error_mode="thread_local")
            try:
                self._results = function(*own)
            except BaseException:
                with contextlib.suppress(RuntimeError):
                    self._graph.capture_end()
                raise
            self._graph.capture_end()

    def replay(self, tensors: Sequence[Tensor]) -> _Results:
        """Do them with other numbers."""
        for own, given in zip(self._inputs, tensors, strict=True):
            own.copy_(given)
        self._graph.replay()
        return tuple(x.clone() for x in self._results)


def _tensors(x: Any) -> list[Tensor]:
    """All tensors of an argument, or of several; none of a setting."""
    if isinstance(x, Tensor):
        return [x]
    return [tensor for part in _members(x).values() for tensor in _tensors(part)]


def _copy(x: Any) -> Any:
    """Tensors of the same layout; settings as they are."""
    if isinstance(x, Tensor):
        return x.clone()
    if isinstance(x, dict):
        return {name: _copy(part) for name, part in x.items()}
    return replace(x, **{k: _copy(part) for k, part in _members(x).items()}) if _tensors(x) else x


def _members(x: Any) -> Mapping[Any, Any]:
    if isinstance(x, dict):
        return x
    if isinstance(x, list | tuple):
        return dict(enumerate(x))
    return {f.name: getattr(x, f.name) for f in fields(x)} if is_dataclass(x) else {}


_streams: dict[int, torch.cuda.Stream] = {}


@contextlib.contextmanager
def _on_own_stream() -> Iterator[None]:
    """Recordings need a stream of their own, and libraries their memory on it beforehand."""
    device, outside = torch.cuda.current_device(), torch.cuda.current_stream()
    inside = _streams.setdefault(device, torch.cuda.Stream())
    inside.wait_stream(outside)
    with torch.cuda.stream(inside):
        yield
    outside.wait_stream(inside)
