"""What every world gives the loop.

Axes: R replications, W worlds (block x replication), B visits, C candidates, K places of a list
that is shown, L labels.

What does not depend on the worlds' own pasts (who visits, which slots a slate shows, the draws of
the arms) is drawn once per replication and shared by all blocks: common random numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from realdataexp.config import Config
from realdataexp.config.dataset import DatasetConfig
from realdataexp.device import Device
from realdataexp.errors import InputError, Warnings
from realdataexp.models import Batch, FeatureSchema, SideSchema
from realdataexp.models.base import restore

_ROWS_AT_ONCE = 1 << 22
_USUAL_INPUTS = 16
RAW_TIME, _RAW_OTHER = 1e4, 0.3  # milliseconds; a probability, or a small number
_Numbers = TypeVar("_Numbers", int, np.ndarray, Tensor)


@dataclass(frozen=True)
class Visits:
    """The exogenous part of a step, on the device.

    Attributes:
        step: counted from 0.
        replication_R: the replications' numbers.
        user_RB: the visitors, as rows of the user table; 0 where there is none.
        is_visit_RB: whether there is a visit; the rest is padding.
        arm_draw_RB: U[0, 1); a visit is treated by default where this is below p.
        n_candidates_RB: candidates on the slate, at most C.
        share_short_R: share of training users with fewer than C unused rows left before this
            step; float64, on the host.
    """

    step: int
    replication_R: Tensor
    user_RB: Tensor
    is_visit_RB: Tensor
    arm_draw_RB: Tensor
    n_candidates_RB: Tensor
    share_short_R: Tensor


@dataclass(frozen=True)
class Slate:
    """What every world's visitors are offered.

    Attributes:
        item_WBC: the candidates' log rows (replay), or numbers of their own; those behind
            ``n_candidates`` are padding.
        video_WBC: the candidates' videos, as rows of the video table or numbers of their own.
        is_candidate_WBC: False for padding.
        batch: the candidates' features, a network's inputs: S = W, or S = R where all designs
            of a replication are offered the same.
    """

    item_WBC: Tensor
    video_WBC: Tensor
    is_candidate_WBC: Tensor
    batch: Batch

    def part(self, worlds: slice) -> Slate:
        """The slates of some worlds of one block."""
        return Slate(
            self.item_WBC[worlds],
            self.video_WBC[worlds],
            self.is_candidate_WBC[worlds],
            self.batch[own_rows(worlds, self.batch.shape[0])],
        )


def shown_items(slate: Slate, shown_WBK: Tensor) -> Tensor:
    """The videos of the candidates shown, -1 for padding: W, B, K."""
    is_none_WBK = ~slate.is_candidate_WBC.gather(2, shown_WBK)
    return slate.video_WBC.gather(2, shown_WBK).masked_fill(is_none_WBK, -1)


def own_rows(worlds: slice, n: int) -> slice:
    """Where some worlds of one block find their features among n: one a world or replication."""
    start = worlds.start % n
    return slice(start, start + worlds.stop - worlds.start)


@dataclass(frozen=True)
class WorldSettings:
    """How a world draws.

    Attributes:
        seed: of all draws.
        replications: the replications' numbers; a result depends on the number, not on which
            others run beside it.
        n_blocks: designs that live through each replication.
        batch_size: B, visits a step.
        n_candidates: C.
        n_steps: most steps.
        min_candidates: a user with fewer unused rows is not drawn.
        assignment: "user" draws the arm once per user, "visit" anew at each visit.
        n_slices: of the log's calendar, one after the other; 1: rows are drawn whatever their time.
    """

    seed: int
    replications: tuple[int, ...]
    n_blocks: int
    batch_size: int
    n_candidates: int
    n_steps: int
    min_candidates: int
    assignment: str
    n_slices: int = 1


@dataclass(frozen=True)
class HeldOut:
    """Visits of users who are held out, with every candidate's labels: what validation looks at.

    Attributes:
        batch: the candidates' features (S = 1).
        y_BCL: their labels, NaN where missing.
        is_candidate_BC: False for padding.
        n_users: how many different users they are.
        video_BC: the candidates' videos, as in a Slate; None where all are new ones.
    """

    batch: Batch
    y_BCL: Tensor
    is_candidate_BC: Tensor
    n_users: int
    video_BC: Tensor | None = None

    @property
    def n_rows(self) -> int:
        """Candidates, of all visits."""
        return int(self.is_candidate_BC.sum())

    def padded(self, n_visits: int) -> HeldOut:
        """The same, with visits without candidates up to a number of visits."""
        n_more = n_visits - len(self.y_BCL)
        place_B = torch.arange(n_visits, device=self.y_BCL.device).clamp_max(len(self.y_BCL) - 1)
        y_BCL, is_candidate_BC = self.y_BCL[place_B], self.is_candidate_BC[place_B]
        if n_more:
            y_BCL[-n_more:], is_candidate_BC[-n_more:] = torch.nan, False
        video_BC = None if self.video_BC is None else self.video_BC[place_B]
        return HeldOut(self.batch.visits(place_B), y_BCL, is_candidate_BC, self.n_users, video_BC)


class RowSource(Protocol):
    """Rows with known labels, to train on."""

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        ...

    def read(self, place_B: np.ndarray) -> tuple[Batch, list[Tensor]]:
        """Inputs (S = 1, C = 1) and each label's values 1, B of some of the rows."""
        ...


