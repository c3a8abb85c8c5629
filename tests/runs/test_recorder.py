"""What the recorder keeps of a run, against counting its visits one by one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from support import BLOCKS, GLOBAL_C, GLOBAL_T, POOLING, History, Setting, run

from realdataexp.data.parquet import write_parquet
from realdataexp.designs.base import CONTROL, Outcome, ones
from realdataexp.designs.cluster import Cluster
from realdataexp.designs.pooling import Pooling
from realdataexp.designs.shadow import Shadow
from realdataexp.designs.snapshot import Snapshot
from realdataexp.designs.splitting import Splitting
from realdataexp.designs.switchback import Switchback
from realdataexp.loop import Block, Loop
from realdataexp.runs.checkpoint import file_digest
from realdataexp.runs.recorder import Recorder
from realdataexp.stats.aggregates import PICKS_SCHEMA
from realdataexp.stats.ledger import ledger_results
from realdataexp.worlds.base import Slate, Visits

LABELS, KINDS = ("play", "click"), ("numerical", "binary")
CLUSTER = Block("cluster", Cluster(n_clusters=2), 0.4)
SWITCHBACK = Block("switchback", Switchback(block_steps=4, washout_steps=1), 0.4)
REPLICATIONS = (0, 3)


SHADOW, SPLITTING = Block("shadow", Shadow(), 0.4), Block("splitting", Splitting(), 0.4)


class Picky(Pooling):
    """The control never shows a video with an odd number."""

    def candidates(self, visits: Visits, slate: Slate, is_treated_RB: torch.Tensor) -> torch.Tensor:
        is_even_RBC = slate.video_WBC % 2 == 0
        return slate.is_candidate_WBC & (is_treated_RB.unsqueeze(-1) | is_even_RBC)

    def weights(self, outcome: Outcome) -> torch.Tensor:
        return ones(outcome, self.n_models)


def recorded(
    blocks: tuple[Block, ...], has_users: bool = True, keeps_picks: bool = False
) -> tuple[Recorder, History]:
    history = run(Setting(n_candidates=2), blocks, REPLICATIONS)
    own = {"keeps_picks": keeps_picks}
    recorder = Recorder(blocks, REPLICATIONS, LABELS, LABELS, KINDS, 2, has_users, **own)
    for step in history.steps:
        recorder.add(step)
        if step.visits.step % 5 == 0:
            recorder.flush()
    recorder.flush()
    return recorder, history


def by_hand(h: History, block: int, covariate_UL: np.ndarray) -> dict[tuple, tuple]:
    """Count, sum and covariates of each world, arm, label and unit of a block."""
    rows: dict[tuple, list] = {}
    before: dict[tuple, list[float]] = {}
    for step in h.steps:
        unit_RB = step.unit_XRB[block]
        for r, replication in enumerate(REPLICATIONS):
            w = h.world(block, replication)
            for b, user in enumerate(step.visits.user_RB[r].tolist()):
                unit = user if unit_RB is None else int(unit_RB[r, b])
                for i, label in enumerate(LABELS):
                    y = float(step.y_WBL[w, b, i])
                    if np.isfinite(y):
                        arm = "CT"[int(step.is_treated_WB[w, b])]
                        rows.setdefault((replication, arm, label, unit), []).append(y)
                        before.setdefault((replication, label, unit), []).append(
                            float(covariate_UL[user, i])
                        )
    return {
        (r, arm, label, unit): (len(y), sum(y), float(np.mean(before[r, label, unit])))
        for (r, arm, label, unit), y in rows.items()
    }


def test_units_are_users_clusters_or_blocks_of_steps():
    blocks = (GLOBAL_T, POOLING, CLUSTER, SWITCHBACK)
    recorder, history = recorded(blocks)
    covariate_UL = np.random.default_rng(0).normal(size=(10, 2))
    table = recorder.units([covariate_UL])
    assert table is not None
    for i, block in enumerate(blocks):
        part = table.filter(pl.col("design").cast(pl.String) == block.label)
        found = {row[:4]: row[4:] for row in part.drop("design", "ahead").iter_rows()}
        expected = by_hand(history, i, covariate_UL)
        assert len(found) == part.height and found.keys() == expected.keys()
        for key, row in found.items():
            assert row == pytest.approx(expected[key], rel=1e-9)
        n_units = {"global": 10, "pooling": 10, "cluster": 2, "switchback": 3}[block.label]
        assert set(part["unit"]) <= set(range(n_units))
    without = recorder.units(None)
    assert without is not None and without.drop("covariate").equals(table.drop("covariate"))


def test_where_every_visit_is_a_new_user_only_designs_with_units_of_their_own_have_rows():
    recorder, history = recorded((GLOBAL_T, GLOBAL_C, POOLING, SWITCHBACK), has_users=False)
    table = recorder.units(None)
    assert table is not None
    assert table["design"].cast(pl.String).unique().to_list() == ["switchback"]
    expected = by_hand(history, 3, np.zeros((10, 2)))
    assert {row[:4] for row in table.drop("design").iter_rows()} == set(expected)
    assert recorded((GLOBAL_T, POOLING), has_users=False)[0].units(None) is None


def test_lost_visits_are_those_drawn_that_did_not_take_place():
    recorder, history = recorded((GLOBAL_T, GLOBAL_C, Block("picky", Picky(), 0.4)))
    lost = recorder.diagnostics()["share_of_visits_lost"]
    assert list(lost) == ["global_T", "global_C", "picky"]
    assert lost["global_T"] == lost["global_C"] == 0.0
    drawn = took_place = 0
    for step in history.steps:
        drawn += int(step.visits.is_visit_RB.sum())
        took_place += int(step.is_visit_WB[2 * len(REPLICATIONS) :].sum())
        is_lost_WB = step.visits.is_visit_RB & ~step.is_visit_WB[2 * len(REPLICATIONS) :]
        is_treated_WB = step.is_treated_WB[2 * len(REPLICATIONS) :]
        assert bool((is_treated_WB[is_lost_WB] == CONTROL).all())
    assert 0 < took_place < drawn
    assert lost["picky"] == pytest.approx(1 - took_place / drawn)


def test_the_ledger_counts_whose_visits_each_arm_s_model_learned_from(
    monkeypatch: pytest.MonkeyPatch,
):
    seen: list[torch.Tensor] = []  # each step's weights, S, B

    def watching(self: Loop, *given: object) -> tuple[torch.Tensor, torch.Tensor | None]:
        weight_SB, inflation_S = weigh(self, *given)
        seen.append(weight_SB)
        return weight_SB, inflation_S

    weigh = Loop._weights
    monkeypatch.setattr(Loop, "_weights", watching)
    blocks = (GLOBAL_T, GLOBAL_C, POOLING, SHADOW, SPLITTING, Block("snapshot", Snapshot(), 0.4))
    recorder, h = recorded(blocks)
    expected = {}
    for t, step in enumerate(h.steps):
        for i, block in enumerate(blocks):
            for r in REPLICATIONS:
                w = h.world(i, r)
                for a, arm in enumerate("CT"):
                    network = h.network(i, r, a if block.design.n_models == 2 else 0)
                    row = [0, 0, 0.0, 0.0]  # visits, of these those that differ, own, other
                    for b in range(step.is_visit_WB.shape[1]):
                        if step.is_visit_WB[w, b]:
                            is_own = bool(step.is_treated_WB[w, b]) == bool(a)
                            row[0] += is_own
                            row[1] += is_own and bool(step.differs_WB[w, b])
                            row[2 if is_own else 3] += float(seen[t][network, b])
                    if 0 < block.p < 1 or row[0]:
                        expected[block.label, r, t, arm] = tuple(row)
    table = recorder.ledger()
    found = {row[:4]: row[4:] for row in table.iter_rows()}
    assert len(found) == table.height and found.keys() == expected.keys()
    for key, row in found.items():
        assert row == pytest.approx(expected[key], rel=1e-6)
    share = {
        (x["design"], x["arm"]): x.get("other_share") for x in ledger_results(recorder.ledger())
    }
    assert share["global", "T"] == share["global", "C"] == share["splitting", "T"] == 0.0
    assert share["pooling", "T"] + share["pooling", "C"] == pytest.approx(1.0)
    assert 0.0 < share["shadow", "T"] < share["pooling", "T"]
    assert share["snapshot", "T"] is None
    metrics = recorder.metrics().filter(split="ledger")
    assert set(metrics["design"]) == {"global_T", "global_C", "pooling", "shadow", "splitting"}
    last = metrics.filter(design="pooling", model="T", world=0, step=11)["value"].to_list()
    part = table.filter(design="pooling", arm="T", world=0).filter(pl.col("step").is_between(6, 10))
    assert last == [
        pytest.approx(
            part["other_weight"].sum() / (part["own_weight"] + part["other_weight"]).sum()
        )
    ]


def test_before_the_first_step_nothing_is_known():
    recorder = Recorder(BLOCKS, REPLICATIONS, LABELS, LABELS, KINDS, 2, True)
    recorder.flush()
    assert recorder.units(None) is None and recorder.outcomes().height == 0
    assert set(recorder.diagnostics()["share_of_visits_lost"].values()) == {None}


@pytest.mark.parametrize("has_users", [True, False])
def test_units_say_where_the_picks_of_both_arms_differ_if_that_is_kept(has_users: bool):
    picky = Block("picky", Picky(), 0.4)
    recorder, h = recorded((GLOBAL_T, POOLING, SPLITTING, picky), has_users, keeps_picks=True)
    table, expected, some = recorder.units(None), {}, []
    assert table is not None
    for block, design in ((1, "pooling"), (2, "splitting")):
        for r, replication in enumerate(REPLICATIONS):
            w, have, number = h.world(block, replication), set(), -1
            for step in h.steps:
                for b, user in enumerate(step.visits.user_RB[r].tolist()):
                    number += 1
                    unit, y = user if has_users else number, float(step.y_WBL[w, b, 0])
                    differs = bool(step.differs_WB[w, b])
                    have |= {unit} if differs else set()
                    if np.isnan(y):
                        continue
                    some.append((differs, unit in have))
                    key = design, replication, "CT"[int(step.is_treated_WB[w, b])], unit
                    row = expected.setdefault(key, np.zeros(4))
                    row += [differs, y * differs, unit in have, y * (unit in have)]
    is_ours = pl.col("design").cast(pl.String) != "global"
    part = table.filter(pl.col("label").cast(pl.String) == LABELS[0], is_ours)
    known = part.drop_nulls("n_differ").select("design", "world", "arm", "unit", *PICKS_SCHEMA)
    found = {row[:4]: row[4:] for row in known.iter_rows()}
    assert found.keys() == expected.keys() and len(found) == known.height
    for key, row in found.items():
        assert row == pytest.approx(expected[key], rel=1e-6, abs=1e-9)
    assert {*some} == ({(False, False), (False, True), (True, True)} if has_users else
                       {(False, False), (True, True)})  # fmt: skip
    # the arms of a design that may show them different videos do not pick from one slate
    whose = set(table.filter(pl.col("n_differ").is_null())["design"].cast(pl.String))
    assert whose == {"picky"}
    if has_users:
        plain = recorded((GLOBAL_T, POOLING, SPLITTING, picky))[0].units(None)
        assert plain is not None and plain.equals(table.drop(PICKS_SCHEMA))


LAYOUTS = {
    "users": ((GLOBAL_T, GLOBAL_C, POOLING), True),
    "units of three kinds": ((POOLING, CLUSTER, SWITCHBACK), True),
    "none, then blocks of steps": ((POOLING, SWITCHBACK, GLOBAL_T), False),
    "no units": ((POOLING,), False),
    "picks": ((GLOBAL_T, POOLING, SWITCHBACK), True, "keeps picks"),
    "picks of new users": ((GLOBAL_T, POOLING, SWITCHBACK), False, "keeps picks"),
}


@pytest.mark.parametrize("reload_at", [(0,), (5,), (3, 4, 4, 9), (12,), tuple(range(13))])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_that_were_written_and_loaded_give_the_same_tables(
    layout: str, reload_at: tuple[int, ...], tmp_path: Path
):
    blocks, has_users, *keeps_picks = LAYOUTS[layout]

    def fresh() -> Recorder:
        own = {"keeps_picks": bool(keeps_picks)}
        return Recorder(blocks, REPLICATIONS, LABELS, LABELS, KINDS, 2, has_users, **own)

    def write(on: Recorder, folder: Path) -> list[dict[str, str]]:
        on.add_metric("loop", 3, "pooling", None, "G", "", "weights", "auc", 0.5, 7)
        files = on.write_rows(folder)
        assert sorted(f["name"] for f in files) == sorted(p.name for p in folder.iterdir())
        assert all(f["sha256"] == file_digest(folder / f["name"]) for f in files)
        return files

    steps = run(Setting(n_candidates=2), blocks, REPLICATIONS).steps
    whole, part = fresh(), fresh()
    for i in range(len(steps) + 1):
        for _ in range(reload_at.count(i)):
            write(whole, tmp_path / "whole")
            files, state = write(part, tmp_path / "part"), part.state()
            saved = {name: t.clone() for name, t in state.items()}
            part = fresh()
            part.load_rows(tmp_path / "part", json.loads(json.dumps(files)))
            part.load_state(saved)
        if i < len(steps):
            whole.add(steps[i])
            part.add(steps[i])
            if i % 4 == 3:
                whole.flush()
                part.flush()
    whole.flush()
    part.flush()
    covariates = [np.random.default_rng(0).normal(size=(10, 2))] if has_users else None
    assert part.outcomes().equals(whole.outcomes()) and whole.outcomes().height > 0
    assert part.metrics().equals(whole.metrics()) and part.ledger().equals(whole.ledger())
    assert part.diagnostics() == whole.diagnostics() and part.last_short == whole.last_short
    assert part.n_visits("pooling") == whole.n_visits("pooling") > 0
    one, other = part.units(covariates), whole.units(covariates)
    assert (one is None) == (other is None) == (layout == "no units")
    assert one is None or other is None or one.equals(other)
    for name, t in whole.state().items():
        assert torch.equal(part.state()[name], t)


def test_equal_tables_are_equal_files_however_they_came_about(tmp_path: Path):
    recorder, history = recorded((GLOBAL_T, POOLING))
    at_once = Recorder((GLOBAL_T, POOLING), REPLICATIONS, LABELS, LABELS, KINDS, 2, True)
    for step in history.steps:
        at_once.add(step)
    at_once.flush()
    for name, of in (("many", recorder), ("one", at_once)):
        write_parquet(tmp_path / name, of.outcomes())
    assert (tmp_path / "many").read_bytes() == (tmp_path / "one").read_bytes()


def test_only_what_is_new_is_written(tmp_path: Path):
    recorder, _ = recorded((GLOBAL_T, POOLING))
    before = recorder.write_rows(tmp_path)
    content = {p: p.read_bytes() for p in tmp_path.iterdir()}
    after = recorder.write_rows(tmp_path)
    assert after[: len(before)] == before and len(after) == 2 * len(before)
    assert all(p.read_bytes() == x for p, x in content.items())
    new = [tmp_path / file["name"] for file in after[len(before) :]]
    assert [pl.read_parquet(p).height for p in new if p.suffix == ".parquet"] == [0] * 5


def test_rows_of_another_kind_are_refused(tmp_path: Path):
    recorder, _ = recorded((GLOBAL_T, POOLING))
    files = recorder.write_rows(tmp_path)
    write_parquet(tmp_path / files[0]["name"], pl.DataFrame({"x": [1]}))
    fresh = Recorder((GLOBAL_T, POOLING), REPLICATIONS, LABELS, LABELS, KINDS, 2, True)
    with pytest.raises(ValueError, match="has other columns"):
        fresh.load_rows(tmp_path, files)
    other = Recorder((POOLING,), REPLICATIONS, LABELS, LABELS, KINDS, 2, True)
    with pytest.raises(ValueError, match="instead of"):
        other.load_state(recorder.state())
