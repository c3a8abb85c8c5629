"""Laws of pretraining: every row once an epoch, the best check comes back, the loss falls."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from realdataexp import draws
from realdataexp.data.features import CategoricalField, Features, FeatureTable
from realdataexp.data.log import LogTable, RowRanges
from realdataexp.device import Device
from realdataexp.learner import Head, Learner, OptimizerSettings
from realdataexp.models import LOSSES, MLP, Batch, LabelScale
from realdataexp.optimizers import Schedule
from realdataexp.pretrain import Check, Pretraining, PretrainSettings
from realdataexp.worlds.replay import FeatureStore, RowReader

CPU = Device(torch.device("cpu"), "test", 1 << 30)
SCALE = LabelScale()
SETTINGS = PretrainSettings(
    seed=1, batch_size=16, epochs=2, max_rows=None, validate_every=None, early_stopping=None
)
N_USERS, N_VIDEOS = 9, 12


def toy_log() -> LogTable:
    """A user likes the videos on its own side of 0; the first rows of each user are early."""
    g = np.random.default_rng(0)
    lengths = np.array([30, 0, 25, 40, 1, 20, 33, 28, 17])
    offset_U1 = np.concatenate([[0], np.cumsum(lengths)])
    video_N = g.integers(0, N_VIDEOS, offset_U1[-1]).astype(np.int32)
    user_N = np.repeat(np.arange(N_USERS), lengths)
    like_N = (user_taste()[user_N] * video_taste()[video_N] > 0).astype(np.float32)
    minutes_N = (2 + 3 * video_taste()[video_N]).astype(np.float32)
    return LogTable(offset_U1, lengths // 2, video_N, {"like": like_N, "minutes": minutes_N})


def user_taste() -> np.ndarray:
    return np.where(np.arange(N_USERS) % 2, 1.0, -1.0)


def video_taste() -> np.ndarray:
    return np.linspace(-1.5, 1.5, N_VIDEOS)


def toy_store() -> FeatureStore:
    def table(column: np.ndarray) -> FeatureTable:
        n = len(column)
        fields = (CategoricalField("kind", 0, 1, 0, ()),)
        cat_XK = (np.arange(n) % 2)[:, None].astype(np.int32)
        weight_XK = np.ones((n, 1), dtype=np.float32)
        return FeatureTable(("x",), fields, column[:, None].astype(np.float32), cat_XK, weight_XK)

    return FeatureStore(Features(table(user_taste()), table(video_taste())), CPU)


def training_ranges(log: LogTable) -> RowRanges:
    return RowRanges(log.offset_U1[:-1] + 1 * (log.n_early_U > 2), log.offset_U1[1:])


class Recorder:
    """A reader that notes which places were read."""

    def __init__(self, targets: tuple[str, ...] = ("like", "minutes")) -> None:
        log = toy_log()
        self.ranges = training_ranges(log)
        self.reader = RowReader(log, targets, self.ranges, toy_store(), CPU)
        self.places: list[list[int]] = []

    def read(self, place_B: np.ndarray) -> tuple[Batch, list[Tensor]]:
        self.places.append(place_B.tolist())
        return self.reader.read(place_B)


def learners(hidden: tuple[int, ...] = (16,), dropout: float = 0.0) -> list[Learner]:
    schema = toy_store().schema
    model = MLP(schema, 1, {"hidden_layers": hidden, "dropout": dropout}, "model_params")
    return [
        Learner.start(model, (Head(LOSSES[loss], SCALE),), CPU, model.init(draws.key(0, loss)), 1)
        for loss in ("BCE", "MSE")
    ]


OPTIMIZERS = [OptimizerSettings(0.01), OptimizerSettings(0.02)]


def run(
    ours: list[Learner],
    settings: PretrainSettings,
    validation: list[tuple[float, float]] | None = None,
    reader: Recorder | None = None,
) -> list[Check]:
    """Pretrain with made-up validation losses, one pair a check."""
    reader = reader or Recorder()
    made_up = iter(validation or [])
    return list(
        Pretraining(
            ours,
            OPTIMIZERS,
            reader,  # type: ignore[arg-type]
            reader.ranges.n_rows,
            lambda: next(made_up, (0.0, 0.0)),
            settings,
        ).checks()
    )


def same(ours: Learner | dict[str, Tensor], theirs: Learner | dict[str, Tensor]) -> bool:
    a, b = (x.network(0) if isinstance(x, Learner) else x for x in (ours, theirs))
    return all(torch.equal(p, b[name]) for name, p in a.items())


# --- rows and batches ------------------------------------------------------------------------


def test_the_reader_gives_each_place_its_own_inputs_and_labels() -> None:
    log, store = toy_log(), toy_store()
    ranges = training_ranges(log)
    place_B = np.arange(ranges.n_rows)[::-1].copy()
    batch, (like, minutes) = RowReader(log, ("like", "minutes"), ranges, store, CPU).read(place_B)
    rows = [
        (u, n) for u in range(N_USERS) for n in range(int(ranges.start_U[u]), int(ranges.end_U[u]))
    ][::-1]
    assert batch.shape == (1, len(rows), 1) and like.shape == (1, len(rows))
    for b, (u, n) in enumerate(rows):
        v = int(log.video_N[n])
        assert float(batch.visit["user_num"][0, b, 0]) == pytest.approx(user_taste()[u])
        number = float(batch.candidate["video_num"][0, b, 0, 0])
        assert number == pytest.approx(video_taste()[v], rel=1e-6)
        assert int(batch.visit["user_cat"][0, b, 0]) == u % 2
        assert int(batch.candidate["video_cat"][0, b, 0, 0]) == v % 2
        assert float(like[0, b]) == log.targets["like"][n]
        assert float(minutes[0, b]) == log.targets["minutes"][n]


@pytest.mark.parametrize("batch_size", [1, 16, 64, 10_000])
def test_every_row_is_read_once_an_epoch_in_a_new_order(batch_size: int) -> None:
    reader = Recorder()
    n = reader.ranges.n_rows
    assert n == 187
    checks = run(learners(), replace(SETTINGS, batch_size=batch_size, epochs=3), reader=reader)
    per_epoch = -(-n // batch_size)
    assert [len(p) for p in reader.places[:per_epoch]] == (
        [batch_size] * (n // batch_size) + [n % batch_size] * (n % batch_size > 0)
        if batch_size < n
        else [n]
    )
    orders = []
    for epoch in range(3):
        batches = reader.places[epoch * per_epoch : (epoch + 1) * per_epoch]
        orders.append([place for batch in batches for place in batch])
        assert sorted(orders[-1]) == list(range(n))
    assert orders[0] != orders[1] != orders[2] and orders[0] != sorted(orders[0])
    assert [(c.iteration, c.n_rows) for c in checks] == [(per_epoch * e, n * e) for e in (1, 2, 3)]


def test_max_rows_takes_the_same_rows_in_every_epoch() -> None:
    reader = Recorder()
    checks = run(learners(), replace(SETTINGS, max_rows=50, epochs=3), reader=reader)
    counted = Counter(place for batch in reader.places for place in batch)
    assert len(counted) == 50 and set(counted.values()) == {3}
    assert max(counted) > 100  # not simply the first ones
    assert checks[-1].n_rows == 150 and len(checks) == 3
    more = Recorder()
    run(learners(), replace(SETTINGS, max_rows=10**9, epochs=1), reader=more)
    assert sum(map(len, more.places)) == more.ranges.n_rows


def test_the_seed_decides_rows_order_and_dropout() -> None:
    ends = []
    for seed in (1, 1, 2):
        reader, ours = Recorder(), learners(dropout=0.5)
        torch.manual_seed(len(ends))
        run(ours, replace(SETTINGS, seed=seed, max_rows=50), reader=reader)
        ends.append((reader.places, ours))
    assert ends[0][0] == ends[1][0] != ends[2][0]
    assert same(ends[0][1][0], ends[1][1][0]) and not same(ends[0][1][0], ends[2][1][0])
    first, other = ({place for batch in ends[i][0] for place in batch} for i in (0, 2))
    assert first != other


def test_checks_come_at_the_interval_and_at_the_end_of_an_epoch() -> None:
    checks = run(learners(), replace(SETTINGS, validate_every=5))  # 12 batches an epoch
    assert [c.iteration for c in checks] == [5, 10, 12, 15, 20, 24]
    assert [c.n_rows for c in checks] == [80, 160, 187, 235, 315, 374]


def test_a_pretraining_step_is_an_update_of_each_label() -> None:
    """The whole against a plain loop over the learners' own update."""
    ours, plain, reader = learners(dropout=0.3), learners(dropout=0.3), Recorder()
    made_up = [(0.5, 0.6), (0.4, 0.3)]
    checks = run(ours, SETTINGS, made_up, reader)
    losses: list[list[float]] = [[], []]
    for step, places in enumerate(reader.places, start=1):
        batch, y_L = reader.reader.read(np.array(places))
        for i, (learner, optimizer) in enumerate(zip(plain, OPTIMIZERS, strict=True)):
            key_S = draws.key(1, f"pretrain dropout {i}", torch.tensor([step]))
            weight_SB = torch.ones_like(y_L[i])
            losses[i].append(
                float(learner.update(batch, y_L[i].unsqueeze(-1), weight_SB, optimizer, key_S))
            )
    assert same(ours[0], plain[0]) and same(ours[1], plain[1])
    assert [c.validation_L for c in checks] == made_up
    for check, part in zip(checks, (slice(0, 12), slice(12, 24)), strict=True):
        means = [sum(x[part]) / 12 for x in losses]
        assert check.training_L == pytest.approx(means, rel=1e-5)


