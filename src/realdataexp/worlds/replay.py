"""Replay of a real log: a user's candidates are rows of the log, and the log answers.

A row is offered to its own user only and recommended at most once in a world. Each world keeps
nothing but its choices. Think of a user's n rows as a row of slots; recommending the row in slot x
deletes it by moving the last slot's row into x (so n shrinks by one). Where a slot leads to is
found by walking back through the user's earlier choices. So a slate costs candidates x earlier
visits of that user, never the length of the history, worlds whose choices differ still see nearly
the same slates, and who visits, how many rows are left and which slots are shown do not depend on
any choice: they are drawn once per replication, for all designs.

Axes: R replications, W worlds (block x replication), B visits, C candidates, L labels, U users,
N log rows, K earlier visits of a user.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.data.features import Features, FeatureTable
from realdataexp.data.log import LogTable
from realdataexp.device import Device
from realdataexp.models import Batch, FeatureSchema, SideSchema
from realdataexp.worlds.base import Slate, Visits


@dataclass(frozen=True)
class ReplaySettings:
    """How a replay draws.

    Attributes:
        seed: of all draws.
        replications: the replications' numbers; a result depends on the number, not on which
            others run beside it.
        n_blocks: designs that live through each replication.
        batch_size: B, visits a step. n_candidates: C. n_steps: most steps.
        min_candidates: a user with fewer unused rows is not drawn.
        assignment: "user" draws the arm once per user, "visit" anew at each visit.
    """

    seed: int
    replications: tuple[int, ...]
    n_blocks: int
    batch_size: int
    n_candidates: int
    n_steps: int
    min_candidates: int
    assignment: str


def schema_of(features: Features) -> FeatureSchema:
    """What a model needs to know of the feature tables."""

    def side(table: FeatureTable) -> SideSchema:
        fields = tuple((f.name, f.first_slot, f.end_slot) for f in table.fields)
        return SideSchema(len(table.numerical), fields, table.n_ids)

    return FeatureSchema(side(features.user), side(features.video))


class FeatureStore:
    """The feature tables on the device."""

    def __init__(self, features: Features, device: Device) -> None:
        self.schema = schema_of(features)
        self._user, self._video = (
            [device.tensor(x) for x in (t.num_XD, t.cat_XK, t.weight_XK)]
            for t in (features.user, features.video)
        )

    def batch(self, user_SB: Tensor, video_SBC: Tensor) -> Batch:
        """Inputs for users (rows of the user table) and C videos for each."""
        parts = [_rows(table, user_SB) for table in self._user]
        parts += [_rows(table, video_SBC) for table in self._video]
        return Batch(*parts)


def _rows(table_XD: Tensor, index: Tensor) -> Tensor:
    return table_XD.index_select(0, index.reshape(-1)).view(*index.shape, table_XD.shape[1])


class ReplayWorld:
    """R replications of a log's replay, each lived through by ``n_blocks`` designs at once."""

    def __init__(
        self,
        log: LogTable,
        targets: tuple[str, ...],
        store: FeatureStore,
        rows_from_U: np.ndarray,
        rows_to_U: np.ndarray,
        settings: ReplaySettings,
        device: Device,
    ) -> None:
        """Set up the replay of the rows [rows_from, rows_to) of each user.

        Args:
            log: the log.
            targets: the labels' columns in it.
            store: the features.
            rows_from_U: int64, each user's first row.
            rows_to_U: int64, the row behind the last; the same for users who do not take part.
            settings: how to draw.
            device: where slates are made; who visits is drawn on the host.
        """
        self.schema = store.schema
        self._store, self._settings, self._device = store, settings, device
        self._video_N = device.tensor(log.video_N)
        self._target_N = [device.tensor(log.targets[t]) for t in targets]
        self._start_U = torch.from_numpy(rows_from_U)
        self._n_rows_U = rows_to_U - rows_from_U
        self._replication_R = torch.tensor(settings.replications, dtype=torch.int64)
        n_replications, n_users = len(settings.replications), len(rows_from_U)
        eligible = np.flatnonzero(self._n_rows_U >= settings.min_candidates).astype(np.int32)
        self._eligible_RU = np.tile(eligible, (n_replications, 1))
        self._n_eligible_R = np.full(n_replications, len(eligible), dtype=np.int64)
        self._n_taking_part = max(1, int((self._n_rows_U > 0).sum()))
        self._n_short_R = np.full(
            n_replications,
            int(((self._n_rows_U > 0) & (self._n_rows_U < settings.n_candidates)).sum()),
        )
        # a user's visits form a chain, newest first; a visit's number is step * B + place
        self._n_visits_RU = np.zeros((n_replications, n_users), dtype=np.int32)
        self._last_visit_RU = np.full((n_replications, n_users), -1, dtype=np.int32)
        n_visits = settings.n_steps * settings.batch_size
        self._previous_RT = np.full((n_replications, n_visits), -1, dtype=np.int32)
        # what the worlds chose: the slot deleted at each visit
        self._slot_WT = torch.zeros(
            settings.n_blocks * n_replications, n_visits, dtype=torch.int32, device=device.torch
        )

    def draw(self, step: int) -> Visits | None:
        """The step's visits, drawn on the host from keys alone and from earlier draws."""
        s, rows = self._settings, np.arange(len(self._n_eligible_R))[:, None]
        n_R = torch.from_numpy(self._n_eligible_R)
        if int(n_R.max()) == 0:
            return None
        u_RB = draws.uniform(draws.key(s.seed, "users", self._replication_R, step), s.batch_size)
        place_RB = draws.choose(u_RB, n_R).numpy()
        is_visit_RB = place_RB >= 0
        user_RB = np.where(is_visit_RB, self._eligible_RU[rows, place_RB.clip(0)], 0)
        left_RB = self._n_rows_U[user_RB] - self._n_visits_RU[rows, user_RB]
        left_RB = np.where(is_visit_RB, left_RB, 0)
        u_RBC = draws.uniform(
            draws.key(
                s.seed, "slate", self._replication_R[:, None], step, torch.arange(s.batch_size)
            ),
            s.n_candidates,
        )
        slot_RBC = draws.choose(u_RBC, torch.from_numpy(left_RB))
        self._plan = self._look_back(user_RB, left_RB, slot_RBC)
        n_short = float(self._n_short_R.mean()) / self._n_taking_part
        self._record(step, rows, user_RB, left_RB, is_visit_RB, place_RB)
        to = self._device.torch
        visitor_RB = torch.from_numpy(user_RB.astype(np.int64))
        return Visits(
            step,
            self._replication_R.to(to),
            visitor_RB.to(to),
            torch.from_numpy(is_visit_RB).to(to),
            self._arm_draws(step, visitor_RB).to(to),
            torch.from_numpy(left_RB.clip(max=s.n_candidates)).to(to),
            n_short,
        )

    def _arm_draws(self, step: int, user_RB: Tensor) -> Tensor:
        s = self._settings
        if s.assignment == "user":
            keys = draws.key(s.seed, "arm of user", self._replication_R[:, None], user_RB)
            return draws.uniform(keys, 1).squeeze(-1)
        keys = draws.key(s.seed, "arm of visit", self._replication_R, step)
        return draws.uniform(keys, s.batch_size)

    def _look_back(
        self, user_RB: np.ndarray, left_RB: np.ndarray, slot_RBC: Tensor
    ) -> tuple[Tensor, ...]:
        """Slots, first rows and the users' earlier visits, on the device."""
        rows = np.arange(user_RB.shape[0])[:, None]
        chain, visit_RB = [], np.where(left_RB > 0, self._last_visit_RU[rows, user_RB], -1)
        while (visit_RB >= 0).any():
            chain.append(visit_RB)
            visit_RB = np.where(visit_RB >= 0, self._previous_RT[rows, visit_RB.clip(0)], -1)
        earlier_KRB = np.stack(chain) if chain else np.zeros((0, *user_RB.shape), dtype=np.int32)
        plan = (
            slot_RBC,
            self._start_U[torch.from_numpy(user_RB.astype(np.int64))],
            torch.from_numpy(left_RB.astype(np.int64)),
            torch.from_numpy(earlier_KRB.astype(np.int64)),
        )
        return tuple(x.to(self._device.torch) for x in plan)

    def _record(
        self,
        step: int,
        rows: np.ndarray,
        user_RB: np.ndarray,
        left_RB: np.ndarray,
        is_visit_RB: np.ndarray,
        place_RB: np.ndarray,
    ) -> None:
        """Lengthen the visitors' chains and strike those who ran out from the eligible."""
        s = self._settings
        r, b = np.nonzero(is_visit_RB)
        u = user_RB[r, b]
        visit = step * s.batch_size + b
        self._previous_RT[r, visit] = self._last_visit_RU[r, u]
        self._last_visit_RU[r, u] = visit
        self._n_visits_RU[r, u] += 1
        np.add.at(self._n_short_R, r, left_RB[r, b] == s.n_candidates)
        is_out = left_RB[r, b] <= s.min_candidates
        # from the highest place down, so that the last eligible user is never one struck later
        out = sorted(zip(r[is_out], place_RB[r, b][is_out], strict=True), reverse=True)
        for replication, place in out:
            last = self._n_eligible_R[replication] - 1
            self._eligible_RU[replication, place] = self._eligible_RU[replication, last]
            self._n_eligible_R[replication] = last

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
            deleted_WB = torch.where(visit_WB >= 0, deleted_WB, -1)
            # that deletion moved the last slot of its time, number left + k, into the hole
            moved_WB = left_WB + k
            slot_WBC = torch.where(
                slot_WBC == deleted_WB.unsqueeze(-1), moved_WB.unsqueeze(-1), slot_WBC
            )
        item_WBC = slot_WBC + start_RB.repeat(n_blocks, 1).unsqueeze(-1)
        video_WBC = self._video_N[item_WBC]
        batch = self._store.batch(visits.user_RB.repeat(n_blocks, 1), video_WBC)
        return Slate(item_WBC, video_WBC, is_candidate_WBC, batch)

    def feedback(self, visits: Visits, slate: Slate, choice_WB: Tensor) -> Tensor:
        """The chosen rows' labels W, B, L; NaN where missing or where there is no visit."""
        B = self._settings.batch_size
        at_WB1 = choice_WB.unsqueeze(-1)
        slot_WB = self._shown_WBC.gather(2, at_WB1).squeeze(-1)
        self._slot_WT[:, visits.step * B : (visits.step + 1) * B] = slot_WB.to(torch.int32)
        item_WB = slate.item_WBC.gather(2, at_WB1).squeeze(-1)
        y_WBL = torch.stack([target_N[item_WB] for target_N in self._target_N], dim=-1)
        is_visit_WB = slate.is_candidate_WBC.any(-1)
        return torch.where(is_visit_WB.unsqueeze(-1), y_WBL, torch.nan)

    def state(self) -> dict[str, Tensor]:
        """Everything that changes while running, as named tensors."""
        return {
            "eligible": torch.from_numpy(self._eligible_RU),
            "n_eligible": torch.from_numpy(self._n_eligible_R),
            "n_short": torch.from_numpy(self._n_short_R),
            "n_visits": torch.from_numpy(self._n_visits_RU),
            "last_visit": torch.from_numpy(self._last_visit_RU),
            "previous": torch.from_numpy(self._previous_RT),
            "slot": self._slot_WT,
        }
