"""The world `sequences`: users of a data set come back for the item that they had next.

A user's earlier items pretrain, the later ones are replayed one by one: the visitor's slate is the
next item among others that the user never had, drawn by popularity. An arm ranks it and shows its
best. The user takes the next item where it is shown, else nothing, and has it afterwards either
way, as the log says. So slates and histories depend on nothing that was shown: they are the same
for all designs of a replication, and worlds differ in what their models learned.

Axes: R replications, W worlds (block x replication), B visits, C candidates, K places of the list
that is shown, L outcomes, T items of a history, U users, V items, N interactions (by user, in
order of time), X visits or rows, M draws.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from realdataexp import draws
from realdataexp.config import Config
from realdataexp.device import Device
from realdataexp.errors import InputError, Warnings
from realdataexp.models import Batch, FeatureSchema, Input, SideSchema
from realdataexp.models.base import restore
from realdataexp.options import Count, PathText, check
from realdataexp.sequences.counting import Fitted
from realdataexp.sequences.formats import (
    HistoryColumns,
    ItemFile,
    SequenceData,
    find_histories,
    open_histories,
)
from realdataexp.sequences.histories import Histories, Questions, Split
from realdataexp.sequences.item_options import ItemsConfig, inputs_about, inputs_of
from realdataexp.sequences.items import Items
from realdataexp.sequences.markov import Markov
from realdataexp.sequences.popularity import Popularity
from realdataexp.sequences.shown import shown_in_loop
from realdataexp.sequences.synthetic import SyntheticSequences
from realdataexp.worlds.base import (
    Environment,
    HeldOut,
    Slate,
    Visits,
    World,
    WorldConfig,
    WorldSettings,
    shown_items,
    start_of,
)

OUTCOMES = ("hit", "reciprocal_rank", "ndcg")
_V_ELSE = 20_000  # items, as far as they are not known
_MOST_SCORES = 1 << 24  # of counting recommenders at once
_FLOAT = 4


class Sequences(ItemsConfig, WorldConfig):
    """Histories of users, in files or made from a seed."""

    has_folder: ClassVar[bool] = True

    file: PathText | None = Field(
        None, description="the file of the histories in the folder; null: the one that looks so"
    )
    format: Literal["auto", "s3rec", "inter", "table"] = Field(
        "auto",
        description="s3rec: a line `user item item ...` a user; inter: RecBole's; table: Parquet, "
        "CSV or TSV; auto: by the file's suffix",
    )
    columns: HistoryColumns = Field(HistoryColumns(), description="columns of a table of histories")
    items: ItemFile = Field(ItemFile(), description="the table of items")
    synthetic: SyntheticSequences | None = Field(
        None, description="instead of files: histories made from a seed"
    )
    history: Annotated[int, Field(ge=1, le=1000)] = Field(
        20, description="the user's last items, so many, that models see"
    )
    n_shown: Count = Field(1, description="how many of its best candidates an arm shows")
    candidate_power: float = Field(
        0.75,
        ge=0,
        le=4,
        description="candidates are drawn by (1 + their number of pretraining rows) to this power",
    )
    negatives: Count = Field(
        4, description="rows of items that did not come, for each that did, in pretraining"
    )

    # --- before it is open -------------------------------------------------------------------

    def faults(self, config: Config) -> list[str]:
        """Outcomes, sizes and arms that do not fit, and files that are not there."""
        found = [
            f"{where} = {target!r}: {self.name} has the outcomes {', '.join(OUTCOMES)}"
            for target, where in config.targets.items()
            if target not in OUTCOMES
        ]
        C, rows = config.simulation.n_candidate, config.pretrain.rows
        if self.n_shown > C:
            found.append(
                f"dataset.n_shown = {self.n_shown}: must be at most simulation.n_candidate, which "
                f"is {C}"
            )
        if self.n_shown > 1 and any(
            x.explore.kind != "none" or x.rule == "random" for x in config.policies()
        ):
            found.append(
                f"dataset.n_shown = {self.n_shown}: the propensity of a list is not known where an "
                "arm explores; show 1, or explore not"
            )
        if rows not in ("auto", "share"):
            found.append(f"pretrain.rows = {rows!r}: has no meaning in {self.name}; use share")
        try:
            self.found(config)
        except InputError as error:
            found += error.faults
        return found

    def data(self, config: Config) -> SequenceData:
        """Where the histories are."""
        path, own = config.data_dir(), ("file", "format", "columns", "items", "synthetic")
        if path is not None and self.synthetic is not None:
            raise InputError(
                f"dataset.synthetic: stands next to the folder {path}: keep one of the two"
            )
        fields = type(self).model_fields
        given = {name: x for name in own if (x := getattr(self, name)) != fields[name].default}
        given["path"] = None if path is None else str(path)
        return check(SequenceData, given, "dataset")

    def found(self, config: Config) -> tuple[str, list[Path]]:
        """The file of the histories."""
        data = self.data(config)
        if data.synthetic is not None:
            return super().found(config)
        path = find_histories(data)
        return f"{path}: histories", [path]

    def open(self, config: Config, device: Device, warnings: Warnings) -> SequenceEnvironment:
        """The histories, split for each start."""
        histories, items = open_histories(self.data(config))
        if histories.n_items < config.simulation.n_candidate:
            raise InputError(
                f"simulation.n_candidate = {config.simulation.n_candidate}: the data have "
                f"{histories.n_items:,} items; use at most so many"
            )
        return SequenceEnvironment(self, histories, items, config, device, warnings)

    def inputs(self, config: Config) -> FeatureSchema:
        """About what models will see: items and codes are counted when the world is open."""
        n_items = self.synthetic.items if self.synthetic is not None else _V_ELSE
        return _schema(self.history, n_items, inputs_about(self))

    def made_bytes(self, config: Config, n_inputs: int) -> int:
        """Of the visits' order, of counting recommenders' scores, and of a validation."""
        loop, R = config.simulation, config.experiment.replications
        n_visits = config.validation.validation_batches * loop.batch_size
        order = R * loop.n_steps * loop.batch_size * 8
        return order + 3 * _MOST_SCORES * _FLOAT + n_visits * (loop.n_candidate + self.history) * 16

    def sizes(self) -> list[tuple[str, int, int]]:
        """Items of a history, and users that are made."""
        made = self.synthetic or SyntheticSequences()
        return [
            ("dataset.history", self.history, 50),
            ("dataset.synthetic.users", made.users, 20_000),
        ]


def _schema(T: int, V: int, shown: Mapping[str, Input]) -> FeatureSchema:
    """What models see: an item and what is shown of it, and the user's last ones."""
    video = SideSchema(0, (("item", 0, 1),), V, first_ids=(0,))
    return FeatureSchema(SideSchema(0, (), 0), video, shown).with_history(T)