def test_without_early_stopping_looking_changes_nothing() -> None:
    ends = []
    for validate_every in (None, 1, 7):
        ours = learners(dropout=0.3)
        worse = [(float(i), float(i)) for i in range(100)]
        run(ours, replace(SETTINGS, validate_every=validate_every), worse)
        ends.append(ours)
    for i in range(2):
        assert same(ends[0][i], ends[1][i]) and same(ends[0][i], ends[2][i])
        assert int(ends[1][i].n_updates_S) == 24


# --- early stopping --------------------------------------------------------------------------


def snapshots(
    validation: list[tuple[float, float]], early_stopping: int | None
) -> tuple[list[Learner], list[Check], list[list[dict[str, Tensor]]]]:
    """Learners, checks, and each label's parameters at every check."""
    ours, reader, made_up, seen, checks = learners(), Recorder(), iter(validation), [], []
    settings = replace(
        SETTINGS, epochs=1, batch_size=16, validate_every=2, early_stopping=early_stopping
    )
    for check in Pretraining(
        ours,
        OPTIMIZERS,
        reader,  # type: ignore[arg-type]
        reader.ranges.n_rows,
        lambda: next(made_up),
        settings,
    ).checks():
        checks.append(check)
        seen.append([learner.network(0) for learner in ours])
    return ours, checks, seen


