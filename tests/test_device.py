"""The device is the best there is or the one asked for, and an error says what there is.

This machine may have a CPU only: what PyTorch answers about the others is made up.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from realdataexp import device as module
from realdataexp.config import load_config
from realdataexp.device import Device, available_devices, choose_device
from realdataexp.errors import InputError

ACCELERATORS = ("cuda", "xpu", "mps", "dml")


@pytest.fixture(autouse=True)
def no_traces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Choosing CUDA changes the process; here it is put back."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    mode = torch.get_deterministic_debug_mode()
    fills = torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.set_deterministic_debug_mode(mode)
    torch.utils.deterministic.fill_uninitialized_memory = fills


def pretend(
    monkeypatch: pytest.MonkeyPatch, *there: str, has_bf16: bool = True, hip: str | None = None
) -> None:
    """A machine with these accelerators."""
    found = SimpleNamespace(name="A Card", total_memory=16 * 2**30)
    for kind in ("cuda", "xpu"):
        at = f"torch.{kind}"
        monkeypatch.setattr(f"{at}.is_available", lambda kind=kind: kind in there)
        monkeypatch.setattr(f"{at}.get_device_properties", lambda index: found)
        monkeypatch.setattr(f"{at}.is_bf16_supported", lambda including_emulation=True: has_bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    monkeypatch.setattr(torch.backends.mps, "is_macos_or_newer", lambda major, minor: has_bf16)
    directml = SimpleNamespace(device=lambda: torch.device("privateuseone:0"))
    monkeypatch.setattr(module, "_directml", lambda: directml if "dml" in there else None)
    monkeypatch.setattr(torch.version, "hip", hip)


# --- the choice ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "there",
    [
        (),
        ("cuda",),
        ("xpu",),
        ("mps",),
        ("dml",),
        ("cuda", "xpu"),
        ("xpu", "mps"),
        ("mps", "dml"),
        ACCELERATORS,
    ],
)
def test_auto_takes_the_best_of_what_is_found_and_says_of_which(
    monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...]
) -> None:
    pretend(monkeypatch, *there)
    everything = (*there, "cpu")
    assert available_devices() == everything
    device = choose_device("auto")
    assert device.name.startswith(f"{everything[0]}: ")
    assert device.reason == f"best of {', '.join(everything)}"
    assert device.description == f"{device.name}, {device.reason}"


def test_auto_on_this_machine_can_compute() -> None:
    device = choose_device("auto")
    assert device.name.startswith(f"{available_devices()[0]}: ")
    assert device.amp is None and not device.needs_scaling
    x = torch.ones(2, 2, device=device.torch)
    assert (x @ x).sum().item() == 8.0
    device.synchronize()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("cuda", "cuda: A Card (16 GiB)"),
        ("xpu", "xpu: A Card (16 GiB)"),
        ("mps", "mps: Apple's Metal"),
        ("dml", "dml: DirectML"),
    ],
)
def test_an_accelerator_asked_for_is_taken_and_named(
    monkeypatch: pytest.MonkeyPatch, kind: str, name: str
) -> None:
    pretend(monkeypatch, *ACCELERATORS)
    device = choose_device(kind)
    assert device.torch.type == {"dml": "privateuseone"}.get(kind, kind)
    assert (device.name, device.reason) == (name, "as asked")
    # an accelerator keeps more networks in flight than a CPU's cache holds
    assert device.chunk_bytes > choose_device("cpu").chunk_bytes > 0


def test_rocm_shows_as_cuda_and_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "cuda", hip="6.4")
    assert choose_device("auto").reason == "best of cuda, cpu; cuda is AMD's ROCm 6.4"


@pytest.mark.parametrize("wanted", ["cuda", "xpu", "dml", "tpu", ""])
def test_a_missing_device_error_lists_what_is_there(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    pretend(monkeypatch, "mps")
    with pytest.raises(InputError) as caught:
        choose_device(wanted)
    text = str(caught.value)
    assert text.startswith(f"device = {wanted!r}: ")
    assert "there is: mps, cpu" in text and "auto" in text and "\n" not in text
    assert torch.__version__ in text


# --- DirectML --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "is_there"),
    [
        ("def is_available(): return True", True),
        ("def is_available(): return False", False),
        ("raise ImportError('made for another PyTorch')", False),
        ("raise OSError('undefined symbol')", False),
    ],
)
def test_directml_is_imported_only_where_installed_and_a_broken_one_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, is_there: bool
) -> None:
    monkeypatch.delitem(sys.modules, "torch_directml", raising=False)
    assert "dml" not in available_devices()
    (tmp_path / "torch_directml.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert ("dml" in available_devices()) == is_there
    finally:
        sys.modules.pop("torch_directml", None)


# --- mixed precision -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
@pytest.mark.parametrize("has_bf16", [True, False])
def test_amp_is_bf16_or_else_fp16_with_scaled_losses(
    monkeypatch: pytest.MonkeyPatch, kind: str, has_bf16: bool
) -> None:
    pretend(monkeypatch, kind, has_bf16=has_bf16)
    device = choose_device(kind, use_amp=True)
    assert device.amp == (torch.bfloat16 if has_bf16 else torch.float16)
    assert device.needs_scaling == (not has_bf16)
    assert "use_amp: " + ("bf16" if has_bf16 else "fp16 with scaled losses") in device.reason
    assert choose_device(kind).amp is None


def test_amp_on_a_cpu_is_bf16_and_the_reason_says_what_it_costs() -> None:
    device = choose_device("cpu", use_amp=True)
    assert device.amp == torch.bfloat16 and not device.needs_scaling
    assert "bf16 (slower" in device.reason


def test_amp_is_refused_by_directml_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "dml")
    with pytest.raises(InputError, match="use_amp = true: DirectML has no mixed precision"):
        choose_device("auto", use_amp=True)


def test_autocast_is_bfloat16_inside_and_nothing_without_amp() -> None:
    x = torch.randn(3, 3)
    for use_amp, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        device = choose_device("cpu", use_amp)
        with device.autocast():
            assert (x @ x).dtype == dtype
        assert (x @ x).dtype == torch.float32


# --- data ------------------------------------------------------------------------------------


def test_a_read_only_array_becomes_a_tensor_without_a_copy_or_a_warning() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    array.flags.writeable = False
    device = Device(torch.device("cpu"), "test", 1)
    torch.set_warn_always(True)  # else the first such array of the process has taken the warning
    try:
        with warnings.catch_warnings(record=True) as caught:
            tensor = device.tensor(array)
    finally:
        torch.set_warn_always(False)
    assert caught == []
    assert tensor.tolist() == array.tolist()
    assert tensor.data_ptr() == array.ctypes.data
    assert device.tensor(tensor) is tensor


class HostData:
    """Stands for a tensor on the host; notes how it travels."""

    dtype, is_cpu = torch.int64, True

    def __init__(self, nbytes: int) -> None:
        self.nbytes, self.said = nbytes, []

    def pin_memory(self) -> HostData:
        self.said.append("pinned")
        return self

    def to(self, device: torch.device, **how: Any) -> list[Any]:
        return [*self.said, device.type, how]


def test_small_data_travel_to_cuda_without_waiting_and_large_ones_are_not_copied_twice() -> None:
    cuda = Device(torch.device("cuda"), "test", 1)
    assert cuda.tensor(HostData(1 << 20)) == ["pinned", "cuda", {"non_blocking": True}]
    assert cuda.tensor(HostData(1 << 30)) == ["cuda", {}]
    xpu = Device(torch.device("xpu"), "test", 1)
    assert xpu.tensor(HostData(1 << 20)) == ["xpu", {}]


@pytest.mark.parametrize("kind", ["mps", "dml"])
def test_without_float64_draws_become_float32_and_stay_below_one(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pretend(monkeypatch, kind)
    assert choose_device(kind).float64 == torch.float32
    assert choose_device("cpu").float64 == torch.float64
    narrow = Device(torch.device("cpu"), "test", 1, float64=torch.float32)
    x = torch.tensor([0.0, 0.5, 1 / 3, 0.1, 1 - 2**-53, -1 + 2**-53, 1.0], dtype=torch.float64)
    got = narrow.tensor(x)
    assert got.dtype == torch.float32
    assert (got.double().abs() <= x.abs()).all()
    torch.testing.assert_close(got.double(), x, rtol=1.2e-7, atol=0.0)
    assert got[4] < 1.0 and got[5] > -1.0 and got[6] == 1.0
    assert narrow.tensor(np.arange(3)).dtype == torch.int64


# --- timing and memory -----------------------------------------------------------------------


def test_synchronize_waits_for_its_own_accelerator_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: calls.append(1))
    for there in (None, torch.device("cuda")):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda there=there: there)
        Device(torch.device("cpu"), "test", 1).synchronize()
        assert calls == []
    Device(torch.device("cuda"), "test", 1).synchronize()
    assert calls == [1]


def test_memory_is_the_peak_of_an_accelerator_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("cuda", "xpu"):
        monkeypatch.setattr(f"torch.{kind}.max_memory_allocated", lambda: 3 * 2**20)
        assert Device(torch.device(kind), "test", 1).memory_mb() == 3.0
    for kind in ("cpu", "mps", "privateuseone"):
        assert Device(torch.device(kind), "test", 1).memory_mb() is None


# --- the same bits again ---------------------------------------------------------------------


def test_cuda_is_made_reproducible_and_other_devices_leave_the_process_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.use_deterministic_algorithms(False)  # tests on a machine with CUDA may have begun it
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    pretend(monkeypatch, *ACCELERATORS)
    for kind in ("xpu", "mps", "dml", "cpu"):
        choose_device(kind)
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    choose_device("cuda")
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.utils.deterministic.fill_uninitialized_memory
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    choose_device("cuda")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


TOO_LATE = """
import torch

