"""What the doctor finds in a config or in data made up for each finding."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from realdataexp import doctor
from realdataexp.config import Config, load_config
from realdataexp.doctor import Finding, examine, would_stop
from realdataexp.worlds import world_of

Space = namedtuple("Space", "total used free")


def one(findings: Iterable[Finding], check: str) -> Finding:
    (found,) = [finding for finding in findings if finding.check == check]
    return found


def arms(*labels: dict[str, Any], **changes: Any) -> Config:
    """The demo's config with other labels."""
    values = load_config("demo").resolved()
    own = [{**values["labels"][i % 2], "name": f"l{i}", **x} for i, x in enumerate(labels)]
    experiment = {**values["experiment"], **changes}
    return load_config({**values, "labels": own, "experiment": experiment})


def alphas(t: float, c: float, **more: Any) -> dict[str, Any]:
    return {"alpha_T": t, "alpha_C": c, **more}


def test_whole_data_are_found(small_config: Callable[..., Path], small_data: Path):
    found = one(examine(str(small_config())), "data")
    assert (found.status, "user_features_pure.csv" in found.text) == ("ok", True)
    assert "not asked for: video_features_statistic" in found.text
    found = one(examine(data=small_data), "data")
    assert (found.status, "log_random" in found.text) == ("ok", True)


def test_missing_and_cut_files_stop(tmp_path: Path, small_data: Path):
    there = {path.name: path for path in small_data.rglob("*_pure.csv")}
    for name, path in there.items():
        if not name.startswith("log_random"):
            (tmp_path / name).write_bytes(path.read_bytes())
    findings = examine(data=tmp_path)
    assert "missing log_random_4_22_to_5_08_pure.csv" in one(findings, "data").text
    assert would_stop(findings)
    name = next(name for name in there if name.startswith("log_random"))
    (tmp_path / name).write_bytes(there[name].read_bytes()[:-20])
    assert "is cut" in one(examine(data=tmp_path), "data").text
    found = one(examine(data=tmp_path / "nowhere"), "data")
    assert (found.status, "no such folder" in found.text) == ("stop", True)


def test_data_without_a_folder_stop_and_simulated_ones_need_none():
    found = one(examine("kuairand-pure"), "data")
    assert (found.status, "--data DIR" in found.remedy) == ("stop", True)
    assert one(examine("si2023"), "data").status == "ok"


def test_ones_own_tables_are_found_or_missed(tmp_path: Path):
    pl.DataFrame({"user_id": [1], "video_id": [2], "time": [3], "is_click": [1]}).write_parquet(
        tmp_path / "log.parquet"
    )
    values = load_config("demo").resolved()
    tables = {"log": ["log.parquet"], "videos": "videos.parquet"}
    values["dataset"] = {"name": "tables", "path": str(tmp_path), "tables": tables}
    values["feature"] = {"numerical": ["length"], "categorical": ["user.age", "kind"]}
    values["labels"] = [{**values["labels"][1], "alpha_T": 1.0}]
    config = load_config(values)
    found = one(doctor.check_data(config), "data")
    assert (found.status, "videos.parquet" in found.text) == ("stop", True)
    videos = {"video_id": [2], "length": [1.0], "user.age": ["a"], "kind": ["b"]}
    pl.DataFrame(videos).write_parquet(tmp_path / "videos.parquet")
    pl.DataFrame({"user_id": [1], "age": ["old"]}).write_parquet(tmp_path / "users.parquet")
    tables["users"] = "users.parquet"
    config = load_config(values)
    found = one(doctor.check_data(config), "data")
    assert (found.status, "found log.parquet, videos.parquet, users.parquet" in found.text) == (
        "ok",
        True,
    )
    features = world_of(config).inputs(config)
    assert (features.user.names, features.video.names) == (("user.age",), ("length", "kind"))
    assert doctor.check_need(config).status == "ok"


def test_a_disk_too_small_for_the_import_is_a_warning(
    small_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
):
    config = load_config(small_config())
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: Space(0, 0, 1000))
    assert [x.status for x in doctor.check_data(config)] == ["ok", "warning"]


def test_each_fault_of_a_config_is_a_stop(small_config: Callable[..., Path]):
    path = small_config(sed=1, simulation={"n_steps": 0})
    findings = [x for x in examine(str(path)) if x.check == "config"]
    assert [x.status for x in findings] == ["stop", "stop"]


@pytest.mark.parametrize(
    ("labels", "aa", "status", "said"),
    [
        ([alphas(1, 0), alphas(0, 1)], False, "ok", "can rank differently"),
        ([alphas(1, 0.5), alphas(1, 0.5)], False, "warning", "2 times those of C"),
        ([alphas(1, -1)], False, "ok", "can rank differently"),
        ([alphas(1, 1), alphas(0, 0)], False, "warning", "equal in both arms"),
        ([alphas(1, 1), alphas(0, 0)], True, "ok", "A/A"),
        ([alphas(1, 0), alphas(1, 0)], False, "warning", "arm C: every alpha is 0"),
        ([alphas(0, 1)], True, "warning", "arm T: every alpha is 0"),
        ([alphas(1, 0)], True, "ok", "A/A"),
    ],
)
def test_alphas_without_effect(labels: list[dict[str, Any]], aa: bool, status: str, said: str):
    found = one(doctor.check_alphas(arms(*labels, aa=aa)), "alphas")
    assert (found.status, said in found.text) == (status, True)


def test_alphas_of_a_label_without_model_have_no_effect():
    only_measured = {"model": "none", "loss_function": None, "model_params": {}}
    config = arms(alphas(1, 0), alphas(0, 1), alphas(2, 1, **only_measured))
    statuses = [(x.status, "l2 has no model" in x.text) for x in doctor.check_alphas(config)]
    assert statuses == [("ok", False), ("warning", True)]
    config = arms(alphas(1, 0), alphas(0, 1), alphas(1, 1, **only_measured))
    assert [x.status for x in doctor.check_alphas(config)] == ["ok"]


def test_one_label_rules_a_raw_score():
    raw = {"score_unit": "raw"}
    config = arms(alphas(1, 0, **raw), alphas(1, 1))  # milliseconds and a standardised click
    found = one(doctor.check_alphas(config), "score_unit")
    assert (found.status, "arm T: l0" in found.text) == ("warning", True)
    for balanced in (alphas(1e-4, 0, **raw), alphas(1, 0)):
        findings = doctor.check_alphas(arms(balanced, alphas(1, 1)))
        assert "score_unit" not in {x.check for x in findings}


def test_a_design_that_lacks_its_package_stops(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "installed", lambda _: None)
    needy = ["cluster", {"name": "weighting", "label": "forest", "model": "random_forest"}]
    config = arms(alphas(1, 0), designs=[*needy, "pooling", "weighting"])
    found = list(doctor.check_needed_packages(config))
    assert [(x.status, x.text.split()[1]) for x in found] == [
        ("stop", "cluster"),
        ("stop", "forest"),
    ]


def test_a_training_is_set_up_and_its_faults_stop():
    ok = [x for x in examine("sequences-demo") if x.check == "training"]
    assert {x.status for x in ok} == {"ok"}
    assert any("400 items" in x.text for x in ok)
    (stop,) = [x for x in examine("beauty-sasrec") if x.check == "training"]
    assert (stop.status, "--data DIR" in stop.remedy) == ("stop", True)
