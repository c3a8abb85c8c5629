"""The replay: who visits, what the slate shows, which arm, and how the data run out."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from frequencies import assert_frequencies
from safetensors.torch import load, save
from support import (
    CPU,
    GLOBAL_C,
    GLOBAL_T,
    POOLING,
    SPLITTING,
    Setting,
    make_data,
    make_store,
    make_world,
    run,
    same,
    start_loop,
)
from torch.utils._python_dispatch import TorchDispatchMode

from realdataexp.data.features import fit_features
from realdataexp.data.log import LogTable, RowRanges, Split
from realdataexp.designs.pooling import Pooling
from realdataexp.errors import Warnings
from realdataexp.worlds.base import WorldSettings
from realdataexp.worlds.replay import ReplayEnvironment, ReplayWorld

DRAWN_OUT = Setting(n_rows_U=(2, 5, 0, 3, 9, 1, 4, 4), batch_size=3, n_candidates=3, n_steps=40)


def first_candidate(setting: Setting, replications: range):
    """Walk through a world that always uses the lowest row shown: (step, visits, slate)."""
    world = make_world(setting, replications, 1)
    for t in range(setting.n_steps):
        if not world.has_visitors:
            return
        visits = world.draw(t)
        slate = world.slate(visits)
        yield t, visits, slate
        rows = slate.item_WBC.masked_fill(~slate.is_candidate_WBC, 10**9)
        world.feedback(visits, slate, rows.argmin(-1))


def test_every_unused_row_and_every_pair_of_them_is_equally_likely_on_the_slate():
    """In 40,000 replications, after choices that depend on the rows; finds 4 points of share."""
    setting = Setting(n_rows_U=(5, 7, 6), batch_size=2, n_candidates=3, n_steps=4)
    R = 40_000
    offset = make_data(setting.n_rows_U).log.offset_U1.tolist()
    unused_RN = torch.ones(R, offset[-1], dtype=torch.bool)
    shown, visits_of = Counter(), Counter()
    for t, visits, slate in first_candidate(setting, range(R)):
        for b in range(setting.batch_size):
            item_RC = slate.item_WBC[:, b]
            for user in range(3):
                at = (visits.user_RB[:, b] == user) & visits.is_visit_RB[:, b]
                mine = unused_RN[at][:, offset[user] : offset[user + 1]]
                # a row's number among the unused ones
                rank = (mine.cumsum(1) - 1).gather(1, item_RC[at] - offset[user])
                for n, ranks in zip(
                    mine.sum(1).tolist(), rank.sort(1).values.tolist(), strict=True
                ):
                    if t == 3:
                        visits_of[n] += 1
                        shown.update((n, (i,)) for i in ranks)
                        shown.update((n, pair) for pair in combinations(ranks, 2))
        lowest = slate.item_WBC.min(-1).values
        for b in range(setting.batch_size):
            unused_RN[torch.arange(R), lowest[:, b]] = False
    cells = [
        (n, ranks, 3 / n if len(ranks) == 1 else 6 / (n * (n - 1)))
        for n in (3, 4, 5)
        for size in (1, 2)
        for ranks in combinations(range(n), size)
    ]
    assert set(visits_of) >= {3, 4, 5}
    assert_frequencies(
        [shown[n, ranks] for n, ranks, _ in cells],
        [visits_of[n] for n, _, _ in cells],
        [p for _, _, p in cells],
        detects=0.04,
    )


def test_every_eligible_user_is_equally_likely_to_visit_however_many_rows_each_has():
    """Also after users left, in an order that mixed the list; finds 4 points of share."""
    setting = Setting(n_rows_U=(1, 2, 6, 2, 1, 3), batch_size=2, n_candidates=2, n_steps=4)
    R = 40_000
    left_RU = torch.tensor(setting.n_rows_U).repeat(R, 1)
    count, trials = Counter(), Counter()
    for _, visits, _ in first_candidate(setting, range(R)):
        is_eligible_RU = left_RU > 0
        n_R = is_eligible_RU.sum(1)
        rank_RB = (is_eligible_RU.cumsum(1) - 1).gather(1, visits.user_RB)
        assert bool(visits.is_visit_RB.all())
        assert bool(is_eligible_RU.gather(1, visits.user_RB).all())
        for n, ranks in zip(n_R.tolist(), rank_RB.tolist(), strict=True):
            trials[n] += 1
            count.update((n, i) for i in ranks)
        left_RU.scatter_add_(1, visits.user_RB, -torch.ones_like(visits.user_RB))
    assert min(trials) <= 4
    cells = [(n, i) for n in trials if trials[n] > 10_000 for i in range(n)]
    assert len({n for n, _ in cells}) >= 3
    assert_frequencies(
        [count[cell] for cell in cells],
        [trials[n] for n, _ in cells],
        [2 / n for n, _ in cells],
        detects=0.04,
    )


def test_visitors_of_one_step_do_not_foretell_those_of_the_next():
    setting = Setting(n_rows_U=(9,) * 4, batch_size=1, n_steps=2)
    world = make_world(setting, range(20_000), 1)
    first, second = (world.draw(t).user_RB[:, 0] for t in range(2))
    pairs = torch.bincount(4 * first + second, minlength=16)
    assert_frequencies(pairs.tolist(), [20_000] * 16, [1 / 16] * 16, detects=0.02)


# --- the data run out ------------------------------------------------------------------------


@pytest.mark.parametrize("min_candidates", [1, 2, 3])
def test_users_with_too_few_unused_rows_are_never_drawn_and_all_others_are_used_up(min_candidates):
    """Counted by hand: who visits, the slate's length, and share_short_R before a step."""
    setting = replace(DRAWN_OUT, min_candidates=min_candidates)
    world = make_world(setting, (0, 1, 4), 2)
    left = [list(setting.n_rows_U) for _ in range(3)]
    n_steps = 0
    while world.has_visitors:
        visits = world.draw(n_steps)
        short = [sum(0 <= n < setting.n_candidates for n in row) - 1 for row in left]
        assert visits.share_short_R.tolist() == pytest.approx([n / 7 for n in short])
        for r in range(3):
            n_eligible = sum(n >= min_candidates for n in left[r])
            is_visit = visits.is_visit_RB[r].tolist()
            n_visits = min(setting.batch_size, n_eligible)
            assert is_visit == [b < n_visits for b in range(setting.batch_size)]
            users = visits.user_RB[r, :n_visits].tolist()
            assert len(set(users)) == n_visits
            for b, user in enumerate(users):
                assert left[r][user] >= min_candidates
                assert int(visits.n_candidates_RB[r, b]) == min(setting.n_candidates, left[r][user])
                left[r][user] -= 1
            assert not bool(visits.n_candidates_RB[r, n_visits:].any())
        slate = world.slate(visits)
        world.feedback(visits, slate, torch.zeros(6, setting.batch_size, dtype=torch.int64))
        n_steps += 1
    assert n_steps < setting.n_steps
    expected = [min(n, min_candidates - 1) for n in setting.n_rows_U]
    assert left == [expected] * 3


