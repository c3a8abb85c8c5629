"""The commands: a training's own checks before its first epoch, a run folder's, files and page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from diagnose.subjects import CONFIG, LEARNED

from realdataexp import cli
from realdataexp.report.files import read_table

Say = pytest.CaptureFixture[str]
NOISE = "items.vectors.control=noise"
LOOP = [
    "--set", "dataset.synthetic={version: pure, users: 200, videos: 100, rows: 6000}",
    "--set", "experiment.replications=2", "--set", "experiment.starts=2",
    "--set", "experiment.designs=[pooling]", "--set", "simulation.n_steps=2",
    "--set", "logging.pictures=false",
]  # fmt: skip


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    training = {**LEARNED["training"], "epochs": 1}
    path.write_text(yaml.safe_dump({**CONFIG, **LEARNED, "training": training}))
    return path


def run(*words: str | Path) -> int:
    return cli.main([str(word) for word in words])


def test_a_training_is_the_same_whether_it_was_diagnosed_before(
    config: Path, tmp_path: Path, capsys: Say
) -> None:
    assert run("train", config, "--out", tmp_path / "a", "--diagnose", "--strict") == 0
    said = capsys.readouterr().out
    assert "gradient_sync" in said and "embedding_signal" in said and "FAULT" not in said
    assert run("train", config, "--out", tmp_path / "b") == 0
    assert "gradient_sync" not in capsys.readouterr().out
    ranks = [read_table(tmp_path / x, "ranks") for x in "ab"]
    assert ranks[0].equals(ranks[1])


def test_a_strict_training_with_a_fault_trains_nothing(
    config: Path, tmp_path: Path, capsys: Say
) -> None:
    command = ("train", config, "--set", NOISE, "--out", tmp_path / "run", "--diagnose")
    assert run(*command, "--strict") == 1
    said = capsys.readouterr()
    assert "nothing was trained: embedding_signal found a fault" in said.err
    assert not (tmp_path / "run").exists()
    assert run(*command, "--quiet") == 0
    assert "FAULT" in capsys.readouterr().out
    assert (tmp_path / "run" / "result.json").exists()


def test_strict_without_checks_is_refused(config: Path, capsys: Say) -> None:
    assert run("train", config, "--strict") == 2
    assert "--strict: has no effect without --diagnose" in capsys.readouterr().err


def test_the_loop_s_starting_model_is_diagnosed_from_its_run_folder(
    tmp_path: Path, capsys: Say
) -> None:
    assert run("run", "demo", *LOOP, "--out", tmp_path / "run", "--quiet") == 0
    assert run("diagnose", tmp_path / "run", "--check", "dead_input", "--json") == 0
    found = json.loads(capsys.readouterr().out.partition("\n{\n")[2].join(["{\n", ""]))
    assert [x["subject"] for x in found["checks"]] == ["play_time", "click"]
    assert json.loads((tmp_path / "run" / "diagnosis.json").read_text()) == found
    assert (tmp_path / "run" / "diagnosis.html").exists()


class Cells(HTMLParser):
    """The texts of tables' cells, a row each."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.is_cell = False

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self.is_cell = True

    def handle_endtag(self, tag: str) -> None:
        self.is_cell = self.is_cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.is_cell:
            self.rows[-1][-1] += data.strip()


def test_the_page_has_what_the_file_has(config: Path, tmp_path: Path, capsys: Say) -> None:
    claims = tmp_path / "claims.yaml"
    belief = "<b>embeddings</b> are normal"
    claims.write_text(
        yaml.safe_dump(
            {
                "claims": [
                    {"claim": belief, "check": "embedding_signal", "value": "ok"},
                    {"claim": "some layer is dead", "check": "dead_parameter", "value": "fault"},
                    {"claim": "it counts", "check": "counting_baseline", "value": "fault"},
                ]
            }
        )
    )
    words = ("--set", NOISE, "--claims", claims, "--out", tmp_path / "d")
    assert run("diagnose", config, *words) == 0
    said = " ".join(capsys.readouterr().out.split())
    found = json.loads((tmp_path / "d" / "diagnosis.json").read_text())
    assert {x["claim"]: x["verdict"] for x in found["claims"]} == {
        belief: "refuted", "some layer is dead": "refuted", "it counts": "cannot tell",
    }  # fmt: skip
    assert "refuted" in said and belief in said
    assert len(found["config_sha256"]) == len(found["data"][0]) == 64
    assert "git_revision" in found["versions"]
    page = (tmp_path / "d" / "diagnosis.html").read_text()
    assert belief not in page  # a text is escaped
    parser = Cells()
    parser.feed(page)
    rows = {row[0]: row[1:] for row in parser.rows if row}
    for x in found["claims"]:
        assert rows[x["claim"]][:2] == [x["verdict"], x["check"]]
    for x in found["checks"]:
        assert rows[x["check"]][0] == x["verdict"]
        advice = f"To do: {x['advice']}" if x["advice"] else ""
        assert rows[x["check"]][-1] == x["said"] + advice
    assert rows["config, SHA-256"] == [found["config_sha256"]]
    assert rows["data, digest"] == found["data"]