# --- the data, split -----------------------------------------------------------------------------


class SequenceEnvironment(Environment):
    """Histories, split: see Environment.

    What candidates are drawn by is counted in the first start's pretraining rows. The recommenders
    that margins are over, and items' vectors and codes, are of these rows too.
    """

    has_memory = False

    def __init__(
        self,
        options: Sequences,
        histories: Histories,
        items: Items,
        config: Config,
        device: Device,
        warnings: Warnings,
    ) -> None:
        """Split users and their items.

        Raises:
            InputError: a part would be empty, or vectors or codes cannot be made.
        """
        self.options, self.histories, self.device, self.seed = (
            options,
            histories,
            device,
            config.seed,
        )
        self.n_items, V = histories.n_items, histories.n_items
        self.n_shown = options.n_shown
        start_U, self.end_U = histories.offset_U1[:-1], histories.offset_U1[1:]
        n_early_U = np.maximum(1, (self.end_U - start_U) * config.pretrain.share).astype(np.int64)
        self.early_U = np.minimum(start_U + n_early_U, self.end_U)
        self.starts = [
            self._is_training(config, start) for start in range(config.experiment.n_starts)
        ]
        for start in range(len(self.starts)):
            self._check(config, start)
        self.tables = {
            "cat": device.tensor(np.arange(V, dtype=np.int32)[:, None]),
            "weight": torch.ones(V, 1, device=device.torch),
        }
        seed = draws.start_seed(self.seed, 0)
        shown = shown_in_loop(
            options, self._pretraining_split(), items, seed, warnings, config.path
        )
        self.tables |= {name: device.tensor(x_VX) for name, x_VX in shown.items()}
        self.schema = _schema(options.history, V, inputs_of(shown))
        count_V = self.popularity(0)
        self._total_V = np.cumsum((1.0 + count_V) ** options.candidate_power)
        self._had = np.sort(histories.user_N.astype(np.int64) * V + histories.item_N)

    def _is_training(self, config: Config, start: int) -> np.ndarray:
        key = draws.key(draws.start_seed(config.seed, start), "split")
        held_out = draws.chance(key, self.histories.n_users, config.simulation.user_p_val)
        return ~held_out.numpy()

    def _check(self, config: Config, start: int) -> None:
        parts = self.pretrain_places(start), self.replay_places(start), self._held_out_users(start)
        early, late, users = map(len, parts)
        if not (early and late and users):
            raise InputError(
                f"pretrain.share = {config.pretrain.share:g}: leaves {early:,} items to pretrain "
                f"on and {late:,} to replay, and simulation.user_p_val {users:,} users to validate "
                "on, each must be more than 0; use longer histories, or other shares"
            )

    def pretrain_places(self, start: int) -> np.ndarray:
        """Where the items stand that training users had early, but for each one's first."""
        return self._places(self.histories.offset_U1[:-1] + 1, self.early_U, start)

    def replay_places(self, start: int) -> np.ndarray:
        """Where the items stand that training users had later."""
        return self._places(self.early_U, self.end_U, start)

    def _places(self, from_U: np.ndarray, to_U: np.ndarray, start: int) -> np.ndarray:
        place_N, user_N = np.arange(len(self.histories.item_N)), self.histories.user_N
        is_in_N = (place_N >= from_U[user_N]) & (place_N < to_U[user_N])
        return place_N[is_in_N & self.starts[start][user_N]]

    def _held_out_users(self, start: int) -> np.ndarray:
        n_U = self.end_U - self.histories.offset_U1[:-1]
        return np.flatnonzero(~self.starts[start] & (n_U > 1))

    def rivals(self) -> dict[str, Fitted]:
        """Counting recommenders, fitted on the first start's pretraining rows."""
        split = self._pretraining_split()
        return {"markov": Markov().fit(split), "popularity": Popularity().fit(split)}

    def _pretraining_split(self) -> Split:
        """What the first start pretrains on, and no questions."""
        nobody = Questions(*np.zeros((2, 0), dtype=np.int64))
        early_U = np.where(self.starts[0], self.early_U, self.histories.offset_U1[:-1])
        return Split(self.histories, early_U, nobody, nobody)

    # --- what models see ---------------------------------------------------------------------

    def past(self, place_X: np.ndarray) -> np.ndarray:
        """The items before some places, the latest first, -1 before a user's first: X, T."""
        before_XT = place_X[..., None] - 1 - np.arange(self.options.history)
        first_X1 = self.histories.offset_U1[self.histories.user_N[place_X]][..., None]
        return np.where(before_XT >= first_X1, self.histories.item_N[before_XT.clip(0)], -1)

    def batch(self, place_SB: np.ndarray, item_SBC: np.ndarray) -> Batch:
        """Inputs for candidates (-1 for padding) of visits, whose users come to these places."""
        candidate = self._rows("video", item_SBC)
        candidate["video_num"] = candidate["video_weight"][..., :0]
        past_SBT = self.past(place_SB)
        sequence = self._rows("history", past_SBT)
        sequence["history_mask"] = sequence["history_weight"][..., 0]
        return Batch(candidate=candidate, sequence=sequence)

    def _rows(self, side: str, item_X: np.ndarray) -> dict[str, Tensor]:
        item, is_none = self.device.tensor(item_X.clip(0)), self.device.tensor(item_X < 0)
        return {
            f"{side}_{name}": table[item].masked_fill(is_none.unsqueeze(-1), 0)
            for name, table in self.tables.items()
        }

    def slates(self, keys_X: Tensor, place_X: np.ndarray, C: int) -> np.ndarray:
        """The items that came at some places, each among others that its user never had: X, C.

        They are drawn with replacement, and what has been drawn is left out; where the draws do
        not suffice the slate is shorter, -1 at its end. The item's place is drawn too.
        """
        M, V = 4 * C + 8, self.histories.n_items
        u_XM = draws.uniform(keys_X, M + 1).numpy()
        drawn_XM = np.searchsorted(self._total_V, u_XM[:, 1:] * self._total_V[-1], side="right")
        pair_XM = self.histories.user_N[place_X].astype(np.int64)[:, None] * V + drawn_XM
        at_XM = np.searchsorted(self._had, pair_XM).clip(max=len(self._had) - 1)
        is_out_XM = (self._had[at_XM] == pair_XM) | _is_repeated(drawn_XM)
        order_XC = np.argsort(is_out_XM, axis=1, kind="stable")[:, : C - 1]
        other_XC = np.take_along_axis(np.where(is_out_XM, -1, drawn_XM), order_XC, 1)
        item_XC = np.concatenate([self.histories.item_N[place_X][:, None], other_XC], axis=1)
        at_X = (u_XM[:, 0] * (item_XC >= 0).sum(1)).astype(np.int64)
        rows_X = np.arange(len(item_XC))
        item_XC[rows_X, 0], item_XC[rows_X, at_X] = item_XC[rows_X, at_X], item_XC[rows_X, 0].copy()
        return item_XC

    # --- what an experiment asks -------------------------------------------------------------

    def pretraining(self, targets: Sequence[str], start: int) -> SequenceRows:
        """Each early item of a training user, and others that did not come."""
        return SequenceRows(self, self.pretrain_places(start), len(targets), start)

    def label_values(self, target: str) -> Iterator[np.ndarray]:
        """One item in so many came."""
        n = len(self.pretrain_places(0))
        yield np.repeat([1.0, 0.0], [n, n * self.options.negatives])

    def held_out(
        self, targets: Sequence[str], n_visits: int, n_candidates: int, start: int
    ) -> HeldOut:
        """Some held-out users, each asked for one of their items but the first."""
        seed, users = draws.start_seed(self.seed, start), self._held_out_users(start)
        user_B = users[draws.subset(draws.key(seed, "held-out users"), len(users), n_visits)]
        keys_B = draws.key(seed, "held-out slate", torch.from_numpy(user_B))
        first_B = self.histories.offset_U1[user_B] + 1
        u_B = draws.uniform(draws.key(seed, "held-out item", torch.from_numpy(user_B)), 1)[:, 0]
        place_B = first_B + (u_B.numpy() * (self.end_U[user_B] - first_B)).astype(np.int64)
        item_BC = self.slates(keys_B, place_B, n_candidates)
        is_next_BC = item_BC == self.histories.item_N[place_B][:, None]
        y_BCL = np.repeat(is_next_BC[..., None].astype(np.float32), len(targets), axis=-1)
        y_BCL[item_BC < 0] = np.nan
        tensor = self.device.tensor
        return HeldOut(
            self.batch(place_B[None], item_BC[None]),
            tensor(y_BCL),
            tensor(item_BC >= 0),
            len(user_B),
            tensor(item_BC.clip(0)),
        )

    def world(self, targets: Sequence[str], settings: WorldSettings) -> SequenceWorld:
        """The replay of what each start's training users had later."""
        return SequenceWorld(self, targets, settings)

    def history(self, targets: Sequence[str], start: int) -> np.ndarray:
        """Nobody was shown anything before the test: NaN, U, L."""
        return np.full((self.histories.n_users, len(targets)), np.nan)

    def popularity(self, start: int) -> np.ndarray:
        """How often training users had each item early: V."""
        places = self._places(self.histories.offset_U1[:-1], self.early_U, start)
        return np.bincount(self.histories.item_N[places], minlength=self.histories.n_items)

    def stats(self) -> dict[str, Any]:
        """Counts of the histories, and of the first start's split."""
        return {
            "n_rows": len(self.histories.item_N),
            "n_users": self.histories.n_users,
            "n_items": self.histories.n_items,
            "n_training_users": int(self.starts[0].sum()),
            "n_pretrain_rows": len(self.pretrain_places(0)) * (1 + self.options.negatives),
            "n_replay_rows": len(self.replay_places(0)),
        }

    def identity(self) -> dict[str, Any]:
        """A hash of who had what, in order, and of what is shown of items."""
        digest, tables = hashlib.sha256(), [x.cpu().numpy() for x in self.tables.values()]
        for x in (self.histories.offset_U1, self.histories.item_N, *tables):
            digest.update(np.ascontiguousarray(x).tobytes())
        return {"rows": len(self.histories.item_N), "digest": digest.hexdigest()}

    def description(self) -> list[str]:
        """The data in a few lines."""
        n = self.stats()
        return [
            f"histories: {n['n_rows']:,} rows, {n['n_users']:,} users, {n['n_items']:,} items",
            f"pretraining: {n['n_pretrain_rows']:,} rows; {n['n_replay_rows']:,} visits to replay",
        ]


