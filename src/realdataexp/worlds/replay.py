"""Replay of a real log: a user's candidates are rows of the log, and the log answers.

A row is offered to its own user only and recommended at most once in a world. Each world keeps
nothing but its choices. Think of a user's n rows as a row of slots; recommending the row in slot x
deletes it by moving the last slot's row into x (so n shrinks by one). Where a slot leads to is
found by walking back through the user's earlier choices. So a slate costs candidates x earlier
visits of that user, never the length of the history, worlds whose choices differ still see nearly
the same slates, and who visits, how many rows are left and which slots are shown do not depend on
any choice: they are drawn once per replication, for all designs.

In order of time the same is done slice by slice of the log's calendar: at the first step of a slice
a user's slots are the user's rows of that slice, and none of them is used.

Axes: R replications, W worlds (block x replication), B visits, C candidates, L labels, U users,
N log rows, K earlier visits of a user, X starts, P slices of the calendar.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.data.features import Features, FeatureTable
from realdataexp.data.log import DataSet, LogTable, RowRanges, Split, training_blocks
from realdataexp.device import Device, Graphs
from realdataexp.models import Batch, FeatureSchema, SideSchema
from realdataexp.models.base import restore
from realdataexp.sequences.item_options import inputs_of
from realdataexp.worlds.base import (
    Environment,
    HeldOut,
    Slate,
    Visits,
    World,
    WorldSettings,
    first_step,
    shown_items,
    start_of,
)

_ROWS_AT_ONCE = 1 << 22
_BLOCK, _N_BLOCKS = 1 << 16, 64  # rows that are hashed at once, and blocks of an array at most
_NOTHING: Mapping[str, np.ndarray] = MappingProxyType({})


def schema_of(
    features: Features, n_history: int = 0, shown: Mapping[str, np.ndarray] = _NOTHING
) -> FeatureSchema:
    """What a model needs to know of the tables of features, and of a user's last items."""

    def side(table: FeatureTable) -> SideSchema:
        fields = tuple((f.name, f.first_slot, f.end_slot) for f in table.fields)
        first_ids = tuple(f.first_id for f in table.fields)
        return SideSchema(len(table.numerical), fields, table.n_ids, table.numerical, first_ids)

    schema = FeatureSchema(side(features.user), side(features.video), inputs_of(shown))
    return schema.with_history(n_history) if n_history else schema


class FeatureStore:
    """The tables of features on the device, and those of what else is shown of videos."""

    def __init__(
        self,
        features: Features,
        device: Device,
        n_history: int = 0,
        shown: Mapping[str, np.ndarray] = _NOTHING,
    ) -> None:
        self.schema, self.n_history = schema_of(features, n_history, shown), n_history
        self.n_videos = len(features.video.num_XD)
        inputs = self.schema.inputs
        self._user, self._video = (
            {
                f"{side}_{suffix}": device.tensor(x)
                for suffix, x in (("num", t.num_XD), ("cat", t.cat_XK), ("weight", t.weight_XK))
                if f"{side}_{suffix}" in inputs
            }
            for side, t in (("user", features.user), ("video", features.video))
        )
        self._video |= {f"video_{name}": device.tensor(x_VX) for name, x_VX in shown.items()}

    def batch(self, user_SB: Tensor, video_SBC: Tensor, history_SBT: Tensor | None = None) -> Batch:
        """Inputs for users and C videos for each, as rows of the tables.

        Where models are shown a history, also for the videos that each user has had, the latest
        first; -1 for none.
        """
        batch = Batch(
            visit={name: _rows(table, user_SB) for name, table in self._user.items()},
            candidate={name: _rows(table, video_SBC) for name, table in self._video.items()},
        )
        if history_SBT is not None:
            is_none_SBT = history_SBT < 0
            for name, table in self._video.items():
                if table.shape[1]:
                    rows_SBTX = _rows(table, history_SBT.clamp_min(0))
                    rows_SBTX = rows_SBTX.masked_fill(is_none_SBT.unsqueeze(-1), 0)
                    batch.sequence[name.replace("video", "history")] = rows_SBTX
            batch.sequence["history_mask"] = (~is_none_SBT).to(self._video["video_num"].dtype)
        return batch


