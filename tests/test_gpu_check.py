"""The check for machines with a GPU runs on a CPU too, at a small size."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PATH = Path(__file__).parents[1] / "tools" / "gpu_check.py"


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpu_check", module)
    spec.loader.exec_module(module)
    return module


def run(check: ModuleType, monkeypatch: pytest.MonkeyPatch, out: Path, *parts: str) -> int:
    """The check's exit code."""
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *parts, "--out", str(out), "--device", "cpu"])
    with pytest.raises(SystemExit) as ended:
        check.main()
    return int(ended.value.code or 0)


def test_every_part_measures_on_a_cpu(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(check, monkeypatch, tmp_path) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    parts: dict[str, dict[str, Any]] = found["parts"]
    assert list(parts) == list(check.PARTS)
    only_on_cuda = {"waits", "profile"}
    assert {name for name, part in parts.items() if not part["rows"]} == only_on_cuda
    assert all(row["equal tensors"] == row["of"] for row in parts["equality"]["rows"])
    assert [row["worlds"] for row in parts["lockstep"]["rows"]] == list(check.TINY.worlds)
    text = (tmp_path / "gpu.md").read_text()
    assert all(f"## {name} (" in text for name in check.PARTS)


def test_a_part_that_fails_is_told_and_the_others_go_on(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(self: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(check.Check, "starts", fail)
    assert run(check, monkeypatch, tmp_path, "starts", "machine") == 1
    parts = json.loads((tmp_path / "gpu.json").read_text())["parts"]
    assert "out of luck" in parts["starts"]["error"] and parts["machine"]["rows"]
    assert "out of luck" in (tmp_path / "gpu.md").read_text()