def _is_repeated(x_XM: np.ndarray) -> np.ndarray:
    """Which numbers of a row stand in it before."""
    order_XM = np.argsort(x_XM, axis=1, kind="stable")
    ordered_XM = np.take_along_axis(x_XM, order_XM, 1)
    is_repeated_XM = np.zeros(x_XM.shape, dtype=bool)
    is_same_XM = ordered_XM[:, 1:] == ordered_XM[:, :-1]
    np.put_along_axis(is_repeated_XM, order_XM[:, 1:], is_same_XM, 1)
    return is_repeated_XM


class SequenceRows:
    """Items that came next, each followed by others that did not; see worlds.base.RowSource.

    All outcomes are those of a list of one: 1 for what came, else 0.
    """

    def __init__(
        self, environment: SequenceEnvironment, place_X: np.ndarray, n_targets: int, start: int
    ) -> None:
        self._environment, self._place_X, self._n_targets = environment, place_X, n_targets
        self._n_each = 1 + environment.options.negatives
        self._seed = draws.start_seed(environment.seed, start)
        self.n_rows = len(place_X) * self._n_each

    def read(self, place_B: np.ndarray) -> tuple[Batch, list[Tensor]]:
        """Inputs (S = 1, C = 1) and each label's values 1, B."""
        which_B, number_B = np.divmod(place_B, self._n_each)
        at_B = self._place_X[which_B]
        keys_B = draws.key(self._seed, "negatives", torch.from_numpy(place_B))
        slate_B2 = self._environment.slates(keys_B, at_B, 2)
        came_B = self._environment.histories.item_N[at_B]
        other_B = np.where(slate_B2[:, 0] == came_B, slate_B2[:, 1], slate_B2[:, 0])
        is_next_B = number_B == 0
        batch = self._environment.batch(
            at_B[None], np.where(is_next_B, came_B, other_B)[None, :, None]
        )
        # a user who had nearly all there is may leave no other item
        y_B = np.where((other_B < 0) & ~is_next_B, np.nan, is_next_B).astype(np.float32)
        return batch, [self._environment.device.tensor(y_B[None])] * self._n_targets


