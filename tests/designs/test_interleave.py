"""The design interleave: lists that both arms draft, and whose what is taken is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from frequency import assert_share
from support import make_visits, started
from torch import Tensor

import realdataexp as rx
from realdataexp.config import load_config
from realdataexp.designs.base import Design
from realdataexp.designs.interleave import Interleave
from realdataexp.designs.pooling import Pooling
from realdataexp.errors import InputError, Warnings
from realdataexp.runs.setup import set_up
from realdataexp.worlds.base import Slate, Visits
from realdataexp.worlds.sequences import SequenceWorld

R, B = 100, 60
NOBODY = torch.zeros(R, B, dtype=torch.bool)


def drafted(K: int, step: int = 0, replications=range(R), seed: int = 3) -> Any:
    """Two random rankings of 9 candidates each, the lists, and whose their places are."""
    n, generator = len(replications), torch.Generator().manual_seed(1)
    ranking_RABC = torch.rand(n, 2, B, 9, generator=generator).argsort(-1)
    visits = make_visits(step, replications, torch.zeros(n, B, dtype=torch.int64))
    design = started(Interleave(), seed=seed, p=0.5, n_shown=K)
    return ranking_RABC, *design.shown(visits, ranking_RABC[..., :K], NOBODY[:n])


@pytest.mark.parametrize("K", [2, 3, 5, 9])
def test_each_adds_the_best_that_is_not_there_and_each_has_one_place_in_two(K: int):
    ranking_RABC, list_RBK, is_treatments_RBK = drafted(K)
    for r in range(3):
        for b in range(B):
            expected: list[int] = []
            for is_treatments in is_treatments_RBK[r, b].tolist():
                ranking = ranking_RABC[r, int(is_treatments), b].tolist()
                expected.append(next(item for item in ranking if item not in expected))
            assert list_RBK[r, b].tolist() == expected
    even_RBN, odd_RBN = is_treatments_RBK[..., 0::2], is_treatments_RBK[..., 1::2]
    assert torch.equal(even_RBN[..., : odd_RBN.shape[-1]], ~odd_RBN)


def test_a_fair_coin_of_its_own_in_each_round_says_who_is_first():
    _, _, is_treatments_RBK = drafted(4)
    first, second = is_treatments_RBK[..., 0], is_treatments_RBK[..., 2]
    for is_first in (first, second, first ^ second):
        assert_share(is_first, 0.5, 0.08)
    assert torch.equal(drafted(4, replications=(7,))[2][0], is_treatments_RBK[7])
    assert not torch.equal(drafted(4, step=1)[2], is_treatments_RBK)
    assert not torch.equal(drafted(4, seed=4)[2], is_treatments_RBK)


# --- in a run ------------------------------------------------------------------------------------

SETTINGS = {
    "mode": "compare",
    "dataset": {
        "name": "sequences", "history": 4, "n_shown": 3, "negatives": 2,
        "synthetic": {"users": 120, "items": 60},
    },
    "labels": [
        {
            "name": name, "target": "hit", "type": "binary", "loss_function": "BCE",
            "model": "SASRec", "arms": [arm],
            "model_params": {"width": width, "n_layers": 1, "dropout": 0.0, "longest": 4},
        }
        for name, width, arm in (("wide", 8, "treatment"), ("slim", 4, "control"))
    ],
    "outcomes": [{"name": "hit", "target": "hit"}],
    "pretrain": {"batch_size": 64, "share": 0.5},
    "simulation": {"batch_size": 16, "n_candidate": 6, "n_steps": 12, "processes": 1},
    "experiment": {
        "replications": 10, "starts": 2, "intervals": ["welch", "user_cluster"],
        "designs": ["pooling", "interleave"],
    },
    "logging": {"pictures": False},
}  # fmt: skip


def visits_by_arm(folder: Path) -> pl.DataFrame:
    own = rx.Result(folder).outcomes.filter(design="interleave")
    return own.pivot("arm", index=["world", "step"], values="n").sort("world", "step").fill_null(0)


def test_a_visit_counts_for_the_arm_that_drafted_what_was_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Users who always take what stands second, where they took the head: the other arm's."""
    found = {}
    for place in (0, 1):

        def takes(self: Any, visits: Visits, slate: Slate, shown: Tensor, k: int = place) -> Tensor:
            return shown[..., k]

        monkeypatch.setattr(SequenceWorld, "taken", takes)
        found[place] = visits_by_arm(rx.run(SETTINGS, out=tmp_path / f"{place}").folder)
    assert found[0]["T"].to_list() == found[1]["C"].to_list()
    assert found[0]["C"].to_list() == found[1]["T"].to_list()
    assert (found[0]["T"] != found[0]["C"]).any()


def test_a_run_reports_it_and_takes_its_shares_for_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def biased(self: Any, visits: Visits, list_RABK: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        list_RBK = list_RABK[:, 1]
        return list_RBK, (list_RBK == list_RBK[..., :1])

    monkeypatch.setattr(Interleave, "shown", biased)
    paired = {**SETTINGS["experiment"], "intervals": ["user_cluster", "paired"]}
    result = rx.run({**SETTINGS, "experiment": paired}, out=tmp_path / "r")
    n = visits_by_arm(result.folder)
    assert n["T"].sum() > 1.5 * n["C"].sum() > 0
    entries = {(x["design"], x["se_method"]) for x in result.summary["inference"]}
    assert ("interleave", "user_cluster") in entries
    said = {w["code"]: w["message"] for w in result.summary["warnings"]}
    assert "sample_ratio_mismatch" not in said
    # what is shown is neither arm's pick, so that visits in which these agree tell nothing
    assert "paired compares visits" in said["estimator_without_answer"]
    assert said["estimator_without_answer"].endswith("in interleave")
    assert ("interleave", "paired") not in entries and ("pooling", "paired") in entries


class Halved(Pooling):
    """Shows half of a list."""

    def shown(self, visits: Visits, list_RABK: Tensor, is_treated_RB: Tensor) -> Any:
        return list_RABK[:, 0, :, :1], list_RABK[:, 0, :, :1] > 0


def faults(*overrides: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        set_up(load_config(SETTINGS, list(overrides)), Warnings())
    return [str(x) for x in caught.value.faults]


def test_one_item_another_share_and_lists_of_another_length_are_refused():
    (one,) = faults("dataset.n_shown=1")
    assert one.startswith("design interleave: its arms draft a list, and a visit is shown one item")
    (share,) = faults("experiment.p_treatment=0.3")
    assert share.startswith("design interleave: experiment.p_treatment = 0.3: each arm drafts half")
    (length,) = faults(f"experiment.designs=[{__name__}:Halved]")
    assert "shown() returned" in length and "replications, visits, places" in length


def test_no_other_design_is_credited():
    assert Interleave().is_credited and not Pooling().is_credited
    assert Design.shown(Pooling(), None, None, None) is None  # type: ignore[arg-type]