class Environment(ABC):
    """What a data set, or a simulator, gives an experiment.

    A *start* is a starting model with its own pretraining rows and its own split of users; starts
    count from 0, and replication r belongs to ``start_of(r)``. What scales features and labels is
    of the first start: all replications test the same two policies.

    Attributes:
        schema: what models see.
        has_exchangeable_candidates: whether all candidates are independent and alike.
        has_memory: whether a slate depends on what its user was recommended before.
        n_items: how many items there are, where ``World.exposure`` numbers them.
        n_shown: K, candidates that an arm shows: one, or the list of its best.
    """

    schema: FeatureSchema
    has_exchangeable_candidates: bool = False
    has_memory: bool = True
    n_items: int | None = None
    n_shown: int = 1

    def label_values(self, target: str) -> Iterator[np.ndarray]:
        """All values of a label on training rows, in blocks (float64, without missing ones)."""
        rows = self.pretraining((target,), 0)
        for first in range(0, rows.n_rows, _ROWS_AT_ONCE):
            place_N = np.arange(first, min(first + _ROWS_AT_ONCE, rows.n_rows))
            y_N = rows.read(place_N)[1][0][0].cpu().double().numpy()
            yield y_N[np.isfinite(y_N)]

    @abstractmethod
    def pretraining(self, targets: Sequence[str], start: int) -> RowSource:
        """Rows for a starting model; its worlds replay none of them (but see pretrain.rows)."""

    @abstractmethod
    def held_out(
        self, targets: Sequence[str], n_visits: int, n_candidates: int, start: int
    ) -> HeldOut:
        """At most ``n_visits`` visits of users whom a start holds out, each user once."""

    @abstractmethod
    def world(self, targets: Sequence[str], settings: WorldSettings) -> World:
        """R replications for ``settings.n_blocks`` designs; outcomes are the targets."""

    def tastes(self, start: int) -> np.ndarray | None:
        """What each user watched before the test, U, D; None where every visit is a new user."""
        return None

    def history(self, targets: Sequence[str], start: int) -> np.ndarray | None:
        """Each user's mean of each label before the test: float64 U, L, NaN without any.

        None where every visit is a new user.
        """
        return None

    def popularity(self, start: int) -> np.ndarray | None:
        """Each video's number of pretraining rows: V; None where every video is a new one."""
        return None

    def stats(self) -> dict[str, Any]:
        """Counts for result.json."""
        return {}

    def identity(self) -> dict[str, Any]:
        """What tells these data from others, as JSON, wherever their files are.

        Nothing, where the config says all.
        """
        return {}

    def description(self) -> list[str]:
        """The data in a few lines."""
        return []