def test_a_run_ends_when_nobody_is_left_and_not_before():
    h = run(DRAWN_OUT, (POOLING,), (0, 1, 2, 3))
    n_rows = sum(DRAWN_OUT.n_rows_U)
    assert len(h.steps) < DRAWN_OUT.n_steps
    assert all(int((h.user_TB(w) >= 0).sum()) == n_rows for w in range(4))
    assert bool((h.user_TB(0)[-1] >= 0).any() | (h.user_TB(1)[-1] >= 0).any())


def test_a_replication_that_ran_out_stands_still_while_others_go_on():
    setting = replace(DRAWN_OUT, n_rows_U=(2, 5, 0, 3, 4, 1, 4, 4))
    loop, _, h = start_loop(setting, (SPLITTING, GLOBAL_T), range(6))
    before, n_still = None, 0
    for step in loop.steps(0, setting.n_steps):
        after = [{k: v.clone() for k, v in x.state().items()} for x in h.learners]
        for r in range(6):
            if before is not None and not bool(h.visits[-1].is_visit_RB[r].any()):
                n_still += 1
                for block in range(2):
                    assert bool(step.y_WBL[h.world(block, r)].isnan().all())
                    assert not bool(step.differs_WB[h.world(block, r)].any())
                    s = h.network(block, r)
                    assert all(
                        same(a[k][s], b[k][s])
                        for a, b in zip(after, before, strict=True)
                        for k in a
                    )
        before = after
    assert n_still > 0


# --- what a step costs -----------------------------------------------------------------------


