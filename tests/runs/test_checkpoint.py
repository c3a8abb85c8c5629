"""Checkpoints: whole, named by the index, and told intact by their digest."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from realdataexp.runs import checkpoint
from realdataexp.runs.checkpoint import has_checkpoint, save_checkpoint


def test_a_checkpoint_gives_its_tensors_back(tmp_path: Path):
    tensors = {"a.w": torch.arange(6.0).view(2, 3).T, "used": torch.tensor([True, False])}
    save_checkpoint(tmp_path, 7, tensors, {"networks": [["global", 0, "shared"]]})
    folder = tmp_path / "checkpoints" / "step_7"
    found = load_file(folder / "state.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
    state = json.loads((folder / "state.json").read_text())
    digest = hashlib.sha256((folder / "state.safetensors").read_bytes()).hexdigest()
    assert state == {"networks": [["global", 0, "shared"]], "step": 7, "sha256": digest}


def test_the_index_names_the_latest(tmp_path: Path):
    assert not has_checkpoint(tmp_path)
    for step in (5, 10):
        save_checkpoint(tmp_path, step, {"x": torch.zeros(1)}, {})
        index = json.loads((tmp_path / "checkpoints" / "index.json").read_text())
        assert index == {"latest": f"step_{step}"}
    assert has_checkpoint(tmp_path)


def test_an_interrupted_checkpoint_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    save_checkpoint(tmp_path, 5, {"x": torch.zeros(1)}, {})
    before = sorted(tmp_path.rglob("*"))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 10, {"x": torch.zeros(1)}, {})
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_others_may_read_a_checkpoint_as_they_may_the_other_files(tmp_path: Path):
    save_checkpoint(tmp_path, 5, {"x": torch.zeros(1)}, {})
    folder = tmp_path / "checkpoints" / "step_5"
    modes = {stat.S_IMODE(p.stat().st_mode) for p in folder.iterdir()}
    assert len(modes) == 1