def _add_features(
    sum_XD: np.ndarray, table: FeatureTable, place_N: np.ndarray, video_N: np.ndarray
) -> None:
    """Add the features of videos, numbers and one-hot categories, to the sums at some places."""
    n, D = len(sum_XD), table.num_XD.shape[1]
    for d in range(D):
        sum_XD[:, d] += np.bincount(place_N, table.num_XD[video_N, d], minlength=n)
    for k in range(table.cat_XK.shape[1]):
        flat_N = place_N * table.n_ids + table.cat_XK[video_N, k]
        counts = np.bincount(flat_N, table.weight_XK[video_N, k], minlength=n * table.n_ids)
        sum_XD[:, D:] += counts.reshape(n, -1)


def _moments(table: FeatureTable) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (1 where nothing varies) of videos' features, over videos.

    The square of a category's column is taken for each slot by itself.
    """
    V, D = len(table.num_XD), table.num_XD.shape[1]
    total_D, square_D = np.zeros((2, D + table.n_ids))
    for start in range(0, V, _ROWS_AT_ONCE):
        video_N = np.arange(start, min(start + _ROWS_AT_ONCE, V))
        num_ND = table.num_XD[video_N].astype(np.float64)
        weight_NK = table.weight_XK[video_N].astype(np.float64)
        total_D[:D] += num_ND.sum(0)
        square_D[:D] += (num_ND**2).sum(0)
        for k in range(weight_NK.shape[1]):
            own_N = table.cat_XK[video_N, k]
            for sums_D, value_N in ((total_D, weight_NK[:, k]), (square_D, weight_NK[:, k] ** 2)):
                sums_D[D:] += np.bincount(own_N, value_N, minlength=table.n_ids)
    mean_D = total_D / V
    sd_D = np.sqrt(np.maximum(square_D / V - mean_D**2, 0.0))
    return mean_D, np.where(sd_D > 1e-12, sd_D, 1.0)


def _rows(table_XD: Tensor, index: Tensor) -> Tensor:
    return table_XD.index_select(0, index.reshape(-1)).view(*index.shape, table_XD.shape[1])


def _videos_before(log: LogTable, row_X: np.ndarray, first_X: np.ndarray, n: int) -> np.ndarray:
    """The videos of the n rows before each row, the latest first; -1 before the first: X, n."""
    row_XN = row_X[..., None] - 1 - np.arange(n)
    video_XN = log.video_N[row_XN.clip(0)].astype(np.int64)
    return np.where(row_XN >= first_X[..., None], video_XN, -1)


class RowReader:
    """Rows of the log as inputs and labels of one network; see worlds.base.RowSource."""

    def __init__(
        self,
        log: LogTable,
        targets: Sequence[str],
        rows: RowRanges,
        store: FeatureStore,
        device: Device,
    ) -> None:
        self.n_rows = rows.n_rows
        self._log, self._rows, self._store, self._device = log, rows, store, device
        self._targets = [log.targets[name] for name in targets]

    def read(self, place_B: np.ndarray) -> tuple[Batch, list[Tensor]]:
        """Inputs (S = 1, C = 1) and each label's values 1, B, at places of the ranges."""
        user_B, row_B = self._rows.locate(place_B)
        video_B = self._log.video_N[row_B]
        user = self._device.tensor(user_B).unsqueeze(0)
        video = self._device.tensor(video_B).view(1, -1, 1)
        labels = [self._device.tensor(t[row_B]).unsqueeze(0) for t in self._targets]
        history = None
        if n := self._store.n_history:
            seen_BT = _videos_before(self._log, row_B, self._rows.start_U[user_B], n)
            history = self._device.tensor(seen_BT).unsqueeze(0)
        return self._store.batch(user, video, history), labels


