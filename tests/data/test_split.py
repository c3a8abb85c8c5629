"""The parts of a log are ranges of rows that never overlap, unless overlap is asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from realdataexp.data import log as split_module
from realdataexp.data.log import LogTable, RowRanges, Split, split_log, training_blocks
from realdataexp.errors import InputError, Warnings

FALSE_FAIL = 1e-6
LENGTHS = np.array([7, 1, 0, 12, 5, 9, 1, 20, 3, 0])
EARLY = np.array([3, 1, 0, 0, 5, 4, 0, 11, 1, 0])


def log_of(lengths: np.ndarray = LENGTHS, early: np.ndarray | None = EARLY) -> LogTable:
    offset_U1 = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    n_early_U = np.zeros(len(lengths), dtype=np.int64) if early is None else early.astype(np.int64)
    return LogTable(offset_U1, n_early_U, np.zeros(offset_U1[-1], dtype=np.int32), {})


def split(log: LogTable | None = None, warnings: Warnings | None = None, **values: Any) -> Split:
    log = log or log_of()
    given = {
        "uniform_2U": np.random.default_rng(0).random((2, log.n_users)),
        "share_validation": 0.3,
        "pretrain_rows": "early",
        "pretrain_share": 0.4,
    } | values
    return split_log(log, warnings=warnings or Warnings(), **given)


def rows_of(ranges: RowRanges, user: int) -> list[int]:
    return list(range(int(ranges.start_U[user]), int(ranges.end_U[user])))


@pytest.mark.parametrize("kind", ["none", "early", "share"])
def test_the_parts_hold_every_row_once_and_validation_rows_are_the_others(kind: str) -> None:
    log = log_of()
    parts = split(log, pretrain_rows=kind)
    assert parts.kind == kind
    assert 0 < parts.is_training_U.sum() < log.n_users
    for user in range(log.n_users):
        own = list(range(int(log.offset_U1[user]), int(log.offset_U1[user + 1])))
        pretrain, replay = rows_of(parts.pretrain, user), rows_of(parts.replay, user)
        if parts.is_training_U[user]:
            assert pretrain + replay == own  # the earlier ones pretrain
            assert rows_of(parts.validation, user) == []
        else:
            assert rows_of(parts.validation, user) == own
            assert pretrain == replay == []
    n_rows = [p.n_rows for p in (parts.pretrain, parts.replay, parts.validation)]
    assert sum(n_rows) == log.n_rows and (n_rows[0] > 0) == (kind != "none")


def test_early_rows_pretrain_exactly() -> None:
    parts = split()
    taken = parts.pretrain.end_U - parts.pretrain.start_U
    assert taken.tolist() == np.where(parts.is_training_U, EARLY, 0).tolist()


def test_overlap_replays_what_pretrained_and_warns() -> None:
    warnings = Warnings()
    parts = split(pretrain_rows="overlap", warnings=warnings)
    assert parts.pretrain.n_rows == parts.replay.n_rows > 0
    assert np.array_equal(parts.pretrain.start_U, parts.replay.start_U)
    assert np.array_equal(parts.pretrain.end_U, parts.replay.end_U)
    assert parts.replay.n_rows == LENGTHS[parts.is_training_U].sum()
    assert [w["code"] for w in warnings] == ["pretrain_overlaps_replay"]
    quiet = Warnings()
    for kind in ("none", "early", "auto"):
        split(pretrain_rows=kind, warnings=quiet)
    assert list(quiet) == []
    split(pretrain_rows="share", warnings=quiet)
    assert [w["code"] for w in quiet] == ["pretrain_sees_later_rows"]


@pytest.mark.parametrize(
    ("early", "kind"), [(EARLY, "early"), (None, "share"), (LENGTHS, "share")], ids=str
)
def test_auto_is_early_where_the_logs_have_both_periods(
    early: np.ndarray | None, kind: str
) -> None:
    log = log_of(early=early)
    assert split(log, pretrain_rows="auto").kind == kind
    auto, named = split(log, pretrain_rows="auto"), split(log, pretrain_rows=kind)
    assert np.array_equal(auto.pretrain.end_U, named.pretrain.end_U)


def test_a_user_validates_where_the_first_uniform_is_below_the_share() -> None:
    log = log_of(np.full(5, 3), None)
    uniform_2U = np.array([[0.0, 0.2999, 0.3, 0.3001, 0.99], [0.9, 0.1, 0.5, 0.5, 0.2]])
    parts = split(log, uniform_2U=uniform_2U, pretrain_rows="none")
    assert parts.is_training_U.tolist() == [False, False, True, True, True]
    # 0.4 of 3 rows is 1.2: two where the second uniform is at least 0.8
    uniform_2U = np.array([[0.0, 0.9, 0.9, 0.9, 0.9], [0.0, 0.0, 0.79, 0.81, 0.999]])
    parts = split(log, uniform_2U=uniform_2U, pretrain_rows="share")
    assert (parts.pretrain.end_U - parts.pretrain.start_U).tolist() == [0, 1, 1, 2, 2]


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5])
def test_the_share_of_pretraining_rows_is_unbiased_for_short_histories(share: float) -> None:
    """One row a user: rounding down would take none, rounding up all."""
    n = 40_000
    log = log_of(np.ones(n, dtype=np.int64), None)
    uniform_2U = np.random.default_rng(1).random((2, n))
    parts = split(log, uniform_2U=uniform_2U, pretrain_rows="share", pretrain_share=share)
    n_training = int(parts.is_training_U.sum())
    low, high = stats.binom.interval(1 - FALSE_FAIL, n_training, share)
    assert low <= parts.pretrain.n_rows <= high
    assert low > 0 and high < 1.5 * share * n_training


def test_a_share_that_leaves_no_row_to_replay_is_refused() -> None:
    log = log_of(np.full(6, 5), None)
    uniform_2U = np.array([[0.9] * 5 + [0.1], [0.5] * 6])
    with pytest.raises(InputError, match=r"no row is left to replay.*pretrain\.share"):
        split(log, uniform_2U=uniform_2U, pretrain_rows="share", pretrain_share=1.0)
    parts = split(log, uniform_2U=uniform_2U, pretrain_rows="share", pretrain_share=0.8)
    assert (parts.pretrain.n_rows, parts.replay.n_rows) == (4 * 5, 5)


@pytest.mark.parametrize("share", [0.0, 1.0, 1e-9])
def test_both_training_and_validation_need_a_user(share: float) -> None:
    with pytest.raises(InputError) as caught:
        split(share_validation=share)
    text = str(caught.value)
    n_training = 0 if share == 1.0 else 10
    assert text.startswith(f"simulation.user_p_val = {share}: leaves {n_training} of 10 users")


@pytest.mark.parametrize("early", [None, LENGTHS])
def test_early_needs_rows_of_both_periods(early: np.ndarray | None) -> None:
    with pytest.raises(InputError, match=r"pretrain\.rows = 'early': (0|58) of 58 rows"):
        split(log_of(early=early), pretrain_rows="early")


# --- places ----------------------------------------------------------------------------------


def test_locate_equals_laying_the_ranges_end_to_end() -> None:
    log = log_of()
    parts = split(log)
    for ranges in (
        parts.pretrain,
        parts.replay,
        parts.validation,
        RowRanges(log.offset_U1[:-1], log.offset_U1[1:]),
    ):
        end_to_end = [(u, row) for u in range(log.n_users) for row in rows_of(ranges, u)]
        assert ranges.n_rows == len(end_to_end) > 0
        place_X = np.random.default_rng(2).permutation(ranges.n_rows)
        user_X, row_X = ranges.locate(place_X)
        found = list(zip(user_X.tolist(), row_X.tolist(), strict=True))
        assert found == [end_to_end[place] for place in place_X]


def test_locate_of_nothing_is_nothing() -> None:
    user_X, row_X = split().replay.locate(np.zeros(0, dtype=np.int64))
    assert len(user_X) == len(row_X) == 0


@pytest.mark.parametrize("block_rows", [1, 2, 5, 7, 58, 1000])
def test_training_blocks_mark_the_rows_of_training_users(
    monkeypatch: pytest.MonkeyPatch, block_rows: int
) -> None:
    monkeypatch.setattr(split_module, "_BLOCK_ROWS", block_rows)
    log, is_training_U = log_of(), np.arange(len(LENGTHS)) % 3 != 0
    blocks = list(training_blocks(log, is_training_U))
    assert len(blocks) == math.ceil(log.n_rows / block_rows)
    user_N = np.repeat(np.arange(log.n_users), LENGTHS)
    marked = np.full(log.n_rows, -1)
    for rows, is_training in blocks:
        assert is_training.shape == (rows.stop - rows.start,)
        assert (marked[rows] == -1).all()
        marked[rows] = is_training
    assert marked.tolist() == is_training_U[user_N].astype(int).tolist()
