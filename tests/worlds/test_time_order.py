"""A replay in order of time, against a plain walk through the calendar; interruptions; refusals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from support import CPU, make_data, make_store
from torch import Tensor

from realdataexp.config import load_config
from realdataexp.data.log import LogTable, RowRanges
from realdataexp.errors import InputError, Warnings
from realdataexp.runs.executors.chunks import join, share_of
from realdataexp.runs.setup import set_up
from realdataexp.worlds import calendar
from realdataexp.worlds.base import Slate, Visits, WorldSettings, first_step
from realdataexp.worlds.calendar import cuts_of, require_visits
from realdataexp.worlds.replay import ReplayWorld

N_ROWS = (9, 4, 12, 7, 0, 3, 11, 8, 6, 12)
N_SLICES, N_STEPS, BATCH, N_BLOCKS = 3, 11, 3, 2


def timed_log(n_rows_U: Sequence[int] = N_ROWS, n_times: int = 1000, seed: int = 1) -> LogTable:
    """The log of ``make_data`` with times, in order for each user; few times are tied ones."""
    g = np.random.default_rng(seed)
    times = [np.sort(g.integers(0, n_times, n)) for n in n_rows_U]
    return replace(make_data(tuple(n_rows_U)).log, time_N=np.concatenate(times).astype(np.int64))


def all_rows(log: LogTable) -> RowRanges:
    return RowRanges(log.offset_U1[:-1], log.offset_U1[1:])


def timed_world(replications: Sequence[int], least: int = 1, n_history: int = 0) -> ReplayWorld:
    log, store = timed_log(), make_store(N_ROWS)
    store.n_history = n_history
    settings = WorldSettings(
        3, tuple(replications), N_BLOCKS, BATCH, 4, N_STEPS, least, "user", N_SLICES
    )
    rows = all_rows(log)
    return ReplayWorld(
        log, ("play",), store, rows.start_U[None], rows.end_U[None], settings, CPU,
        np.stack([rows.start_U, rows.start_U])[None], None,
        cuts_of(log, rows, N_SLICES)[:, None],
    )  # fmt: skip


def step(world: ReplayWorld, t: int) -> tuple[Visits, Slate, Tensor, Tensor]:
    """A step in which each world has a whim of its own: visits, slate, choices, outcomes."""
    visits = world.draw(t)
    slate = world.slate(visits)
    whim_W11 = torch.arange(N_BLOCKS).repeat_interleave(len(visits.user_RB)).view(-1, 1, 1)
    rank = (slate.item_WBC * (7 + 4 * whim_W11)) % 13
    choice_WB = rank.masked_fill(~slate.is_candidate_WBC, -1).argmax(-1)
    return visits, slate, choice_WB, world.feedback(visits, slate, choice_WB)


def slice_of(t: int) -> int:
    return max(p for p in range(N_SLICES) if first_step(p, N_STEPS, N_SLICES) <= t)


@pytest.mark.parametrize("least", [1, 2])
def test_a_slate_is_of_its_slice_s_unused_rows_and_visitors_have_enough_of_them(least: int):
    log, replications = timed_log(), (0, 3)
    cuts_PU = cuts_of(log, all_rows(log), N_SLICES)
    world = timed_world(replications, least)
    used: list[set[int]] = [set() for _ in range(N_BLOCKS * len(replications))]
    n_visits = 0
    for t in range(N_STEPS):
        if not world.has_visitors:
            break
        p = slice_of(t)
        visits, slate, choice_WB, y_WBL = step(world, t)
        for w, mine in enumerate(used):
            r = w % len(replications)
            for b in range(BATCH):
                rows = slate.item_WBC[w, b][slate.is_candidate_WBC[w, b]].tolist()
                if not visits.is_visit_RB[r, b]:
                    assert not rows
                    continue
                user = int(visits.user_RB[r, b])
                unused = {*range(cuts_PU[p, user], cuts_PU[p + 1, user])} - mine
                assert len(unused) >= least
                assert len({*rows}) == len(rows) == min(4, len(unused)) and {*rows} <= unused
                row = int(slate.item_WBC[w, b, choice_WB[w, b]])
                assert y_WBL[w, b, 0] == log.targets["play"][row]
                n_visits += 1
        for w, mine in enumerate(used):  # users of a step differ, so that all slates were made
            on = slate.is_candidate_WBC[w].any(-1)
            mine |= {*slate.item_WBC[w].gather(1, choice_WB[w, :, None])[on].flatten().tolist()}
        # who visits, and how many rows are left, does not depend on what worlds chose
        assert torch.equal(slate.is_candidate_WBC[:2], slate.is_candidate_WBC[2:])
    assert n_visits > 100
    assert {slice_of(t) for t in range(N_STEPS)} == {*range(N_SLICES)} and used[0] != used[2]


def test_each_slice_has_users_who_had_no_row_left_before():
    """Nothing that is used up in a slice is missing in the next."""
    world = timed_world((0,), 1)
    left = []
    for t in range(N_STEPS):
        visits, *_ = step(world, t)
        left.append(int(visits.is_visit_RB.sum()))
    assert all(left[first_step(p, N_STEPS, N_SLICES)] == BATCH for p in range(N_SLICES))


def test_a_replication_does_not_depend_on_which_run_beside_it():
    alone, beside = timed_world((3,)), timed_world((0, 3, 5))
    for t in range(N_STEPS):
        one, other = step(alone, t), step(beside, t)
        assert torch.equal(one[0].user_RB[0], other[0].user_RB[1])
        for block in range(N_BLOCKS):
            w, v = block, block * 3 + 1
            on = one[1].is_candidate_WBC[w]
            assert torch.equal(on, other[1].is_candidate_WBC[v])
            assert torch.equal(one[1].item_WBC[w][on], other[1].item_WBC[v][on])


@pytest.mark.parametrize("n_history", [0, 3])
@pytest.mark.parametrize("n_done", [0, 2, 4, 5, 8, 10])
def test_a_world_goes_on_from_its_state_to_the_bit(n_done: int, n_history: int):
    """Within a slice, at its end and at its first step."""
    whole, part = (timed_world((0, 3), 2, n_history) for _ in range(2))
    for t in range(n_done):
        step(whole, t)
    part.load_state({name: x.clone() for name, x in whole.state().items()})
    for t in range(n_done, N_STEPS):
        one, other = step(whole, t), step(part, t)
        assert torch.equal(one[0].user_RB, other[0].user_RB)
        assert torch.equal(one[1].item_WBC, other[1].item_WBC)
        assert torch.equal(one[3].nan_to_num(-1), other[3].nan_to_num(-1))
    for name, x in whole.state().items():
        assert torch.equal(x, part.state()[name]), name


@pytest.mark.parametrize("n_done", [3, 4, 8])
def test_worlds_that_run_apart_leave_the_state_of_one(n_done: int):
    whole, shares = timed_world((0, 1, 2, 3)), [(0, 1), (2, 3)]
    apart = [timed_world(own) for own in shares]
    for world in (whole, *apart):
        for t in range(n_done):
            step(world, t)
    joined = join([world.state() for world in apart], shares)
    for name, x in whole.state().items():
        assert torch.equal(x, joined[name]), name
    taken_up = timed_world((2, 3))
    taken_up.load_state(share_of(joined, (2, 3), 4))
    assert torch.equal(step(taken_up, n_done)[1].item_WBC, step(apart[1], n_done)[1].item_WBC)


def test_a_state_of_a_slice_that_is_not_there_is_refused():
    world = timed_world((0,))
    with pytest.raises(ValueError, match="there is no slice 7"):
        world.load_state({**world.state(), "slice": torch.tensor(7)})


def test_a_history_goes_back_beyond_the_slice():
    world, store = timed_world((0,), 1, 3), make_store(N_ROWS)
    shown: dict[tuple[int, int], list[int]] = {}
    seen_later = 0
    for t in range(N_STEPS):
        visits, slate, choice_WB, _ = step(world, t)
        video_WBT = world._history(world._plan[3])
        assert video_WBT is not None
        for w in range(N_BLOCKS):
            for b in range(BATCH):
                if visits.is_visit_RB[0, b]:
                    mine = shown.setdefault((w, int(visits.user_RB[0, b])), [])
                    history = [x for x in video_WBT[w, b].tolist() if x >= 0]
                    assert history == mine[:3]
                    seen_later += bool(history) and slice_of(t) > 0
                    mine.insert(0, int(slate.video_WBC[w, b, choice_WB[w, b]]))
    assert seen_later > 5
    store.n_history = 0


# --- the calendar --------------------------------------------------------------------------------


@pytest.mark.parametrize("n_times", [1000, 6])
@pytest.mark.parametrize("rows_at_once", [1 << 22, 5])
def test_slices_are_quantiles_of_the_rows_times(
    n_times: int, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(calendar, "_ROWS_AT_ONCE", rows_at_once)
    log = timed_log(n_times=n_times)
    rows = RowRanges(log.offset_U1[:-1] + np.minimum(1, np.array(N_ROWS)), log.offset_U1[1:])
    cuts_PU = cuts_of(log, rows, N_SLICES)
    assert (cuts_PU[0] == rows.start_U).all() and (cuts_PU[-1] == rows.end_U).all()
    assert log.time_N is not None
    row_N = np.concatenate([np.arange(*x) for x in zip(rows.start_U, rows.end_U, strict=True)])
    times = np.sort(log.time_N[row_N])
    bounds = [times[len(times) * p // N_SLICES] for p in range(1, N_SLICES)]
    for p in range(N_SLICES):
        own = [np.arange(*x) for x in zip(cuts_PU[p], cuts_PU[p + 1], strict=True)]
        time_X = log.time_N[np.concatenate(own)]
        low = -np.inf if p == 0 else bounds[p - 1]
        high = np.inf if p == N_SLICES - 1 else bounds[p]
        assert ((time_X >= low) & (time_X < high)).all()
        if n_times > 100:
            assert len(time_X) == pytest.approx(len(times) / N_SLICES, abs=2)


def test_rows_out_of_order_are_refused():
    log = timed_log()
    assert log.time_N is not None
    with pytest.raises(InputError, match="early log are later than others of their user"):
        cuts_of(replace(log, time_N=log.time_N[::-1].copy()), all_rows(log), N_SLICES)


def test_steps_are_shared_out_evenly():
    for n_steps, n_slices in ((11, 3), (10, 10), (7, 4), (200, 9)):
        begins = [first_step(p, n_steps, n_slices) for p in range(n_slices + 1)]
        assert begins[0] == 0 and begins[-1] == n_steps
        assert {*np.diff(begins)} <= {n_steps // n_slices, -(-n_steps // n_slices)}


def test_the_steps_that_a_refusal_names_are_the_most_that_are_taken():
    log = timed_log()
    cuts_PU = cuts_of(log, all_rows(log), N_SLICES)
    with pytest.raises(InputError) as caught:
        require_visits(cuts_PU, 300, BATCH, 2)
    line = str(caught.value)
    most = int(line.partition("use at most ")[2].partition(" ")[0])
    require_visits(cuts_PU, most, BATCH, 2)
    with pytest.raises(InputError, match="with order time"):
        require_visits(cuts_PU, most + N_SLICES, BATCH, 2)
    with pytest.raises(InputError, match=r"are enough for 0 .*; use a smaller batch_size"):
        require_visits(cuts_PU, N_SLICES, BATCH, 50)


# --- a run ---------------------------------------------------------------------------------------

SMALL = [
    "dataset.synthetic.users=200", "dataset.synthetic.videos=80", "dataset.synthetic.rows=8000",
    "pretrain.max_rows=300", "simulation.n_steps=6", "simulation.batch_size=16",
    "simulation.validate_every=4", "experiment.replications=4", "experiment.starts=2",
    "experiment.designs=[pooling]", "simulation.order=time", "simulation.time_slices=3",
]  # fmt: skip


def test_another_order_is_another_result_and_another_import_keeps_the_old_one():
    any_order = [x for x in SMALL if "order" not in x and "time_slices" not in x]
    setups = [set_up(load_config("demo", x), Warnings()) for x in (SMALL, any_order)]
    logs: Iterator[Any] = (x.environment._data.log for x in setups)
    timed, plain = logs
    assert plain.time_N is None and timed.time_N is not None
    assert np.array_equal(timed.video_N, plain.video_N)
    for u in range(timed.n_users):
        times = timed.time_N[timed.offset_U1[u] : timed.offset_U1[u + 1]]
        assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("simulation.time_slices=4", "has no effect with order any"),
        ("simulation.order=clock", "any or time"),
        ("simulation={order: time, time_slices: 9, n_steps: 8}", "must be at most n_steps"),
        ("simulation={order: time, time_slices: 0}", "at least 1"),
    ],
)
def test_a_wrong_order_is_one_line(override: str, said: str):
    with pytest.raises(InputError) as caught:
        load_config("demo", [override])
    (line,) = str(caught.value).splitlines()
    assert said in line


def test_there_are_no_more_slices_than_steps_where_none_are_asked_for():
    for n_steps, n_slices in ((3, 3), (40, 10)):
        asked = f"simulation={{order: time, n_steps: {n_steps}}}"
        config = load_config("demo", [asked])
        assert config.simulation.time_slices == n_slices
        assert load_config(config.resolved()) == config


def test_a_world_without_a_log_has_no_calendar():
    with pytest.raises(InputError, match="the world si2023 has none: use any"):
        load_config("si2023", ["simulation.order=time"])


def test_too_many_steps_are_refused_before_anything_runs():
    with pytest.raises(InputError, match=r"simulation.n_steps = 9,000: with order time, slice \d"):
        set_up(load_config("demo", [*SMALL, "simulation.n_steps=9000"]), Warnings())