def test_each_label_ends_as_it_was_at_its_best_check() -> None:
    like = [0.9, 0.5, 0.6, 0.55, 0.52, 0.51]  # best at check 1
    minutes = [0.9, 0.8, 0.7, 0.75, 0.6, 0.65]  # best at check 4
    ours, checks, seen = snapshots(list(zip(like, minutes, strict=True)), 10)
    assert len(checks) == 6  # patience was never used up
    for i, best in ((0, 1), (1, 4)):
        assert same(ours[i], seen[best][i])
        assert not any(same(ours[i], seen[c][i]) for c in range(6) if c != best)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_training_stops_after_that_many_checks_without_a_better_one(patience: int) -> None:
    worse_from_1 = [(0.5, 0.5), *[(0.5 + 0.1 * i, 0.5) for i in range(5)]]  # equal is no better
    ours, checks, seen = snapshots(worse_from_1, patience)
    assert len(checks) == 1 + patience
    assert all(same(ours[i], seen[0][i]) for i in range(2))


def test_a_check_that_is_better_renews_the_patience() -> None:
    like = [0.9, 1.0, 0.8, 1.0, 0.7, 1.0]
    _, checks, _ = snapshots(list(zip(like, like, strict=True)), 2)
    assert len(checks) == 6


def test_a_stopped_label_rests_while_the_other_learns_on() -> None:
    like = [0.5, 0.6, 0.4, 0.3, 0.2, 0.1]  # stops at check 1; later checks come too late
    minutes = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    ours, checks, seen = snapshots(list(zip(like, minutes, strict=True)), 1)
    assert len(checks) == 6
    assert same(ours[0], seen[0][0]) and same(ours[1], seen[5][1])
    assert [int(x.n_updates_S) for x in ours] == [4, 12]
    assert not same(seen[4][1], seen[5][1])