class ReplayEnvironment(Environment):
    """A data set, split and made ready for models: see worlds.base.Environment."""

    def __init__(
        self,
        data: DataSet,
        splits: Sequence[Split],
        features: Features,
        device: Device,
        seed: int,
        n_history: int = 0,
        shown: Mapping[str, np.ndarray] = _NOTHING,
    ) -> None:
        """Models are shown the user's last ``n_history`` items; the seed is the run's.

        Of videos they are shown the tables ``shown`` too: ``codes`` (V, L) and ``vector`` (V, D).
        """
        self._data, self._splits, self._device, self._seed = data, splits, device, seed
        self._features, self._shown = features, shown
        self._store = FeatureStore(features, device, n_history, shown)
        self.schema, self.n_items = self._store.schema, self._store.n_videos
        self._cuts: dict[int, np.ndarray] = {}

    def label_values(self, target: str) -> Iterator[np.ndarray]:
        """The values of the first start's training users, in blocks."""
        for rows, is_training in training_blocks(self._data.log, self._splits[0].is_training_U):
            y = self._data.log.targets[target][rows][is_training]
            yield y[np.isfinite(y)].astype(np.float64)

    def pretraining(self, targets: Sequence[str], start: int) -> RowReader:
        """The rows that the start's split gives to pretraining."""
        rows = self._splits[start].pretrain
        return RowReader(self._data.log, targets, rows, self._store, self._device)

    def held_out(
        self, targets: Sequence[str], n_visits: int, n_candidates: int, start: int
    ) -> HeldOut:
        """Some of the held-out users, with at most ``n_candidates`` of their rows each.

        Their history are the rows before the earliest of these.
        """
        rows, log, tensor = self._splits[start].validation, self._data.log, self._device.tensor
        seed = draws.start_seed(self._seed, start)
        n_rows_U = rows.end_U - rows.start_U
        users = np.flatnonzero(n_rows_U)
        user_B = users[draws.subset(draws.key(seed, "held-out users"), len(users), n_visits)]
        keys_B = draws.key(seed, "held-out slate", torch.from_numpy(user_B))
        n_rows_B = torch.from_numpy(n_rows_U[user_B])
        slot_BC = draws.choose(draws.uniform(keys_B, n_candidates), n_rows_B).numpy()
        row_BC = rows.start_U[user_B][:, None] + slot_BC.clip(0)
        history = None
        if n := self._store.n_history:
            earliest_B = np.where(slot_BC >= 0, row_BC, log.n_rows).min(1)
            seen_BT = _videos_before(log, earliest_B, rows.start_U[user_B], n)
            history = tensor(seen_BT[None])
        video_BC = tensor(log.video_N[row_BC])
        batch = self._store.batch(tensor(user_B[None]), video_BC.unsqueeze(0), history)
        y_BCL = np.stack([log.targets[name][row_BC] for name in targets], axis=-1)
        y_BCL = np.where(slot_BC[..., None] >= 0, y_BCL, np.nan)
        return HeldOut(batch, tensor(y_BCL), tensor(slot_BC >= 0), len(user_B), video_BC)

    def logged(self, start: int) -> tuple[LogTable, Split]:
        """The log, and a start's split of it."""
        return self._data.log, self._splits[start]

    def first_shown(self, user_B: np.ndarray, video_C: np.ndarray, start: int) -> Batch:
        """What models see where users of a start, at their first visit, are offered these videos.

        All C are offered to each of B users (S = 1).
        """
        log, tensor, rows = self._data.log, self._device.tensor, self._splits[start].pretrain
        history = None
        if n := self._store.n_history:
            seen_BT = _videos_before(log, rows.end_U[user_B], rows.start_U[user_B], n)
            history = tensor(seen_BT[None])
        video_BC = tensor(np.broadcast_to(video_C, (len(user_B), len(video_C))).copy())
        return self._store.batch(tensor(user_B[None]), video_BC.unsqueeze(0), history)

    def video_categories(self) -> dict[str, np.ndarray]:
        """Of each categorical feature, the number of each video's category, or combination: V."""
        table = self._features.video
        found = {}
        for field in table.fields:
            slots = slice(field.first_slot, field.end_slot)
            filled_VK = np.where(table.weight_XK[:, slots] > 0, table.cat_XK[:, slots], -1)
            together_V = np.unique(filled_VK, axis=0, return_inverse=True)[1]
            found[field.name] = together_V.reshape(-1)
        return found

    def tastes(self, start: int) -> np.ndarray:
        """Mean features of the videos in each user's pretraining rows: U, D; 0 without rows.

        D are the video table's numbers and one-hot categories, standardised over videos.
        """
        table, rows = self._features.video, self._splits[start].pretrain
        sum_UD = np.zeros((self._data.log.n_users, table.num_XD.shape[1] + table.n_ids))
        for user, row in _in_blocks(rows):
            _add_features(sum_UD, table, user, self._data.log.video_N[row])
        mean_D, sd_D = _moments(table)
        n_U1 = (rows.end_U - rows.start_U)[:, None]
        return (sum_UD - n_U1 * mean_D) / sd_D / np.maximum(n_U1, 1)

    def history(self, targets: Sequence[str], start: int) -> np.ndarray:
        """Each user's mean of each label over the pretraining rows: U, L; NaN without any."""
        log = self._data.log
        n_UL, sum_UL = np.zeros((2, log.n_users, len(targets)))
        for user, row in _in_blocks(self._splits[start].pretrain):
            for i, target in enumerate(targets):
                y = log.targets[target][row].astype(np.float64)
                known = np.isfinite(y)
                n_UL[:, i] += np.bincount(user[known], minlength=log.n_users)
                sum_UL[:, i] += np.bincount(user[known], y[known], minlength=log.n_users)
        return np.where(n_UL > 0, sum_UL / np.maximum(n_UL, 1), np.nan)

    def popularity(self, start: int) -> np.ndarray:
        """Each video's number of rows in the start's pretraining: V."""
        log, n_V = self._data.log, np.zeros(self._data.videos.height)
        for _, row in _in_blocks(self._splits[start].pretrain):
            n_V += np.bincount(log.video_N[row], minlength=len(n_V))
        return n_V

    def world(self, targets: Sequence[str], settings: WorldSettings) -> ReplayWorld:
        """The replay of the rows of each start's training users that did not pretrain."""
        return ReplayWorld(
            self._data.log,
            tuple(targets),
            self._store,
            np.stack([split.replay.start_U for split in self._splits]),
            np.stack([split.replay.end_U for split in self._splits]),
            settings,
            self._device,
            np.stack([(split.pretrain.start_U, split.pretrain.end_U) for split in self._splits]),
            self._count_XV,
            self.cuts_PXU(settings.n_slices) if settings.n_slices > 1 else None,
        )

    def cuts_PXU(self, n_slices: int) -> np.ndarray:
        """Where each user's rows of the slices of each start's calendar begin: P + 1, X, U."""
        if n_slices not in self._cuts:
            from realdataexp.worlds.calendar import cuts_of  # few runs have an order

            found = [cuts_of(self._data.log, x.replay, n_slices) for x in self._splits]
            self._cuts[n_slices] = np.stack(found, axis=1)
        return self._cuts[n_slices]

    @cached_property
    def _count_XV(self) -> np.ndarray | None:
        """What margins over counting are of, where models read histories."""
        if not self._store.n_history:
            return None
        return np.stack([self.popularity(start) for start in range(len(self._splits))])

    def stats(self) -> dict[str, Any]:
        """The import's counts and those of the first start's split."""
        split = self._splits[0]
        return {
            **self._data.stats,
            "n_training_users": int(split.is_training_U.sum()),
            "n_pretrain_rows": split.pretrain.n_rows,
            "n_replay_rows": split.replay.n_rows,
            "n_validation_rows": split.validation.n_rows,
            "pretrain_rows": split.kind,
            "filled": self._features.filled,
        }

    @cached_property
    def _digest(self) -> str:
        log, digest = self._data.log, hashlib.sha256()
        targets = [log.targets[name] for name in sorted(log.targets)]
        tables = (self._features.user, self._features.video)
        features = [x for t in tables for x in (t.num_XD, t.cat_XK, t.weight_XK)]
        for x in (log.offset_U1, log.video_N, *targets, *features, *self._shown.values()):
            starts = np.linspace(0, max(0, len(x) - _BLOCK), _N_BLOCKS).astype(int)
            for start in np.unique(starts):
                digest.update(np.ascontiguousarray(x[start : start + _BLOCK]).tobytes())
        return digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """Sizes, and a hash of the log and the features: of blocks all over, where they are long.

        So the files may have moved or been touched; up to 4 million rows every one counts.
        """
        log = self._data.log
        return {"rows": log.n_rows, "users": log.n_users, "digest": self._digest}

    def description(self) -> list[str]:
        """The data in a few lines."""
        log, split = self._data.log, self._splits[0]
        return [
            f"data: {log.n_rows:,} rows, {log.n_users:,} users, {self._data.videos.height:,} "
            "videos",
            f"pretraining: {split.pretrain.n_rows:,} rows ({split.kind})",
        ]


