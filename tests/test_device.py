"""The device is the best there is or the one asked for, and an error says what there is."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from realdataexp.device import Device, available_devices, choose_device
from realdataexp.errors import InputError

KINDS = ("cuda", "xpu", "mps", "cpu")


def pretend(monkeypatch: pytest.MonkeyPatch, *there: str, has_bf16: bool = True) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: "xpu" in there)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: has_bf16)


@pytest.mark.parametrize(
    "there",
    [(), ("cuda",), ("xpu",), ("mps",), ("cuda", "xpu"), ("xpu", "mps"), ("cuda", "xpu", "mps")],
)
def test_available_devices_are_what_torch_finds_best_first(
    monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...]
) -> None:
    pretend(monkeypatch, *there)
    assert available_devices() == (*there, "cpu")
    device = choose_device("auto")
    assert device.torch.type == (*there, "cpu")[0]
    assert device.reason == f"best of {', '.join((*there, 'cpu'))}"


def test_auto_on_this_machine_can_compute() -> None:
    device = choose_device("auto")
    assert device.torch.type == available_devices()[0]
    assert not device.amp
    x = torch.ones(2, 2, device=device.torch)
    assert (x @ x).sum().item() == 8.0


def test_the_device_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "cuda", "mps")
    for kind in ("cpu", "mps", "cuda"):
        device = choose_device(kind)
        assert (device.torch.type, device.reason) == (kind, "as asked")
    # an accelerator keeps more networks in flight than a CPU's cache holds
    assert choose_device("cuda").chunk_bytes > choose_device("cpu").chunk_bytes > 0


@pytest.mark.parametrize("wanted", ["cuda", "xpu", "tpu", ""])
def test_a_missing_device_error_lists_what_is_there(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    pretend(monkeypatch, "mps")
    with pytest.raises(InputError) as caught:
        choose_device(wanted)
    text = str(caught.value)
    assert text.startswith(f"device = {wanted!r}: ")
    assert "there is: mps, cpu" in text and "auto" in text and "\n" not in text


def test_amp_needs_bfloat16_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "cuda", has_bf16=False)
    with pytest.raises(InputError, match="use_amp = true"):
        choose_device("auto", use_amp=True)
    assert not choose_device("cuda").amp
    assert choose_device("cpu", use_amp=True).amp


def test_autocast_is_bfloat16_inside_and_nothing_without_amp() -> None:
    x = torch.randn(3, 3)
    for use_amp, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        device = choose_device("cpu", use_amp)
        with device.autocast():
            assert (x @ x).dtype == dtype
        assert (x @ x).dtype == torch.float32


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