def test_a_stopped_label_has_no_training_loss() -> None:
    """It has learned nothing since the last check; 0 would read as a perfect fit."""
    like = [0.5, 0.6, 0.4, 0.3, 0.2, 0.1]
    _, checks, _ = snapshots([(x, 1.0 - 0.1 * i) for i, x in enumerate(like)], 1)
    assert all(check.training_L[0] > 0 for check in checks[:2])
    assert all(math.isnan(check.training_L[0]) for check in checks[2:])


def test_batches_without_a_label_do_not_dilute_its_training_loss() -> None:
    class HalfMissing(Recorder):
        def read(self, place_B: np.ndarray) -> tuple[Batch, list[Tensor]]:
            batch, (like, minutes) = super().read(place_B)
            return batch, [like, minutes if len(self.places) % 2 else minutes * math.nan]

    ours, plain, reader = learners(), learners(), HalfMissing()
    (check,) = run(ours, replace(SETTINGS, epochs=1), reader=reader)
    losses = []
    for places in reader.places[::2]:
        batch, (_, minutes) = reader.reader.read(np.array(places))
        key_S = draws.key(0, "no dropout", torch.arange(1))
        ones = torch.ones_like(minutes)
        losses.append(
            float(plain[1].update(batch, minutes.unsqueeze(-1), ones, OPTIMIZERS[1], key_S))
        )
    assert int(ours[1].n_updates_S) == len(losses) == 6
    assert check.training_L[1] == pytest.approx(sum(losses) / 6, rel=1e-5)


# --- several labels in one network -----------------------------------------------------------


def shared_learner(dropout: float = 0.0) -> Learner:
    model = MLP(toy_store().schema, 2, {"hidden_layers": (16,), "dropout": dropout}, "params")
    heads = tuple(Head(LOSSES[loss], SCALE) for loss in ("MSE", "BCE"))
    return Learner.start(model, heads, CPU, model.init(draws.key(0, "both")), 1)


def shared_pretraining(learner: Learner, settings: PretrainSettings, **changes) -> Pretraining:
    """One network of both labels, whose heads are not in the labels' order."""
    reader = changes.get("reader") or Recorder()
    return Pretraining(
        [learner],
        [OptimizerSettings(0.01)],
        reader,  # type: ignore[arg-type]
        reader.ranges.n_rows,
        changes.get("validate", lambda: (0.0, 0.0)),
        settings,
        labels_of=[(1, 0)],
    )