def _in_blocks(rows: RowRanges) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Users and log rows of the ranges, some at a time."""
    for first in range(0, rows.n_rows, _ROWS_AT_ONCE):
        yield rows.locate(np.arange(first, min(first + _ROWS_AT_ONCE, rows.n_rows)))


class ReplayWorld(World):
    """R replications of a log's replay, each lived through by ``n_blocks`` designs at once."""

    def __init__(
        self,
        log: LogTable,
        targets: tuple[str, ...],
        store: FeatureStore,
        rows_from_XU: np.ndarray,
        rows_to_XU: np.ndarray,
        settings: WorldSettings,
        device: Device,
        seen_X2U: np.ndarray | None = None,
        count_XV: np.ndarray | None = None,
        cuts_PXU: np.ndarray | None = None,
    ) -> None:
        """Set up the replay of each user's rows [rows_from, rows_to), which differ between starts.

        They are empty for users who do not take part. With ``cuts_PXU`` (``calendar.cuts_of``) they
        are replayed slice by slice. Where models are shown a history, it begins
        with each user's rows ``seen_X2U`` and continues with what a world recommended, and margins
        are over what videos have the most rows, ``count_XV``. Slates are made on the device; who
        visits is drawn on the host.
        """
        self._store, self._settings, self._device = store, settings, device
        self._video_N = device.tensor(log.video_N)
        self._target_N = [device.tensor(log.targets[t]) for t in targets]
        self._cuts_PXU = np.stack([rows_from_XU, rows_to_XU]) if cuts_PXU is None else cuts_PXU
        self._replication_R = torch.tensor(settings.replications, dtype=torch.int64)
        n_starts, n_users = rows_from_XU.shape
        n_replications = len(settings.replications)
        self._start_R1 = start_of(np.array(settings.replications), n_starts)[:, None]
        # the many draws of slates and arms are made where float64 is, on the device if it can be
        self._graphs = Graphs(device)
        self._drawn_R = self._replication_R.to(device.with_float64)
        # a user's visits form a chain, newest first; a visit's number is step * B + place
        self._last_visit_RU = np.full((n_replications, n_users), -1, dtype=np.int32)
        n_visits = settings.n_steps * settings.batch_size
        self._previous_RT = np.full((n_replications, n_visits), -1, dtype=np.int32)
        # what the worlds chose: the slot deleted at each visit
        self._slot_WT = torch.zeros(
            settings.n_blocks * n_replications, n_visits, dtype=torch.int32, device=device.torch
        )
        # and the videos recommended, where a history is shown; -1 where none was
        self._log, self._seen_X2U = log, seen_X2U
        self._count_XV = None if count_XV is None else device.tensor(count_XV.astype(np.float32))
        self._shown_WT = torch.full_like(self._slot_WT, -1) if store.n_history else None
        self._begin(0)

    def _begin(self, p: int) -> None:
        """Begin a slice of the calendar, in which nothing is used yet."""
        s, start_R = self._settings, self._start_R1[:, 0]
        self._slice = p
        self._first_visit = first_step(p, s.n_steps, len(self._cuts_PXU) - 1) * s.batch_size
        self._from_XU = self._cuts_PXU[p]
        self._n_rows_XU = self._cuts_PXU[p + 1] - self._from_XU
        is_eligible_XU = self._n_rows_XU >= s.min_candidates
        n_eligible_X = is_eligible_XU.sum(1)
        eligible_XU = np.argsort(~is_eligible_XU, axis=1, kind="stable")[:, : n_eligible_X.max()]
        self._eligible_RU = eligible_XU[start_R].astype(np.int32)
        self._n_eligible_R = n_eligible_X[start_R]
        takes_part_XU = self._n_rows_XU > 0
        self._n_taking_part_R = takes_part_XU.sum(1).clip(1)[start_R]
        is_short_XU = takes_part_XU & (self._n_rows_XU < s.n_candidates)
        self._n_short_R = is_short_XU.sum(1)[start_R]
        self._n_visits_RU = np.zeros(self._last_visit_RU.shape, dtype=np.int32)

    @property
    def has_visitors(self) -> bool:
        """Whether any replication has a user with enough unused rows, now or in a later slice."""
        return self._slice < len(self._cuts_PXU) - 2 or bool((self._n_eligible_R > 0).any())

    def draw(self, step: int) -> Visits:
        """The step's visits, drawn on the host from keys alone and from earlier draws."""
        s, n_slices = self._settings, len(self._cuts_PXU) - 1
        while self._slice + 1 < n_slices and step >= first_step(
            self._slice + 1, s.n_steps, n_slices
        ):
            self._begin(self._slice + 1)
        rows = np.arange(len(self._n_eligible_R))[:, None]
        n_R = torch.from_numpy(self._n_eligible_R)
        u_RB = draws.uniform(draws.key(s.seed, "users", self._replication_R, step), s.batch_size)
        place_RB = draws.choose(u_RB, n_R).numpy()
        is_visit_RB = place_RB >= 0
        user_RB = np.where(is_visit_RB, self._eligible_RU[rows, place_RB.clip(0)], 0)
        at_RB = rows * self._n_visits_RU.shape[1] + user_RB  # places are found faster by one number
        n_visits_RB = self._n_visits_RU.reshape(-1)[at_RB]
        left_RB = np.where(is_visit_RB, self._n_rows_XU[self._start_R1, user_RB] - n_visits_RB, 0)
        last_RB = np.where(is_visit_RB, self._last_visit_RU.reshape(-1)[at_RB], -1)
        # a history goes back beyond the slice, used slots do not
        earlier_KRB = self._look_back(last_RB, 0 if self._store.n_history else self._first_visit)
        share_short_R = torch.from_numpy(self._n_short_R / self._n_taking_part_R)
        # lengthen the visitors' chains, and strike those who ran out from the eligible
        visit_B = np.arange(step * s.batch_size, (step + 1) * s.batch_size, dtype=np.int32)
        self._previous_RT[:, visit_B[0] : visit_B[-1] + 1] = last_RB
        at_X = at_RB[is_visit_RB]
        self._last_visit_RU.reshape(-1)[at_X] = np.broadcast_to(visit_B, at_RB.shape)[is_visit_RB]
        self._n_visits_RU.reshape(-1)[at_X] = n_visits_RB[is_visit_RB] + 1
        self._n_short_R += (is_visit_RB & (left_RB == s.n_candidates)).sum(1)
        self._strike(place_RB, is_visit_RB & (left_RB <= s.min_candidates))
        to_device = self._device.tensor
        is_here = self._device.with_float64 == self._device.torch
        visitor_RB, remaining_RB = (
            (to_device if is_here else torch.from_numpy)(x.astype(np.int64))
            for x in (user_RB, left_RB)
        )
        slot_RBC, arm_draw_RB = self._graphs.run(
            self._slots_and_arms, visitor_RB, remaining_RB, self._drawn_R.new_full((), step)
        )
        visitor_RB, remaining_RB = to_device(visitor_RB), to_device(remaining_RB)
        start_RB = to_device(self._from_XU[self._start_R1, user_RB])
        if n := self._store.n_history:
            assert self._seen_X2U is not None, "a history without the rows that it begins with"
            first_RB, end_RB = (self._seen_X2U[self._start_R1, i, user_RB] for i in (0, 1))
            self._seen_RBT = to_device(_videos_before(self._log, end_RB, first_RB, n))
        self._plan = to_device(slot_RBC), start_RB, remaining_RB, to_device(earlier_KRB).long()
        return Visits(
            step,
            to_device(self._drawn_R),
            visitor_RB,
            to_device(is_visit_RB),
            to_device(arm_draw_RB),
            remaining_RB.clamp_max(s.n_candidates),
            share_short_R,
        )

    def _slots_and_arms(
        self, user_RB: Tensor, left_RB: Tensor, step: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw which of a user's slots are shown (R, B, C, -1 for padding), and the arms: R, B."""
        s, to = self._settings, left_RB.device
        place_B = torch.arange(s.batch_size, device=to)
        keys_RB = draws.key(s.seed, "slate", self._drawn_R[:, None], step, place_B)
        slot_RBC = draws.choose(draws.uniform(keys_RB, s.n_candidates), left_RB)
        if s.assignment == "user":
            keys_RB = draws.key(s.seed, "arm of user", self._drawn_R[:, None], user_RB)
            return slot_RBC, draws.uniform(keys_RB, 1).squeeze(-1)
        keys_R = draws.key(s.seed, "arm of visit", self._drawn_R, step)
        return slot_RBC, draws.uniform(keys_R, s.batch_size)

    def _look_back(self, visit_RB: np.ndarray, first: int) -> np.ndarray:
        """The visitors' earlier visits from the last on, back to one: K, R, B.

        -1 behind a user's first.
        """
        rows, chain = np.arange(visit_RB.shape[0])[:, None], []
        while (visit_RB >= first).any():
            chain.append(visit_RB)
            visit_RB = np.where(visit_RB >= 0, self._previous_RT[rows, visit_RB.clip(0)], -1)
        return np.stack(chain) if chain else np.zeros((0, *visit_RB.shape), dtype=np.int32)

    def _strike(self, place_RB: np.ndarray, is_out_RB: np.ndarray) -> None:
        """Put the last eligible user in the place of each who ran out."""
        r, b = np.nonzero(is_out_RB)
        # from the highest place down, so that the last eligible user is never one struck later
        for replication, place in sorted(zip(r, place_RB[r, b], strict=True), reverse=True):
            self._n_eligible_R[replication] -= 1
            last = self._n_eligible_R[replication]
            self._eligible_RU[replication, place] = self._eligible_RU[replication, last]

    def slate(self, visits: Visits) -> Slate:
        """Follow each shown slot back through the user's earlier choices to a row of the log."""
        n_blocks = self._settings.n_blocks
        slot_RBC, start_RB, left_RB, earlier_KRB = self._plan
        is_candidate_WBC = (slot_RBC >= 0).repeat(n_blocks, 1, 1)
        slot_WBC = slot_RBC.clamp_min(0).repeat(n_blocks, 1, 1)
        self._shown_WBC = slot_WBC
        left_WB = left_RB.repeat(n_blocks, 1)
        for k, visit_RB in enumerate(earlier_KRB):
            visit_WB = visit_RB.repeat(n_blocks, 1)
            deleted_WB = self._slot_WT.gather(1, visit_WB.clamp_min(0)).to(torch.int64)
            deleted_WB = torch.where(visit_WB >= self._first_visit, deleted_WB, -1)
            # that deletion moved the last slot of its time, number left + k, into the hole
            moved_WB = left_WB + k
            slot_WBC = torch.where(
                slot_WBC == deleted_WB.unsqueeze(-1), moved_WB.unsqueeze(-1), slot_WBC
            )
        item_WBC = slot_WBC + start_RB.repeat(n_blocks, 1).unsqueeze(-1)
        video_WBC = self._video_N[item_WBC]
        user_WB = visits.user_RB.repeat(n_blocks, 1)
        batch = self._store.batch(user_WB, video_WBC, self._history(earlier_KRB))
        return Slate(item_WBC, video_WBC, is_candidate_WBC, batch)

    def _history(self, earlier_KRB: Tensor) -> Tensor | None:
        """The visitors' last videos in each world, the latest first, -1 for none: W, B, T."""
        if self._shown_WT is None:
            return None
        visit_WBK = earlier_KRB.movedim(0, -1).repeat(self._settings.n_blocks, 1, 1)
        shown_WX = self._shown_WT.gather(1, visit_WBK.clamp_min(0).flatten(1))
        shown_WBK = shown_WX.view(visit_WBK.shape).long().masked_fill(visit_WBK < 0, -1)
        seen_WBT = self._seen_RBT.repeat(self._settings.n_blocks, 1, 1)
        video_WBX = torch.cat([shown_WBK, seen_WBT], dim=-1)
        # what is none goes to the end; the rest keeps its order
        order_WBX = (video_WBX < 0).byte().argsort(dim=-1, stable=True)
        return video_WBX.gather(-1, order_WBX[..., : self._store.n_history])

    def exposure(self, visits: Visits, slate: Slate, shown_WBK: Tensor) -> dict[str, Tensor]:
        """The videos shown, where models learn from histories that these enter; and a margin.

        It is what the first outcome of the shown video has more than that of the candidate with the
        most pretraining rows.
        """
        if self._shown_WT is None:
            return {}
        found = {"item": shown_items(slate, shown_WBK)}
        if self._count_XV is not None:
            start_W = torch.from_numpy(self._start_R1[:, 0]).repeat(self._settings.n_blocks)
            count_WBC = self._count_XV[start_W.view(-1, 1, 1), slate.video_WBC.clamp_min(0)]
            count_WBC = count_WBC.masked_fill(~slate.is_candidate_WBC, -1.0)
            best_WB1 = count_WBC.argmax(-1, keepdim=True)
            shown_WB, best_WB = (
                self._target_N[0][slate.item_WBC.gather(2, at_WB1).squeeze(-1)]
                for at_WB1 in (shown_WBK[..., :1], best_WB1)
            )
            found["margin_popularity"] = shown_WB - best_WB
        return found

    def feedback(self, visits: Visits, slate: Slate, choice_WB: Tensor) -> Tensor:
        """The chosen rows' labels W, B, L; NaN where missing or where there is no visit."""
        B = self._settings.batch_size
        at_WB1 = choice_WB.unsqueeze(-1)
        slot_WB = self._shown_WBC.gather(2, at_WB1).squeeze(-1)
        self._slot_WT[:, visits.step * B : (visits.step + 1) * B] = slot_WB.to(torch.int32)
        item_WB = slate.item_WBC.gather(2, at_WB1).squeeze(-1)
        y_WBL = torch.stack([target_N[item_WB] for target_N in self._target_N], dim=-1)
        is_visit_WB = slate.is_candidate_WBC.any(-1)
        if self._shown_WT is not None:
            video_WB = slate.video_WBC.gather(2, at_WB1).squeeze(-1)
            shown_WB = video_WB.masked_fill(~is_visit_WB, -1).to(torch.int32)
            self._shown_WT[:, visits.step * B : (visits.step + 1) * B] = shown_WB
        return torch.where(is_visit_WB.unsqueeze(-1), y_WBL, torch.nan)

    def state(self) -> dict[str, Tensor]:
        """Everything that changes while running, as named tensors."""
        shown = {} if self._shown_WT is None else {"shown": self._shown_WT}
        if len(self._cuts_PXU) > 2:
            shown["slice"] = torch.tensor(self._slice)
        return shown | {
            "eligible": torch.from_numpy(self._eligible_RU),
            "n_eligible": torch.from_numpy(self._n_eligible_R),
            "n_short": torch.from_numpy(self._n_short_R),
            "n_visits": torch.from_numpy(self._n_visits_RU),
            "last_visit": torch.from_numpy(self._last_visit_RU),
            "previous": torch.from_numpy(self._previous_RT),
            "slot": self._slot_WT,
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state; see World."""
        if (p := int(tensors.get("slice", torch.tensor(0)))) != self._slice:
            if not 0 <= p < len(self._cuts_PXU) - 1:
                raise ValueError(f"world: there is no slice {p} of its calendar")
            self._begin(p)
        restore(self.state(), tensors)
        self._check_state()

    def _check_state(self) -> None:
        """Refuse counts that contradict each other; a chain that bites its tail has no end."""
        n_rows_RU, n_RU = self._n_rows_XU[self._start_R1[:, 0]], self._n_visits_RU
        left_RU, previous_RT, last_RU = n_rows_RU - n_RU, self._previous_RT, self._last_visit_RU
        is_listed_RU = np.arange(self._eligible_RU.shape[1]) < self._n_eligible_R[:, None]
        r, place = np.nonzero(is_listed_RU)
        user = self._eligible_RU[r, place]
        number_T = np.arange(previous_RT.shape[1])
        is_sound = (self._slot_WT >= 0).all() and all(
            is_fine.all()
            for is_fine in (
                (n_RU >= 0) & (left_RU >= 0),
                (user >= 0) & (user < n_RU.shape[1]),
                (previous_RT >= -1) & (previous_RT < number_T),
                (last_RU >= -1) & (last_RU < len(number_T)),
                (last_RU >= self._first_visit) == (n_RU > 0),
            )
        )
        if self._shown_WT is not None:
            is_sound = is_sound and (self._shown_WT < self._store.n_videos).all()
        if is_sound:
            is_eligible_RU = left_RU >= self._settings.min_candidates
            listed_RU = np.zeros_like(is_eligible_RU)
            listed_RU[r, user] = True
            is_short_RU = (n_rows_RU > 0) & (left_RU < self._settings.n_candidates)
            is_sound = (
                np.array_equal(listed_RU, is_eligible_RU)
                and np.array_equal(listed_RU.sum(1), self._n_eligible_R)
                and np.array_equal(is_short_RU.sum(1), self._n_short_R)
            )
        if not is_sound:
            raise ValueError("world: its visits contradict each other")
