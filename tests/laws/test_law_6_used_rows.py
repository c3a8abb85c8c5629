"""Law 6: a row is recommended at most once in a world, and worlds share nothing that they used."""

from __future__ import annotations

import pytest
import torch
from oracle import UnusedRows
from support import BLOCKS, History, Setting, make_data, run

SETTING = Setting(n_steps=40)


@pytest.fixture(scope="module", params=["all rows", "at least 3"])
def exhausted(request) -> tuple[Setting, History]:
    """Worlds that ran until nobody was left."""
    setting = Setting(n_steps=40, min_candidates=1 if request.param == "all rows" else 3)
    h = run(setting, BLOCKS, (0, 1, 2))
    assert len(h.steps) < setting.n_steps
    return setting, h


def test_a_row_is_recommended_at_most_once_in_a_world(exhausted):
    setting, h = exhausted
    log = make_data(setting.n_rows_U).log
    for w in range(h.n_worlds):
        items = h.item_TB(w)[h.item_TB(w) >= 0]
        assert len(items.unique()) == len(items)
        if setting.min_candidates == 1:
            assert len(items) == log.n_rows


def test_a_row_is_shown_to_its_own_user_only_and_once_a_slate(exhausted):
    setting, h = exhausted
    log = make_data(setting.n_rows_U).log
    first_U1 = torch.from_numpy(log.offset_U1)
    for w in range(h.n_worlds):
        user_TB, slate_TBC = h.user_TB(w), h.slate_TBC(w)
        assert bool(((slate_TBC >= 0).any(-1) == (user_TB >= 0)).all())
        owner_TBC = torch.searchsorted(first_U1, slate_TBC, right=True) - 1
        is_right = (owner_TBC == user_TB.unsqueeze(-1)) | (slate_TBC < 0)
        assert bool(is_right.all())
        ordered = slate_TBC.sort(-1).values
        assert not bool(((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any())


def test_every_slate_is_that_of_a_world_which_knows_its_own_past_alone(exhausted):
    """An explicit list of unused rows per world and user, a chosen row replaced by the last."""
    setting, h = exhausted
    log = make_data(setting.n_rows_U).log
    for i in range(len(h.blocks)):
        for r in h.replications:
            w = h.world(i, r)
            unused = UnusedRows(log, setting, r)
            user_TB, slate_TBC, item_TB = h.user_TB(w), h.slate_TBC(w), h.item_TB(w)
            for t in range(len(h.steps)):
                users = user_TB[t].tolist()
                slates = [
                    unused.slate(t, b, user) if user >= 0 else [] for b, user in enumerate(users)
                ]
                for b, (user, slate) in enumerate(zip(users, slates, strict=True)):
                    shown = [x for x in slate_TBC[t, b].tolist() if x >= 0]
                    n_unused = len(unused.rows[user]) if user >= 0 else 0
                    assert len(shown) == min(setting.n_candidates, n_unused)
                    assert set(shown) <= set(unused.rows[user] if user >= 0 else ())
                    assert shown == slate
                    if user >= 0:
                        unused.use(user, int(item_TB[t, b]))


def test_the_feedback_is_the_recommended_rows(exhausted):
    setting, h = exhausted
    log = make_data(setting.n_rows_U).log
    for w in range(h.n_worlds):
        item_TB = h.item_TB(w)
        for i, label in enumerate(setting.labels):
            truth = torch.from_numpy(log.targets[label.target])[item_TB.clamp_min(0)]
            truth = truth.where(item_TB >= 0, torch.nan)
            assert torch.equal(h.y_TBL(w)[..., i].nan_to_num(-1.0), truth.nan_to_num(-1.0))
