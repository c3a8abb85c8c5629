"""Checkpoints: whole, named by the index, told intact by their digests, and no more than asked."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from realdataexp.errors import DiskError, InputError, Warnings
from realdataexp.runs import checkpoint, folder
from realdataexp.runs.checkpoint import LOOP, Checkpoints, ForeignError, has_checkpoint

TENSORS = {
    "a.w": torch.arange(6.0).view(2, 3).T,
    "a.b.c": torch.tensor(1),
    "used": torch.ones(2) > 0,
}
STATE: dict[str, Any] = {"rows": [], "networks": [["global", 0, "shared"]]}


def made(tmp_path: Path, keep_last: int = 2) -> Checkpoints:
    return Checkpoints(tmp_path, keep_last, "click.auc")


def index_of(tmp_path: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((tmp_path / "checkpoints/index.json").read_text())
    return index


def there(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()}


def save(on: Checkpoints, step: int, best: Mapping[str, float] | None = None) -> None:
    keep_best(on, f"step_{step}", best or {})
    on.save(f"step_{step}", {"x": torch.full((3,), float(step))}, STATE)


def keep_best(on: Checkpoints, name: str, values: Mapping[str, float], scope: str = LOOP) -> bool:
    made = SimpleNamespace(write=lambda path: path.write_text(name))
    return on.keep_best(scope, values, name, lambda: made)


def networks(step: int, value: float) -> dict[str, Any]:
    return {"networks": f"best/step_{step}.safetensors", "value": value}


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path):
    assert made(tmp_path).newest(Warnings()) is None and not has_checkpoint(tmp_path)
    on = made(tmp_path)
    keep_best(on, "step_7", {"click.auc": 0.75})
    on.save("step_7", TENSORS, STATE)
    assert has_checkpoint(tmp_path)
    found = made(tmp_path).newest(warnings := Warnings())
    assert found is not None and found.name == "step_7" and warnings.items == []
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], TENSORS[name]) for name in TENSORS)
    assert found.state == STATE | {"best": {LOOP: {"click.auc": networks(7, 0.75)}}}
    assert found.part("a").keys() == {"w", "b.c"} and found.part("a.b").keys() == {"c"}
    assert found.part("b") == {}


def test_its_files_are_safetensors_json_and_their_digests(tmp_path: Path):
    made(tmp_path).save("step_7", TENSORS, STATE)
    place = tmp_path / "checkpoints/step_7"
    names = {"state.safetensors", "state.json", "digests.json"}
    assert {p.name for p in place.iterdir()} == names
    assert load_file(place / "state.safetensors").keys() == TENSORS.keys()
    digests = json.loads((place / "digests.json").read_text())
    assert digests == {
        name: hashlib.sha256((place / name).read_bytes()).hexdigest()
        for name in ("state.safetensors", "state.json")
    }


def test_the_index_names_the_latest_and_the_best_networks(tmp_path: Path):
    on = made(tmp_path)
    for start in (0, 1):
        keep_best(on, f"start_{start}_pretrain_4", {"click.auc": 0.4}, f"start_{start}")
    save(on, 0, {"click.auc": 0.5, "play.loss": 2.0})
    save(on, 5, {"play.loss": 1.5})
    assert index_of(tmp_path) == {
        "latest": "step_5",
        "kept": ["step_0", "step_5"],
        "primary_metric": "click.auc",
        "best": {"click.auc": networks(0, 0.5), "play.loss": networks(5, 1.5)},
        "best_starts": [
            {"click.auc": {"networks": f"best/start_{k}_pretrain_4.safetensors", "value": 0.4}}
            for k in (0, 1)
        ],
    }
    assert keep_best(on, "step_7", {"click.auc": 0.6})
    on.write_index_and_prune()
    assert index_of(tmp_path)["best"]["click.auc"] == networks(7, 0.6)
    assert index_of(tmp_path)["latest"] == "step_5"


def test_the_last_checkpoints_are_kept_and_networks_while_they_are_best(tmp_path: Path):
    on = made(tmp_path)
    (tmp_path / "checkpoints/rows").mkdir(parents=True)
    on.save("pretrain_4", {}, STATE)
    for step, best in [(0, {"a.auc": 1.0, "b.auc": 1.0}), (5, {"a.auc": 2.0}), (10, {})]:
        save(on, step, best)
    assert index_of(tmp_path)["kept"] == ["step_5", "step_10"]
    assert there(tmp_path) == {"rows", "best", "step_5", "step_10"}
    assert bests(tmp_path) == {"step_0", "step_5"}
    save(on, 15, {"b.auc": 3.0})
    assert there(tmp_path) == {"rows", "best", "step_10", "step_15"}
    assert bests(tmp_path) == {"step_5", "step_15"}


def bests(tmp_path: Path) -> set[str]:
    return {path.stem for path in (tmp_path / "checkpoints/best").iterdir()}


def test_one_may_be_enough(tmp_path: Path):
    on = made(tmp_path, keep_last=1)
    for step in (0, 5, 10):
        save(on, step)
        assert there(tmp_path) == {f"step_{step}"}


def test_best_networks_are_kept_over_a_restart(tmp_path: Path):
    before = made(tmp_path, keep_last=1)
    save(before, 0, {"a.auc": 1.0})
    save(before, 5)
    after = made(tmp_path, keep_last=1)
    found = after.newest(Warnings())
    assert found is not None and after.kept == ["step_5"]
    after.best = found.state["best"]
    save(after, 10, {"a.auc": 0.5})
    assert there(tmp_path) == {"best", "step_10"} and bests(tmp_path) == {"step_0"}


def test_networks_are_better_where_no_value_before_was_as_good(tmp_path: Path):
    on, nan, inf = made(tmp_path), float("nan"), float("inf")

    def better(step: int, **values: float) -> set[str]:
        before = on.best.get(LOOP, {})
        is_better = keep_best(on, f"step_{step}", {f"x.{k}": v for k, v in values.items()})
        changed = {k for k, v in on.best.get(LOOP, {}).items() if before.get(k) != v}
        assert is_better == bool(changed)
        return {name.partition(".")[2] for name in changed}

    assert better(0, auc=0.5, loss=2.0, mae=nan) == {"auc", "loss"}
    assert better(1, auc=0.5, loss=2.0, mae=1.0) == {"mae"}
    assert better(2, auc=0.6, loss=2.1) == {"auc"}
    assert better(3, auc=0.4, loss=1.9) == {"loss"}
    assert better(4, auc=inf, loss=-inf) == set()


@pytest.mark.parametrize("function", ["write_tensors", "write_json", "sync_names", "file_digest"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk")])
def test_an_interrupted_save_leaves_the_one_before(
    function: str, error: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    on = made(tmp_path)
    save(on, 5, {"a.auc": 1.0})
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr(checkpoint, function, stop)
    with pytest.raises((KeyboardInterrupt, DiskError)):
        on.save("step_10", {}, STATE)
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files
    assert (on.best, on.kept) == ({LOOP: {"a.auc": networks(5, 1.0)}}, ["step_5"])
    found = made(tmp_path).newest(Warnings())
    assert found is not None and found.name == "step_5"


def test_a_folder_that_no_index_named_yet_is_replaced(tmp_path: Path):
    left = tmp_path / "checkpoints/step_5"
    left.mkdir(parents=True)
    (left / "state.json").write_text("half")
    assert made(tmp_path).newest(Warnings()) is None
    save(made(tmp_path), 5)
    found = made(tmp_path).newest(Warnings())
    assert found is not None and found.tensors["x"].tolist() == [5.0] * 3


def test_everything_is_on_the_disk_before_it_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    order: list[tuple[str, str]] = []
    fsync, replace, rename = os.fsync, Path.replace, Path.rename

    def note_sync(number: int) -> None:
        order.append(("sync", str(os.fstat(number).st_ino)))
        fsync(number)

    def note_replace(self: Path, to: Path) -> Path:
        order.append(("name", str(self.stat().st_ino)))
        return replace(self, to)

    def note_rename(self: Path, to: Path) -> Path:
        order.extend(("inside", str(p.stat().st_ino)) for p in self.iterdir())
        order.append(("name", str(self.stat().st_ino)))
        return rename(self, to)

    monkeypatch.setattr(folder.os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_replace)
    monkeypatch.setattr(Path, "rename", note_rename)
    save(made(tmp_path), 5)
    named = [i for i, (what, _) in enumerate(order) if what in ("name", "inside")]
    assert len(named) == 4 + 1 + 3  # the files and the index; the folder, and what is in it
    is_posix = os.name == "posix"
    for i in named:
        if is_posix or order[i][0] == "inside":
            assert ("sync", order[i][1]) in order[:i]
    root = str((tmp_path / "checkpoints").stat().st_ino)
    assert not is_posix or ("sync", root) in order[named[-1] - 2 :]


def damage(tmp_path: Path, name: str, file: str = "state.safetensors") -> None:
    path = tmp_path / "checkpoints" / name / file
    path.write_bytes(path.read_bytes() + b" ")


def test_a_damaged_one_is_passed_over_with_a_warning(tmp_path: Path):
    on = made(tmp_path, keep_last=3)
    for step in (0, 5, 10):
        save(on, step)
    damage(tmp_path, "step_10")
    damage(tmp_path, "step_5", "state.json")
    again = made(tmp_path, keep_last=3)
    found = again.newest(warnings := Warnings())
    assert found is not None and found.name == "step_0" and again.kept == ["step_0"]
    root = tmp_path / "checkpoints"
    assert [(w["code"], w["message"]) for w in warnings] == [
        ("damaged_checkpoint", f"{root}/step_{n}: is not what was written; step_0 is used")
        for n in ("10/state.safetensors", "5/state.json")
    ]
    save(again, 5)
    assert there(tmp_path) == {"step_0", "step_5"}


def test_where_none_is_intact_each_has_a_line(tmp_path: Path):
    on = made(tmp_path)
    for step in (0, 5):
        save(on, step)
        damage(tmp_path, f"step_{step}")
    with pytest.raises(InputError) as caught:
        made(tmp_path).newest(warnings := Warnings())
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and all(x.endswith("run the config again") for x in lines)
    assert "step_5" in lines[0] and "step_0" in lines[1] and warnings.items == []


@pytest.mark.parametrize(
    "kept", ["null", "[1]", '["../x"]', '["."]', '["step_x"]', '["step_²"]', "[]"]
)
def test_with_a_damaged_index_the_folders_are_looked_at(kept: str, tmp_path: Path):
    on = made(tmp_path, keep_last=9)
    on.save("pretrain_40", {}, STATE)
    for step in (0, 9, 10):
        save(on, step)
    for name in ("step_x", ".step_11.1.tmp", "step_12", "rows"):
        (tmp_path / "checkpoints" / name).mkdir()
    (tmp_path / "checkpoints/index.json").write_text(f'{{"latest": "step_0", "kept": {kept}}}')
    again = made(tmp_path, keep_last=9)
    found = again.newest(warnings := Warnings())
    assert found is not None and found.name == "step_10"
    assert again.kept == ["pretrain_40", "step_0", "step_9", "step_10"]
    index = tmp_path / "checkpoints/index.json"
    assert [w["message"] for w in warnings] == [f"{index}: damaged; step_10 is used"]


def test_an_index_without_any_checkpoint_is_told(tmp_path: Path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/index.json").write_text("")
    with pytest.raises(InputError, match=r"index.json: damaged; run the config again"):
        made(tmp_path).newest(Warnings())
    assert not has_checkpoint(tmp_path)


@pytest.mark.parametrize("change", ["missing", "damaged"])
def test_a_checkpoint_is_only_as_good_as_its_rows(change: str, tmp_path: Path):
    rows, on = tmp_path / "checkpoints/rows", made(tmp_path)
    rows.mkdir(parents=True)
    listed = []
    for step in (0, 5):
        path = rows / f"{step}-metrics.parquet"
        path.write_bytes(bytes([step]))
        listed.append({"name": path.name, "sha256": checkpoint.file_digest(path)})
        on.save(f"step_{step}", {}, {"rows": list(listed)})
    if change == "missing":
        path.unlink()
    else:
        path.write_bytes(b"?")
    found = made(tmp_path).newest(warnings := Warnings())
    assert found is not None and found.name == "step_0"
    assert [w["message"].startswith(str(path)) for w in warnings] == [True]


@pytest.mark.parametrize(
    "state",
    ["{", "[]", "{}", '{"rows": 1}', '{"rows": [1]}', '{"rows": [{"name": "x"}]}', "[" * 9999],
)
def test_what_was_sealed_but_is_no_state_is_foreign(state: str, tmp_path: Path):
    on = made(tmp_path)
    save(on, 0)
    save(on, 5)
    place = tmp_path / "checkpoints/step_5"
    (place / "state.json").write_text(state)
    names = ("state.safetensors", "state.json")
    sealed = {name: checkpoint.file_digest(place / name) for name in names}
    (place / "digests.json").write_text(json.dumps(sealed))
    with pytest.raises(ForeignError, match=r"^step_5: state.json is no state of a run$"):
        made(tmp_path).newest(Warnings())


def test_rows_outside_the_folder_are_not_looked_for(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    row = {"name": "../../secret", "sha256": checkpoint.file_digest(secret)}
    made(tmp_path).save("step_0", {}, {"rows": [row]})
    with pytest.raises(InputError, match=r"rows.secret: missing"):
        made(tmp_path).newest(Warnings())


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_others_may_read_a_checkpoint_as_they_may_the_other_files(tmp_path: Path):
    save(made(tmp_path), 5)
    (tmp_path / "mine").touch()
    place = tmp_path / "checkpoints/step_5"
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (*place.iterdir(), tmp_path / "mine")}
    assert len(modes) == 1
