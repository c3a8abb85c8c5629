"""The score card: its rows are those of the runs, and what interrupts it leaves no trace."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from realdataexp import cli
from realdataexp.config.load import load_config
from realdataexp.errors import InputError
from realdataexp.report.files import read_run
from realdataexp.report.scores import Card, compare
from realdataexp.runs import several
from realdataexp.runs.panel import Panel
from realdataexp.runs.scoring import run_score
from realdataexp.stats.scores import summary

Say = pytest.CaptureFixture[str]
# A panel that changes gets a new version, and its digest a line here: cards of two panels, and of
# two contents of one version, could not be told apart.
DIGESTS = {1: "ae83eb2c16a43f667d329faa3129bed03153ac318b82b4980e5f90d983473662"}
MINE = """
from realdataexp.designs import Design
from realdataexp.designs.base import ones

class Half(Design):
    length: int = 1

    def weights(self, outcome):
        return ones(outcome, self.n_models) / self.length
"""
PLATFORM = {
    "mode": "compare",
    "dataset": {"name": "si2023", "si2023": {"pretrain_rows": 500}},
    "labels": [
        {"name": "stay", "target": "stay_time", "type": "numerical", "loss_function": "MSE",
         "model_params": {"hidden_layers": []}, "alpha_T": 1.0, "alpha_C": 0.0},
        {"name": "finish", "target": "finish", "type": "binary", "loss_function": "BCE",
         "model_params": {"hidden_layers": []}, "alpha_T": 0.0, "alpha_C": 1.0},
    ],
    "simulation": {"batch_size": 16, "n_candidate": 5, "validate_every": 100},
}  # fmt: skip


def test_a_change_of_the_panel_needs_a_new_version():
    panel = Panel.read()
    assert DIGESTS.get(panel.version) == panel.digest
    assert len({*DIGESTS.values()}) == len(DIGESTS)


def test_every_world_of_the_panel_has_the_labels_that_it_names():
    panel = Panel.read()
    for world in panel.worlds.values():
        for kind in ("effect", "aa", "timing"):
            config = panel.config(world, kind, panel.designs, data=Path("x"))
            assert {*world.labels} <= {*config.measured}
            assert config.experiment.aa == (kind == "aa")
    assert sum(world.is_timed for world in panel.worlds.values()) >= 1


# --- a small panel -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(small_settings: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configs of two worlds, and a module with a design."""
    folder = tmp_path_factory.mktemp("score")
    replay = small_settings(simulation={"validate_every": 100})
    for name, settings in (("platform", PLATFORM), ("replay", replay)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    (folder / "half_designs.py").write_text(MINE)
    return folder


@pytest.fixture(scope="module")
def small_panel(place: Path) -> Panel:
    common = {
        "experiment.intervals": ["welch", "user_cluster"], "experiment.starts": 2,
        "experiment.replications": 4, "simulation.processes": 1,
        "simulation.n_steps": 4, "switchback.block_steps": 1,
    }  # fmt: skip
    worlds = {
        name: {"title": name, "config": str(place / f"{name}.yaml"), "labels": labels,
               "is_timed": name == "replay"}
        for name, labels in (("platform", ["stay"]), ("replay", ["play_time", "click"]))
    }  # fmt: skip
    return Panel.model_validate(
        {"version": 7, "designs": ["pooling", "oracle", "cluster"], "settings": common,
         "aa": {"experiment.aa": True}, "quick": {"simulation.n_steps": 2},
         "timing": {"experiment.replications": 2, "simulation.n_steps": 3}, "worlds": worlds}
    )  # fmt: skip


@pytest.fixture(autouse=True)
def _small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "the_panel" in request.function.__name__:  # that of the package
        return
    panel, place = request.getfixturevalue("small_panel"), request.getfixturevalue("place")
    monkeypatch.setattr(Panel, "read", classmethod(lambda cls: panel))
    monkeypatch.syspath_prepend(str(place))


@pytest.fixture(scope="module")
def card_dir(small_panel: Panel, place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a card of a design from outside: do not change it."""
    out = tmp_path_factory.mktemp("card") / "card"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Panel, "read", classmethod(lambda cls: small_panel))
        patch.syspath_prepend(str(place))
        assert run_score("half_designs:Half", ["length=2"], out=out) == (out, 0)
    return out


def call(capsys: Say, *args: str | Path) -> tuple[int, str, list[str]]:
    """Exit code, stdout, and the lines on stderr that are not log lines."""
    code = cli.main([*map(str, args)])
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, out, [line for line in err.splitlines() if not line.startswith("[")]


def run_of(folder: Path, design: str, label: str, *, aa: bool) -> dict[str, Any]:
    """What the run that has a design says of it: the entry of comparison, and of inference."""
    for place in (folder / "points").iterdir():
        result = read_run(place)
        known = {(e.design, e.label): e for e in result.comparison}
        is_timing = result.n_steps_done == 3
        if result.is_aa == aa and not is_timing and (e := known.get((design, label))):
            return {"compared": e, "result": result}
    raise AssertionError((design, label, aa))


def test_a_row_is_what_a_run_of_the_world_with_that_design_says(card_dir: Path):
    card = json.loads((card_dir / "score.json").read_text())
    assert card["design"] == "Half (length 2)"
    names = ["pooling", "oracle", "cluster", "Half (length 2)"]
    asked = [(w, x, d) for w, labels in (("platform", ["stay"]), ("replay", ["play_time", "click"]))
             for x in labels for d in names]  # fmt: skip
    assert [(row["world"], row["label"], row["design"]) for row in card["rows"]] == asked
    n_answers = 0
    for row in card["rows"]:
        if row["cause"]:
            assert row["bias"] is None and row["design"] in row["cause"]
            continue
        n_answers += 1
        own = run_of(card_dir, row["design"], row["label"], aa=False)["compared"]
        assert (row["gte"], row["bias"], row["sd"]) == (own.gte, own.bias, own.sd)
        assert row["bias_percent"] == pytest.approx(100 * own.bias / own.gte)
        method = "user_cluster" if row["world"] == "replay" else "welch"
        assert (row["interval"], row["aa_interval"]) == (method, method)
        aa = run_of(card_dir, row["design"], row["label"], aa=True)["result"]
        (share,) = [
            e.reject_share for e in aa.inference
            if (e.design, e.label, e.se_method) == (row["design"], row["label"], method)
        ]  # fmt: skip
        assert row["type_1"] == share
    assert n_answers == 3 + 2 * 3


def test_a_design_that_cannot_run_in_a_world_is_a_null_with_its_cause(card_dir: Path):
    nulls = Card.read(card_dir).nulls
    assert [(x.world, x.design) for x in nulls] == [("platform", "cluster"), ("replay", "oracle")]
    assert "no users to group" in nulls[0].cause and "E[Z|X]" in nulls[1].cause
    costs = json.loads((card_dir / "score.json").read_text())["costs"]
    assert {x["design"]: x["models"] for x in costs} == {
        "pooling": 1, "cluster": 1, "Half (length 2)": 1,
    }  # fmt: skip


def test_the_asked_design_s_truth_is_that_of_the_built_in_ones(card_dir: Path):
    for world in ("platform", "replay"):
        rows = [x for x in Card.read(card_dir).rows if x.world == world and x.gte is not None]
        by_label = {label: {x.gte for x in rows if x.label == label} for label in
                    {x.label for x in rows}}  # fmt: skip
        assert all(len(found) == 1 for found in by_label.values())


def test_a_card_goes_on_where_it_was_interrupted(
    card_dir: Path, tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
):
    copied = Path(shutil.copytree(card_dir, tmp_path / "card"))
    shutil.rmtree(copied / "points" / "1")
    for name in ("score.json", "score.html", "score.svg"):
        (copied / name).unlink()
    words = ["half_designs:Half", "--option", "length=2", "--out", copied]

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt("saved")

    with monkeypatch.context() as patch:
        patch.setattr(several, "resume_experiment", stop)
        code, _, err = call(capsys, "score", *words)
    assert (code, len(err)) == (130, 1)
    assert err[0].endswith(f"resume it: realdataexp resume {copied}")
    assert not (copied / "score.json").exists()
    code, out, err = call(capsys, "resume", copied)
    assert (code, err) == (0, [])
    assert out.splitlines()[-1] == f"Card's folder: {copied}"
    was, now = (json.loads((x / "score.json").read_text()) for x in (card_dir, copied))
    for card in (was, now):
        del card["seconds"]
    assert was == now
    assert "Score card of Half" in (copied / "score.html").read_text()
    assert call(capsys, "report", copied)[1] == f"Wrote {copied / 'score.html'}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["poling"], 'DESIGN: name = "poling": unknown'),
        (["half_designs:None_"], "half_designs"),
        (["half_designs:Half", "--option", "width=2"], "DESIGN.width: unknown key"),
        (["half_designs:Half", "--option", "length"], "--option length: must be KEY=VALUE"),
        (["[1]"], "DESIGN = '[1]': must be a name"),
        (["{name: snapshot, label: pooling}"], "label = 'pooling': stands for the built-in"),
        (["pooling", "--world", "platform.yaml"], "--world platform: the panel has a world"),
        (["pooling", "--executor", "locl"], "--executor = 'locl': unknown"),
        ([], "DESIGN or --compare A B: pass one of them"),
        (["pooling", "--compare", "a", "b"], "DESIGN or --compare A B: pass one of them"),
        (["--compare", "a", "b"], "a: cannot be read"),
    ],
)
def test_what_is_wrong_is_one_line(words: list[str], said: str, tmp_path: Path, capsys: Say):
    code, out, err = call(capsys, "score", *words, *(["--out", tmp_path / "x"] if words else []))
    assert (code, out, len(err)) == (2, "", 1), err
    assert said in err[0]
    assert not (tmp_path / "x").exists()


def test_another_card_in_the_folder_is_refused(card_dir: Path, capsys: Say):
    for words in (["pooling"], ["half_designs:Half", "--option", "length=3"],
                  ["half_designs:Half", "--option", "length=2", "--quick"]):  # fmt: skip
        code, _, err = call(capsys, "score", *words, "--out", card_dir)
        assert (code, len(err)) == (2, 1)
        assert err[0].startswith(f"{card_dir}: holds another card, with ")
    code, _, err = call(capsys, "score", "pooling", "--out", card_dir / "points")
    assert (code, len(err)) == (2, 1)
    assert "exists; a run never overwrites another" in err[0]


def test_a_design_that_runs_nowhere_is_refused(
    place: Path, tmp_path: Path, capsys: Say, monkeypatch: pytest.MonkeyPatch
):
    nowhere = MINE.replace("Half", "Never") + (
        "\n    def start(self, context):\n        raise context.refuse('there is no room')\n"
    )
    (tmp_path / "never_designs.py").write_text(nowhere)
    monkeypatch.syspath_prepend(str(tmp_path))
    code, _, err = call(capsys, "score", "never_designs:Never", "--out", tmp_path / "x")
    assert (code, len(err)) == (2, 1)
    assert err[0].startswith("Never: runs in no world of the panel: design Never: there is no room")
    sys.modules.pop("never_designs")


# --- two cards, and figures ----------------------------------------------------------------------


def test_two_cards_of_one_panel_are_compared_and_of_two_refused(card_dir: Path, capsys: Say):
    code, out, _ = call(capsys, "score", "--compare", card_dir, card_dir / "score.json")
    assert code == 0
    assert out.rstrip().endswith("9 answers of designs that both cards have: the same")
    card = Card.read(card_dir)
    changed = card.rows[0].model_copy(update={"bias": 1e9})
    other = card.model_copy(update={"rows": [changed, *card.rows[1:]]})
    assert compare(card, other).lines[-1].endswith("both cards have: other numbers in 1")
    newer = card.model_copy(update={"panel": card.panel.model_copy(update={"version": 8})})
    with pytest.raises(InputError, match=r"panel 7 .*panel 8"):
        compare(card, newer)


def test_ranks_are_of_mean_ranks_over_the_questions_answered_in_any_unit():
    """By hand: q is best at a and b, p last; r answers b alone, where it is second."""
    rows = [("a", "p", 3.0), ("a", "q", 1.0), ("b", "p", 30.0), ("b", "q", -10.0), ("b", "r", 20.0)]
    table = pl.DataFrame(
        [{"world": w, "label": "x", "design": d, "bias_percent": x} for w, d, x in rows]
    )

    def ranks(of: pl.DataFrame) -> dict[str, int]:
        return {x["design"]: x["bias_rank"] for x in summary(of, pl.DataFrame())}

    # mean ranks: p (2 + 3) / 2, q 1, r 2
    assert ranks(table) == {"p": 3, "q": 1, "r": 2}
    assert ranks(table[::-1]) == ranks(table)
    is_b = pl.col("world") == "b"
    scaled = pl.when(is_b).then(1e3).otherwise(1.0) * pl.col("bias_percent")
    assert ranks(table.with_columns(bias_percent=scaled)) == ranks(table)


def test_a_world_of_one_s_own_keeps_its_sizes(place: Path, small_panel: Panel):
    from realdataexp.runs.panel import World

    path = str(place / "platform.yaml")
    own = load_config(path)
    for kind in ("effect", "aa"):
        config = small_panel.config(World(title=path, config=path, is_own=True), kind, ["pooling"])
        assert config.simulation == own.simulation
        assert config.experiment.replications == own.experiment.replications
        assert config.experiment.aa == (kind == "aa")