class CountedElements(TorchDispatchMode):
    """Adds up the elements of all tensors that operations give."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        # a view of the log costs nothing; indexing it gives a tensor of its own
        is_view = any(ret.alias_info is not None for ret in func._schema.returns)
        if isinstance(out, torch.Tensor) and not is_view:
            self.n += out.numel()
        return out


def step_cost(n_rows: int) -> tuple[int, int]:
    """Tensor elements, and most bytes of NumPy, of 8 steps for 12 users with so many rows."""
    few = (40,) * 12
    random = np.random.default_rng(0)
    log = LogTable(
        np.arange(13) * n_rows,
        np.zeros(12, dtype=np.int64),
        random.integers(0, 40, 12 * n_rows, dtype=np.int32),
        {"play": random.random(12 * n_rows, dtype=np.float32)},
    )
    world = ReplayWorld(
        log, ("play",), make_store(few), log.offset_U1[None, :-1], log.offset_U1[None, 1:],
        WorldSettings(3, (0, 1, 2), 2, 4, 10, 8, 1, "user"), CPU,
    )  # fmt: skip
    tracemalloc.start()
    with CountedElements() as counted:
        for t in range(8):
            visits = world.draw(t)
            slate = world.slate(visits)
            world.feedback(visits, slate, torch.zeros(6, 4, dtype=torch.int64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return counted.n, peak


def test_a_step_costs_the_same_however_long_the_users_histories_are():
    """Users of 100,000 rows, and videos of 30,000, against users of 40."""
    step_cost(40)  # what is made on first use
    elements, peak = step_cost(40)
    elements_long, peak_long = step_cost(100_000)
    assert elements == elements_long > 0
    assert peak_long < 1.2 * peak + 10_000


# --- interruptions ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_done", [0, 1, 5, 9])
def test_a_world_goes_on_from_its_state_to_the_bit(n_done):
    """Two designs that choose differently; users run out before and after."""
    setting, replications = replace(DRAWN_OUT, min_candidates=2), (0, 3)

    def go_on(world, steps: range):
        for t in steps:
            if not world.has_visitors:
                return
            visits = world.draw(t)
            slate = world.slate(visits)
            n_WB = slate.is_candidate_WBC.sum(-1).clamp_min(1)
            choice_WB = (t + torch.arange(4).unsqueeze(1)) % n_WB
            yield visits, slate, world.feedback(visits, slate, choice_WB)

    world, fresh = (make_world(setting, replications, 2) for _ in range(2))
    assert len(list(go_on(world, range(n_done)))) == n_done
    fresh.load_state(load(save(world.state())))
    rest = range(n_done, setting.n_steps)
    expected, found = list(go_on(world, rest)), list(go_on(fresh, rest))
    assert len(found) == len(expected) < setting.n_steps - n_done
    for (visits, slate, y_WBL), (visits_2, slate_2, y_2_WBL) in zip(expected, found, strict=True):
        for a, b in zip(vars(visits).values(), vars(visits_2).values(), strict=True):
            assert same(torch.as_tensor(a), torch.as_tensor(b))
        assert same(slate.item_WBC, slate_2.item_WBC)
        assert same(slate.is_candidate_WBC, slate_2.is_candidate_WBC)
        assert same(y_WBL, y_2_WBL)
    for name, x in world.state().items():
        assert same(x, fresh.state()[name])


def test_a_state_of_another_world_is_refused():
    state = make_world(DRAWN_OUT, (0, 1), 2).state()
    with pytest.raises(ValueError, match="slot is"):
        make_world(DRAWN_OUT, (0, 1), 3).load_state(state)
    with pytest.raises(ValueError, match="slot is missing"):
        make_world(DRAWN_OUT, (0, 1), 2).load_state({k: state[k] for k in state if k != "slot"})


# --- arms ------------------------------------------------------------------------------------


def test_assignment_by_user_keeps_a_users_arm_and_differs_between_replications():
    """400 users in 50 replications: the share of treated is p, to 3 points."""
    setting = Setting(n_rows_U=(4,) * 400, batch_size=200, n_candidates=2, n_steps=8)
    R, p = 50, 0.3
    arm_RU = torch.full((R, 400), -1)
    n_seen_again = 0
    for _, visits, _ in first_candidate(setting, range(R)):
        now = Pooling().assign(visits, p).long()
        known = arm_RU.gather(1, visits.user_RB)
        assert bool(((known == now) | (known < 0)).all())
        n_seen_again += int((known >= 0).sum())
        arm_RU.scatter_(1, visits.user_RB, now)
    assert n_seen_again > 10_000
    assert bool((arm_RU >= 0).all())
    # exact for each user over replications, and for each replication over users
    assert_frequencies([int(arm_RU.sum())], [R * 400], [p], detects=0.03)
    agree = int((arm_RU[0::2] == arm_RU[1::2]).sum())
    assert_frequencies([agree], [R * 200], [p**2 + (1 - p) ** 2], detects=0.04)
    neighbours = int((arm_RU[:, 0::2] == arm_RU[:, 1::2]).sum())
    assert_frequencies([neighbours], [R * 200], [p**2 + (1 - p) ** 2], detects=0.04)


def test_assignment_by_visit_draws_anew_each_time():
    setting = Setting(n_rows_U=(4,) * 400, batch_size=200, n_steps=8, assignment="visit")
    R, p = 50, 0.3
    last_RU = torch.full((R, 400), -1)
    n_again = n_agree = n_treated = n = 0
    for _, visits, _ in first_candidate(setting, range(R)):
        now = Pooling().assign(visits, p).long()
        known = last_RU.gather(1, visits.user_RB)
        n_again += int((known >= 0).sum())
        n_agree += int((known == now).sum())
        n, n_treated = n + now.numel(), n_treated + int(now.sum())
        last_RU.scatter_(1, visits.user_RB, now)
    assert_frequencies([n_treated, n_agree], [n, n_again], [p, p**2 + (1 - p) ** 2], detects=0.03)


@pytest.mark.parametrize("assignment", ["user", "visit"])
def test_raising_p_only_moves_visits_from_control_to_treatment(assignment):
    setting = Setting(assignment=assignment)
    n_moved = 0
    for _, visits, _ in first_candidate(setting, range(20)):
        treated = [Pooling().assign(visits, p) for p in (0.0, 0.2, 0.5, 0.8, 1.0)]
        assert not bool(treated[0].any())
        assert bool(treated[-1].all())
        for fewer, more in pairwise(treated):
            assert bool((more | ~fewer).all())
            n_moved += int((more & ~fewer).sum())
    assert n_moved > 0


def test_arms_do_not_depend_on_what_the_slates_showed():
    """Two designs of one p with other pasts give each visit the same arm."""
    h = run(Setting(), (GLOBAL_C, SPLITTING, POOLING), (0, 1))
    for r in h.replications:
        assert same(h.is_treated_TB(h.world(1, r)), h.is_treated_TB(h.world(2, r)))


def test_held_out_visits_show_each_held_out_user_once_with_his_own_rows():
    setting = Setting(n_rows_U=(9, 4, 12, 7, 1, 3, 11))
    data = make_data(setting.n_rows_U)
    offset = torch.from_numpy(data.log.offset_U1.copy())
    is_training = np.array([True, False, False, True, False, True, False])
    none = RowRanges(data.log.offset_U1[:-1], data.log.offset_U1[:-1])
    ends = np.where(is_training, data.log.offset_U1[:-1], data.log.offset_U1[1:])
    split = Split(is_training, none, none, RowRanges(data.log.offset_U1[:-1], ends), "none")
    features = fit_features(
        data, ("video_duration",), ("tag",), is_training, missing_indicator=False,
        warnings=Warnings(),
    )  # fmt: skip
    environment = ReplayEnvironment(data, [split], features, CPU, 0)
    targets = ("play", "click")
    held_out = environment.held_out(targets, 10, 5, start=0)
    assert held_out.n_users == 4
    assert held_out.is_candidate_BC.sum(1).tolist() == [4, 5, 1, 5]
    for b, user in enumerate((1, 2, 4, 6)):
        own = slice(int(offset[user]), int(offset[user + 1]))
        shown = held_out.y_BCL[b][held_out.is_candidate_BC[b]][:, 0].tolist()
        assert set(shown) <= set(data.log.targets["play"][own].tolist())
        assert len(set(shown)) == len(shown)
        assert held_out.y_BCL[b][~held_out.is_candidate_BC[b]].isnan().all()
    assert environment.held_out(targets, 2, 5, start=0).n_users == 2
    elsewhere = ReplayEnvironment(data, [split], features, CPU, 1)
    other = elsewhere.held_out(targets, 10, 5, start=0)
    assert not same(other.y_BCL[..., 0].nan_to_num(), held_out.y_BCL[..., 0].nan_to_num())


def test_the_identity_changes_with_any_row_of_the_log_or_of_the_features():
    setting = Setting(n_rows_U=(9, 4, 12))
    data = make_data(setting.n_rows_U)

    def identity(data) -> dict:
        everybody = np.ones(3, dtype=bool)
        features = fit_features(
            data, ("video_duration",), ("tag",), everybody, missing_indicator=False,
            warnings=Warnings(),
        )  # fmt: skip
        rows = RowRanges(data.log.offset_U1[:-1], data.log.offset_U1[1:])
        split = Split(everybody, rows, rows, rows, "none")
        return ReplayEnvironment(data, [split], features, CPU, 0).identity()

    assert identity(data) == identity(replace(data, fingerprint="another"))
    play = data.log.targets["play"].copy()
    play[12] += 1.0
    log = replace(data.log, targets={**data.log.targets, "play": play})
    assert identity(replace(data, log=log)) != identity(data)
    longer = data.videos.with_columns(video_duration=data.videos["video_duration"] * 2 + 1)
    shuffled = data.videos.with_columns(video_duration=data.videos["video_duration"].reverse())
    assert identity(replace(data, videos=shuffled)) != identity(data)
    # standardised, a linear change is no change to any model
    assert identity(replace(data, videos=longer))["rows"] == 25