{before}
import realdataexp as rx

small = ["simulation.n_steps=2", "experiment.replications=2", "dataset.si2023.pretrain_rows=100"]
result = rx.run("si2023", [*small, "mode=global", "logging.pictures=false"], out="r")
print([x["code"] for x in result.summary["warnings"]].count("products_by_place"))
"""


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="PyTorch has no MKL here")
@pytest.mark.parametrize(
    ("before", "settings", "n_warnings"),
    [
        ("", {}, 0),
        ("torch.ones(9, 9) @ torch.ones(9, 9)", {}, 1),
        ("torch.ones(9, 9) @ torch.ones(9, 9)", {"MKL_CBWR": "COMPATIBLE"}, 0),
    ],
)
def test_products_before_the_import_that_mkl_makes_by_place_are_a_warning(
    before: str, settings: dict[str, str], n_warnings: int, tmp_path: Path
) -> None:
    env = {k: x for k, x in os.environ.items() if k != "MKL_CBWR"} | settings
    words = [sys.executable, "-c", TOO_LATE.format(before=before)]
    found = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, f"{n_warnings}\n"), found.stderr


# --- what a config may say -------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["auto", "cpu", *ACCELERATORS])
def test_a_config_names_any_kind(kind: str) -> None:
    assert load_config("demo", device=kind).device == kind


def test_a_config_with_another_device_hears_which_there_are() -> None:
    with pytest.raises(InputError, match=r"--device.*one of auto, cpu, cuda, xpu, mps or dml"):
        load_config("demo", device="tpu")


@pytest.mark.parametrize("key", ["pin_memory", "num_workers"])
@pytest.mark.parametrize("block", ["", "pretrain.", "simulation.", "dataset."])
def test_settings_of_data_loaders_are_refused_with_the_reason(block: str, key: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config("demo", [f"{block}{key}=1"])
    line = str(caught.value)
    assert f"{block}{key}" in line and "\n" not in line
    assert "unknown key" in line and "memory-mapped" in line and "remove it" in line