# --- the world -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """A step's slates: places of the next items R, B, items R, B, C, and the next ones R, B."""

    place_RB: np.ndarray
    item_RBC: np.ndarray
    next_RB: Tensor


class SequenceWorld(World):
    """R replications; all designs of one are offered the same."""

    def __init__(
        self, environment: SequenceEnvironment, targets: Sequence[str], settings: WorldSettings
    ) -> None:
        """Put each replication's visits in an order: users at random, their items by time."""
        self.environment, self.settings = environment, settings
        self.n_shown = environment.n_shown
        self._outcomes = [OUTCOMES.index(name) for name in targets]
        self._replication_R = torch.tensor(settings.replications)
        n_visits = settings.n_steps * settings.batch_size
        self._place_RT = np.full((len(settings.replications), n_visits), -1, dtype=np.int64)
        for i, r in enumerate(settings.replications):
            place_N = environment.replay_places(int(start_of(r, len(environment.starts))))
            order_N = draws.permutation(draws.key(settings.seed, "visits", r), len(place_N)).numpy()
            drawn_N = environment.histories.user_N[place_N[order_N]]
            visit_N = np.empty_like(place_N)
            visit_N[np.argsort(drawn_N, kind="stable")] = place_N
            self._place_RT[i, : len(visit_N)] = visit_N[:n_visits]
        self._rivals = environment.rivals()
        self._n_drawn = torch.tensor(0)
        self._rank_WB: Tensor | None = None

    @property
    def has_visitors(self) -> bool:
        """Whether any replication has a visit left."""
        first = int(self._n_drawn) * self.settings.batch_size
        return bool((self._place_RT[:, first : first + 1] >= 0).any())

    def draw(self, step: int) -> Visits:
        """The step's visits, their slates and arms, from keys alone."""
        s, environment = self.settings, self.environment
        B, tensor = s.batch_size, environment.device.tensor
        self._n_drawn.fill_(step + 1)
        place_RB = self._place_RT[:, step * B : (step + 1) * B]
        is_visit_RB, place_RB = place_RB >= 0, place_RB.clip(0)
        user_RB = np.where(is_visit_RB, environment.histories.user_N[place_RB], 0).astype(np.int64)
        R, C = len(place_RB), s.n_candidates
        keys_RB = draws.key(s.seed, "slate", self._replication_R[:, None], step, torch.arange(B))
        item_XC = environment.slates(keys_RB.flatten(), place_RB.ravel(), C)
        item_RBC = np.where(is_visit_RB[..., None], item_XC.reshape(R, B, C), -1)
        next_RB = tensor(environment.histories.item_N[place_RB].astype(np.int64))
        self._plan = _Plan(place_RB, item_RBC, next_RB)
        return Visits(
            step,
            tensor(self._replication_R.numpy()),
            tensor(user_RB),
            tensor(is_visit_RB),
            tensor(self._arms(step, torch.from_numpy(user_RB)).numpy()),
            tensor((item_RBC >= 0).sum(-1)),
            torch.zeros(R, dtype=torch.float64),
        )

    def _arms(self, step: int, user_RB: Tensor) -> Tensor:
        s = self.settings
        if s.assignment == "user":
            keys_RB = draws.key(s.seed, "arm of user", self._replication_R[:, None], user_RB)
            return draws.uniform(keys_RB, 1).squeeze(-1)
        keys_R = draws.key(s.seed, "arm of visit", self._replication_R, step)
        return draws.uniform(keys_R, s.batch_size)

    def slate(self, visits: Visits) -> Slate:
        """The next item among others, the same for all designs of a replication."""
        plan, n_blocks = self._plan, self.settings.n_blocks
        item_WBC = self.environment.device.tensor(plan.item_RBC).repeat(n_blocks, 1, 1)
        video_WBC = item_WBC.clamp_min(0)
        batch = self.environment.batch(plan.place_RB, plan.item_RBC)
        return Slate(video_WBC, video_WBC, item_WBC >= 0, batch)

    def taken(self, visits: Visits, slate: Slate, shown_WBK: Tensor) -> Tensor:
        """The next item where it is shown, else the first that is."""
        is_next_WBK = shown_items(slate, shown_WBK) == self._next_WB.unsqueeze(-1)
        self._rank_WB = is_next_WBK.int().argmax(-1)
        return shown_WBK.gather(2, self._rank_WB.unsqueeze(-1)).squeeze(-1)

    @property
    def _next_WB(self) -> Tensor:
        return self._plan.next_RB.repeat(self.settings.n_blocks, 1)

    def feedback(self, visits: Visits, slate: Slate, choice_WB: Tensor) -> Tensor:
        """Whether the list held the next item, and by its place there: W, B, L."""
        item_WB = slate.video_WBC.gather(2, choice_WB.unsqueeze(-1)).squeeze(-1)
        rank_WB = torch.zeros_like(item_WB) if self._rank_WB is None else self._rank_WB
        gains = torch.ones_like(rank_WB), 1 / (1 + rank_WB), 1 / torch.log2(2.0 + rank_WB)
        gain_WBL = torch.stack([gains[i].float() for i in self._outcomes], dim=-1)
        y_WBL = gain_WBL * (item_WB == self._next_WB).unsqueeze(-1)
        return torch.where(slate.is_candidate_WBC.any(-1, keepdim=True), y_WBL, torch.nan)

    def exposure(self, visits: Visits, slate: Slate, shown_WBK: Tensor) -> dict[str, Tensor]:
        """The items shown, and how much oftener than a counting recommender's they were right."""
        item_WBK = shown_items(slate, shown_WBK)
        hit_WB = (item_WBK == self._next_WB.unsqueeze(-1)).any(-1).float()
        found = {"item": item_WBK}
        for name, hit_RB in self._rival_hits().items():
            found[f"margin_{name}"] = hit_WB - hit_RB.repeat(self.settings.n_blocks, 1)
        return found

    def _rival_hits(self) -> dict[str, Tensor]:
        """Whether the K best of each counting recommender hold the next item: R, B."""
        plan, environment = self._plan, self.environment
        C = plan.item_RBC.shape[-1]
        item_XC, next_X1 = plan.item_RBC.reshape(-1, C), plan.next_RB.cpu().numpy().reshape(-1, 1)
        past_XT = environment.past(plan.place_RB.ravel())[:, ::-1]
        past_XT = np.take_along_axis(past_XT, np.argsort(past_XT < 0, axis=1, kind="stable"), 1)
        size, found = max(1, _MOST_SCORES // environment.histories.n_items), {}
        for name, rival in self._rivals.items():
            parts = [
                np.take_along_axis(rival.scores(past_XT[own]), item_XC[own].clip(0), 1)
                for own in (slice(i, i + size) for i in range(0, len(past_XT), size))
            ]
            score_XC = np.where(item_XC >= 0, np.concatenate(parts), -np.inf)
            best_XK = np.argsort(-score_XC, axis=1, kind="stable")[:, : self.n_shown]
            hit_X = (np.take_along_axis(item_XC, best_XK, 1) == next_X1).any(1)
            hit_RB = hit_X.astype(np.float32).reshape(plan.place_RB.shape)
            found[name] = environment.device.tensor(hit_RB)
        return found

    def state(self) -> dict[str, Tensor]:
        """How many steps were drawn: nothing else that comes depends on what was."""
        return {"n_drawn": self._n_drawn}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See World."""
        restore(self.state(), tensors)
        if not 0 <= int(self._n_drawn) <= self.settings.n_steps:
            raise ValueError(f"world: drew {int(self._n_drawn)} of {self.settings.n_steps} steps")
