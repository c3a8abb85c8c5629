"""Law 5: a draw is a function of (seed, replication, step, purpose), and of nothing else."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import (
    BLOCKS,
    GLOBAL_C,
    GLOBAL_T,
    POOLING,
    SPLITTING,
    Setting,
    make_world,
    run,
    same,
)

SETTING = Setting()


def assert_same_visits(a, ra: int, b, rb: int) -> None:
    """The exogenous part of a step in two replications."""
    assert a.step == b.step
    for name in ("user_RB", "is_visit_RB", "arm_draw_RB", "n_candidates_RB"):
        assert same(getattr(a, name)[ra], getattr(b, name)[rb]), name


@pytest.mark.parametrize("assignment", ["user", "visit"])
def test_users_slots_and_arms_do_not_depend_on_which_replications_and_designs_run(assignment):
    one = run(SETTING, (POOLING,), (2,), assignment=assignment)
    many = run(SETTING, BLOCKS, (0, 3, 2, 7), assignment=assignment)
    for a, b in zip(one.visits, many.visits, strict=True):
        assert_same_visits(a, 0, b, 2)


def test_draws_do_not_depend_on_the_order_of_calls_nor_on_global_generators():
    """Two worlds drawn in turns, with generators advanced between, equal two drawn alone."""
    alone = [make_world(SETTING, (0, 1), 1), make_world(SETTING, (5,), 1)]
    expected = [[(v := w.draw(t), w.slate(v)) for t in range(6)] for w in alone]
    mixed = [make_world(SETTING, (0, 1), 1), make_world(SETTING, (5,), 1)]
    for t in range(6):
        for i in (1, 0):
            torch.rand(t + 1), np.random.rand(2), random.random()
            visits = mixed[i].draw(t)
            for r in range(2 - i):
                assert_same_visits(visits, r, expected[i][t][0], r)
            assert same(mixed[i].slate(visits).item_WBC, expected[i][t][1].item_WBC)


def test_a_steps_draws_do_not_depend_on_the_steps_before_it():
    """Step 3 of a world that starts there: what earlier steps drew leaves no trace."""
    large = replace(SETTING, n_rows_U=(200,) * 10)
    first, second = (make_world(large, (0, 1), 1) for _ in range(2))
    for t in range(3):
        first.draw(t)
    assert_same_visits(first.draw(3), 0, second.draw(3), 0)


@pytest.mark.parametrize("change", [{"seed": 4}, {"replications": (1,)}])
def test_seed_and_replication_change_the_draws(change):
    a, b = run(SETTING, (POOLING,), (0,)), run(SETTING, (POOLING,), **change)
    assert not same(a.user_TB(0), b.user_TB(0))
    assert not same(a.visits[0].arm_draw_RB, b.visits[0].arm_draw_RB)


def test_designs_of_a_replication_see_the_same_users_and_slate_sizes():
    h = run(SETTING, BLOCKS, (0, 1, 2))
    for r in h.replications:
        n_TB = (h.slate_TBC(h.world(0, r)) >= 0).sum(-1)
        for i in range(1, len(h.blocks)):
            w = h.world(i, r)
            assert same(h.user_TB(w), h.user_TB(h.world(0, r)))
            assert same((h.slate_TBC(w) >= 0).sum(-1), n_TB)


def test_designs_with_one_p_see_the_same_arms():
    h = run(SETTING, BLOCKS, (0, 1))
    for r in h.replications:
        arms = [h.is_treated_TB(h.world(i, r)) for i in range(2, len(h.blocks))]
        assert all(same(x, arms[0]) for x in arms)


def test_where_no_earlier_choice_differs_slates_are_equal_and_where_the_pick_is_feedback_is():
    """Compare the worlds of a replication visit by visit, knowing each user's past in both."""
    h = run(SETTING, (GLOBAL_T, GLOBAL_C, SPLITTING), (0, 1, 2), n_steps=20)
    n_equal_pasts = n_other_pasts = n_equal_picks = 0
    for r in h.replications:
        a, b = h.world(0, r), h.world(1, r)
        past: dict[int, list[tuple[int, int]]] = {}
        for t in range(len(h.steps)):
            for i, user in enumerate(h.user_TB(a)[t].tolist()):
                if user < 0:
                    continue
                before = past.setdefault(user, [])
                if all(x == y for x, y in before):
                    n_equal_pasts += bool(before)
                    assert same(h.slate_TBC(a)[t, i], h.slate_TBC(b)[t, i])
                else:
                    n_other_pasts += 1
                items = int(h.item_TB(a)[t, i]), int(h.item_TB(b)[t, i])
                if items[0] == items[1]:
                    n_equal_picks += 1
                    assert same(h.y_TBL(a)[t, i], h.y_TBL(b)[t, i])
                before.append(items)
    assert min(n_equal_pasts, n_other_pasts, n_equal_picks) > 10


def test_worlds_with_other_pasts_still_see_nearly_the_same_slates():
    """A world that used another row differs in that row alone: slates share most of their rows."""
    h = run(SETTING, (GLOBAL_T, GLOBAL_C), (0, 1, 2), n_rows_U=(30,) * 10, n_steps=10)
    n_shared = n_rows = 0
    for r in h.replications:
        left, right = (h.slate_TBC(h.world(i, r)) for i in (0, 1))
        n_shared += int((left.unsqueeze(-1) == right.unsqueeze(-2)).any(-1).sum())
        n_rows += left.numel()
    # drawn apart, 5 of 30 rows would share 17 %
    assert 0.8 < n_shared / n_rows < 1.0