def test_a_network_of_both_labels_learns_from_both_and_reports_each() -> None:
    ours, plain, reader = shared_learner(0.3), shared_learner(0.3), Recorder()
    pretraining = shared_pretraining(
        ours, replace(SETTINGS, epochs=1), reader=reader, validate=lambda: (0.25, 0.5)
    )
    (check,) = pretraining.checks()
    losses = []
    for step, places in enumerate(reader.places, start=1):
        batch, (like, minutes) = reader.reader.read(np.array(places))
        y_SBJ = torch.stack([minutes, like], dim=-1)
        key_S = draws.key(1, "pretrain dropout 0", torch.tensor([step]))
        ones = torch.ones_like(like)
        losses.append(plain.update(batch, y_SBJ, ones, OptimizerSettings(0.01), key_S)[0])
    assert same(ours, plain)
    minutes, like = torch.stack(losses).mean(0).tolist()
    assert check.training_L == pytest.approx((like, minutes), rel=1e-5)
    assert check.validation_L == (0.25, 0.5)


def test_a_network_of_both_labels_stops_by_the_sum_of_their_values() -> None:
    made_up = iter([(0.5, 0.5), (0.9, 0.0), (0.1, 0.85), (0.4, 0.6)])
    settings = replace(SETTINGS, validate_every=2, early_stopping=2)
    ours = shared_learner()
    seen = []
    pretraining = shared_pretraining(ours, settings, validate=lambda: next(made_up))
    for check in pretraining.checks():
        seen.append((check.iteration, ours.network(0)))
    assert [iteration for iteration, _ in seen] == [2, 4, 6, 8]
    assert same(ours, seen[1][1])


# --- schedules -------------------------------------------------------------------------------


def test_a_cosine_falls_over_all_batches() -> None:
    ours = learners()
    reader, rates = Recorder(), []
    pretraining = Pretraining(
        ours,
        [replace(x, schedule=Schedule("cosine", 0.2)) for x in OPTIMIZERS],
        reader,  # type: ignore[arg-type]
        reader.ranges.n_rows,
        lambda: (0.0, 0.0),
        SETTINGS,
    )
    while not pretraining.is_done:
        pretraining.advance()
        rates.append(float(ours[0].rate_factor_S))
    cosine = Schedule("cosine", 0.2, n_updates=24).cosine
    assert rates == pytest.approx([cosine(n) for n in range(24)])


def test_a_plateau_goes_by_each_labels_own_validation() -> None:
    ours, reader = learners(), Recorder()
    like, minutes = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [0.5, 0.6, 0.6, 0.6, 0.6, 0.6]
    made_up = iter(zip(like, minutes, strict=True))
    pretraining = Pretraining(
        ours,
        [replace(x, schedule=Schedule("plateau", 0.2, 0.5, 1)) for x in OPTIMIZERS],
        reader,  # type: ignore[arg-type]
        reader.ranges.n_rows,
        lambda: next(made_up),
        replace(SETTINGS, epochs=1, validate_every=2),
    )
    factors = [[float(x.rate_factor_S) for x in ours] for _ in pretraining.checks()]
    assert factors == [[1, 1], [1, 1], [1, 0.5], [1, 0.5], [1, 0.25], [1, 0.25]]


# --- going on --------------------------------------------------------------------------------

SHORT = replace(SETTINGS, batch_size=40, epochs=3, validate_every=2, max_rows=150)
CASES = {
    "all the way": (SHORT, [(1.0, 1.0)] * 99),
    "early stopping": (
        replace(SHORT, early_stopping=2),
        [(0.9, 0.5), (0.5, 0.6), (0.6, 0.4), (0.7, 0.5), (0.4, 0.6), (0.3, 0.1)],
    ),
    "both stop": (replace(SHORT, early_stopping=1), [(0.5, 0.5), (0.4, 0.6), (0.6, 0.3)]),
    "one batch an epoch": (replace(SHORT, batch_size=150, epochs=2), [(1.0, 1.0)] * 99),
}