class World(ABC):
    """R replications of one environment, each lived through by ``n_blocks`` designs at once."""

    @property
    def has_visitors(self) -> bool:
        """Whether any replication has a visitor left."""
        return True

    @abstractmethod
    def draw(self, step: int) -> Visits:
        """The step's visits, padding where nobody is left. Called once a step."""

    @abstractmethod
    def slate(self, visits: Visits) -> Slate:
        """Each world's candidates, after what that world has used."""

    def taken(self, visits: Visits, slate: Slate, shown_WBK: Tensor) -> Tensor:
        """Of the candidates shown, the one that ``feedback`` is about: W, B.

        It is what the models learn from: what the user took, or the first where that is nothing.
        """
        return shown_WBK[..., 0]

    def exposure(self, visits: Visits, slate: Slate, shown_WBK: Tensor) -> dict[str, Tensor]:
        """What to report of what was shown; by default nothing.

        Returns:
            ``item``, the items W, B, K, -1 for none, which `Environment.n_items` counts; and by
            other names numbers of each visit, W, B.
        """
        return {}

    @abstractmethod
    def feedback(self, visits: Visits, slate: Slate, choice_WB: Tensor) -> Tensor:
        """The chosen candidates' true labels W, B, L (NaN = missing); they count as used."""

    def state(self) -> dict[str, Tensor]:
        """Everything that changes while running, by name; a world without memory has nothing."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Replace the state by one of a world with the same settings.

        Raises:
            ValueError: a tensor's name, shape or type is not that of this world's state.
        """
        restore(self.state(), tensors)


class WorldConfig(DatasetConfig):
    """A world as a config names it: its options, and all that is asked of it before it is open.

    Its fields are the options, which a config writes in the section ``dataset``, with ``name``.
    ``takes_features``: whether the config lists features. ``has_folder``: whether there are files,
    in the folder ``dataset.path``.
    """

    @abstractmethod
    def open(self, config: Config, device: Device, warnings: Warnings) -> Environment:
        """The environment of all starts.

        Raises:
            InputError: the data, or what the config asks of them, are wrong.
        """

    def faults(self, config: Config) -> list[str]:
        """Why the world cannot be opened, as far as can be told without: a line each.

        A line begins with the config path that causes it.
        """
        return []

    def doubts(self, config: Config) -> list[tuple[str, str]]:
        """What is doubtful before the world is open: code and message of each warning.

        Raises:
            InputError: the config forbids what it asks for.
        """
        return []

    def found(self, config: Config) -> tuple[str, list[Path]]:
        """What there is, in a line, and the files that an import would read.

        Only asked where there are no ``faults``.

        Raises:
            InputError: files are damaged.
        """
        return "made by realdataexp: no files needed", []

    def prepare(
        self, config: Config, cache_path: Path, force: bool
    ) -> tuple[str, Mapping[str, Any]]:
        """Import the data into the cache; a title, and counts of what is in them.

        Raises:
            InputError: there is nothing to import, or something is wrong with it.
        """
        raise InputError(f"dataset.name = {self.name!r}: the data set has no files to import")

    def inputs(self, config: Config) -> FeatureSchema:
        """About what models will see, to estimate the memory of a run."""
        return FeatureSchema(SideSchema(0, (), 0), SideSchema(_USUAL_INPUTS, (), 0))

    def made_bytes(self, config: Config, n_inputs: int) -> int:
        """Memory for data that are made, and for visits of a validation, of n numbers a row."""
        return 0

    def sizes(self) -> list[tuple[str, int, int]]:
        """The options that memory grows with: config path, value, and what is usual."""
        return []

    def scatter(self, target: str) -> float:
        """About how far predictions of a label scatter, in its own units."""
        return RAW_TIME if target.endswith("_ms") else _RAW_OTHER


def first_step(p: int, n_steps: int, n_slices: int) -> int:
    """The step at which a slice begins: the steps are shared out as evenly as can be."""
    return -(-p * n_steps // n_slices)


def start_of(replication: _Numbers, n_starts: int) -> _Numbers:
    """The start that a replication begins from; it does not depend on how many replications run."""
    return replication % n_starts