def resumable(
    values: list[tuple[float, float]], settings: PretrainSettings, n_checks_before: int = 0
) -> tuple[Pretraining, list[Learner]]:
    """A plateau for one label, a cosine for the other; the values are those of the checks."""
    ours, reader, made_up = learners(dropout=0.3), Recorder(), iter(values[n_checks_before:])
    schedules = (Schedule("plateau", factor=0.5, patience=0), Schedule("cosine"))
    optimizers = [replace(x, schedule=s) for x, s in zip(OPTIMIZERS, schedules, strict=True)]
    pretraining = Pretraining(
        ours,
        optimizers,
        reader,  # type: ignore[arg-type]
        reader.ranges.n_rows,
        lambda: next(made_up),
        settings,
    )
    return pretraining, ours


@pytest.mark.parametrize(("settings", "values"), CASES.values(), ids=CASES)
def test_after_any_batch_it_goes_on_from_a_file_to_the_same_bits(
    settings: PretrainSettings, values: list[tuple[float, float]], tmp_path: Path
) -> None:
    whole, expected = resumable(values, settings)
    checks = list(whole.checks())
    n_batches = whole.iteration
    for stop in range(n_batches + 1):
        first, _ = resumable(values, settings)
        seen = [check for _ in range(stop) if (check := first.advance())]
        save_file(first.state(), tmp_path / "state.safetensors")
        second, ours = resumable(values, settings, len(seen))
        second.load_state(load_file(tmp_path / "state.safetensors"))
        assert second.n_rows_done == first.n_rows_done
        seen += second.checks()
        assert str(seen) == str(checks)  # NaN where the other has NaN
        for a, b in zip(ours, expected, strict=True):
            assert all(torch.equal(x, b.state()[name]) for name, x in a.state().items())
    assert len(checks) >= 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"iteration": None}, "iteration is missing"),
        ({"learner.0.params.bias_9": torch.zeros(1)}, "learner.0.params.bias_9 is unknown"),
        ({"best.1.bias_0": torch.zeros(3)}, "best.1.bias_0 is"),
        ({"losses": torch.zeros(2, 3)}, "losses is"),
        ({"losses": torch.tensor(0.0)}, "losses is"),
    ],
    ids=str,
)
def test_a_state_of_another_pretraining_is_refused(
    change: dict[str, Tensor | None], said: str
) -> None:
    settings, values = CASES["early stopping"]
    pretraining, ours = resumable(values, settings)
    pretraining.advance()
    state = {name: x + 1 for name, x in pretraining.state().items()} | change
    before = [learner.network(0) for learner in ours]
    with pytest.raises(ValueError, match=said):
        pretraining.load_state({name: x for name, x in state.items() if x is not None})
    assert pretraining.iteration == 1
    assert all(same(learner, x) for learner, x in zip(ours, before, strict=True))


# --- learning --------------------------------------------------------------------------------


def test_a_learnable_problem_is_learned() -> None:
    ours, reader = learners(), Recorder()
    batch, y_L = reader.reader.read(np.arange(reader.ranges.n_rows))

    def mean_losses() -> tuple[float, ...]:
        return tuple(
            float(x.losses(batch, y.unsqueeze(-1), slice(0, 1)).mean())
            for x, y in zip(ours, y_L, strict=True)
        )

    start = mean_losses()
    checks = list(
        Pretraining(
            ours,
            OPTIMIZERS,
            reader.reader,
            reader.ranges.n_rows,
            mean_losses,
            replace(SETTINGS, epochs=20),
        ).checks()
    )
    end = mean_losses()
    assert checks[-1].validation_L == pytest.approx(end)
    assert end[0] < start[0] / 4 and end[1] < start[1] / 20
    assert checks[-1].training_L[0] < checks[0].training_L[0] / 2


def test_no_row_means_no_check() -> None:
    ours = learners()
    before = ours[0].network(0)
    no_rows = list(
        Pretraining(ours, OPTIMIZERS, Recorder().reader, 0, lambda: (0.0, 0.0), SETTINGS).checks()
    )
    assert no_rows == [] and same(ours[0], before)
