"""Worlds without memory: each visit is a new user, whose candidates are fresh items.

A world is then two functions: what models see of an item, and what comes of recommending it. Both
are of uniform numbers, so that what happens is a function of (seed, replication, step): items are
independent and alike, and all designs of a replication are offered the same with the same luck.

Axes: X any, R replications, W worlds, B visits or rows, C candidates, E draws, D features,
L outcomes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.config import Config
from realdataexp.device import Device
from realdataexp.errors import Warnings
from realdataexp.models import Batch, FeatureSchema, SideSchema
from realdataexp.worlds.base import (
    Environment,
    HeldOut,
    Slate,
    Visits,
    World,
    WorldConfig,
    WorldSettings,
)

_DRAWN, _FLOAT = 16, 4  # bytes of a number while it is drawn, and afterwards


class Simulator(WorldConfig):
    """A world of two functions, ``items`` and ``respond``; see WorldConfig for its options."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of what models see of an item, in the order of ``items``."""
        raise NotImplementedError(f"{type(self).__name__} names no features")

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of what a label's target may be, in the order of ``respond``."""
        raise NotImplementedError(f"{type(self).__name__} names no outcomes")

    @property
    def n_item_draws(self) -> int:
        """Uniform numbers that make an item."""
        return len(self.features)

    @property
    def n_response_draws(self) -> int:
        """Uniform numbers that decide what comes of it."""
        return len(self.outcomes)

    @property
    def n_pretrain_rows(self) -> int:
        """Random items that starting models learn from."""
        return 20_000

    @abstractmethod
    def items(self, u_XE: Tensor) -> Tensor:
        """What models see of items: float32 X, D, from ``n_item_draws`` uniform numbers each."""

    @abstractmethod
    def respond(self, item_XD: Tensor, u_XE: Tensor) -> Tensor:
        """The outcomes of recommended items: float32 X, L, from ``n_response_draws`` numbers."""

    def faults(self, config: Config) -> list[str]:
        """Targets that are no outcome."""
        return [
            f"{where} = {target!r}: {self.name} has the outcomes {', '.join(self.outcomes)}"
            for target, where in config.targets.items()
            if target not in self.outcomes
        ]

    def open(self, config: Config, device: Device, warnings: Warnings) -> SimulatedEnvironment:
        """The environment; nothing can be wrong with it."""
        return SimulatedEnvironment(self, config.seed, device)

    def inputs(self, config: Config | None = None) -> FeatureSchema:
        """What models see: everything is on the video's side."""
        n = len(self.features)
        return FeatureSchema(SideSchema(0, (), 0), SideSchema(n, (), 0, numerical=self.features))

    def made_bytes(self, config: Config, n_inputs: int) -> int:
        """Bytes of all pretraining rows, or of a validation where these are more."""
        loop = config.simulation
        n_visits = config.validation.validation_batches * loop.batch_size
        rows = max(self.n_pretrain_rows, n_visits * loop.n_candidate)
        return rows * n_inputs * (_DRAWN + _FLOAT)

    def description(self) -> list[str]:
        """The world in a few lines."""
        return [f"{self.name}: {self.n_pretrain_rows:,} pretraining rows"]


def _batch(item_SBCD: Tensor) -> Batch:
    """Inputs of networks: everything is on the video's side."""
    return Batch(candidate={"video_num": item_SBCD})


class RandomRows:
    """Random items shown to random users: what models learn from before the test."""

    def __init__(
        self, simulator: Simulator, n_rows: int, key: Tensor, targets: Sequence[str], device: Device
    ) -> None:
        self.n_rows = n_rows
        self._simulator, self._key, self._device = simulator, key, device
        self._columns = [simulator.outcomes.index(name) for name in targets]

    def read(self, place_B: np.ndarray) -> tuple[Batch, list[Tensor]]:
        """Inputs (S = 1, C = 1) and each label's values 1, B; a row depends on its place alone."""
        keys_B = draws.key(0, "row", self._key, torch.from_numpy(place_B))
        keys_B = self._device.tensor(keys_B)
        n_item, n_response = self._simulator.n_item_draws, self._simulator.n_response_draws
        u_BE = draws.uniform32(keys_B, n_item + n_response)
        item_BD = self._simulator.items(u_BE[:, :n_item])
        y_BL = self._simulator.respond(item_BD, u_BE[:, n_item:])
        return _batch(item_BD[None, :, None]), [y_BL[None, :, i] for i in self._columns]


class SimulatedWorld(World):
    """R replications; all designs of one are offered the same items."""

    def __init__(
        self,
        simulator: Simulator,
        targets: Sequence[str],
        settings: WorldSettings,
        device: Device,
    ) -> None:
        self.simulator, self.settings, self.device = simulator, settings, device
        columns = [simulator.outcomes.index(name) for name in targets]
        self._column_L = torch.tensor(columns, device=device.torch)
        self._replication_R = torch.tensor(settings.replications, device=device.torch)

    def _uniform(self, purpose: str, step: int, shape: tuple[int, ...]) -> Tensor:
        keys_R = draws.key(self.settings.seed, purpose, self._replication_R, step)
        n = int(torch.Size(shape).numel())
        return draws.uniform32(keys_R, n).view(len(keys_R), *shape)

    def draw(self, step: int) -> Visits:
        """New users; every one is a visit, with its own draw of the arm."""
        s, R = self.settings, len(self._replication_R)
        B, to = s.batch_size, self.device.torch
        numbers_B = torch.arange(step * B, (step + 1) * B, device=to)
        return Visits(
            step,
            self._replication_R,
            numbers_B.expand(R, B),
            torch.ones(R, B, dtype=torch.bool, device=to),
            self._uniform("arm of visit", step, (B,)).to(self.device.float64),
            torch.full((R, B), s.n_candidates, device=to),
            torch.zeros(R, dtype=torch.float64),
        )

    def slate(self, visits: Visits) -> Slate:
        """Fresh items; the same for all designs of a replication."""
        s, R = self.settings, len(self._replication_R)
        shape = (s.batch_size, s.n_candidates, self.simulator.n_item_draws)
        item_RBCD = self.simulator.items(self._uniform("slate", visits.step, shape))
        W = s.n_blocks * R
        first = visits.step * s.batch_size * s.n_candidates
        number_BC = first + torch.arange(s.batch_size * s.n_candidates, device=item_RBCD.device)
        number_WBC = number_BC.view(1, s.batch_size, -1).expand(W, -1, -1)
        return Slate(
            number_WBC,
            number_WBC,
            torch.ones(1, 1, 1, dtype=torch.bool, device=item_RBCD.device).expand_as(number_WBC),
            _batch(item_RBCD),
        )

    def feedback(self, visits: Visits, slate: Slate, choice_WB: Tensor) -> Tensor:
        """What comes of the chosen items: W, B, L; the same luck in all designs."""
        item_WBD = slate.batch.chosen(choice_WB).candidate["video_num"][:, :, 0]
        shape = (self.settings.batch_size, self.simulator.n_response_draws)
        u_RBE = self._uniform("feedback", visits.step, shape)
        u_WBE = u_RBE.repeat(self.settings.n_blocks, 1, 1)
        return self.simulator.respond(item_WBD, u_WBE).index_select(-1, self._column_L)


class SimulatedEnvironment(Environment):
    """A simulator, opened: see Environment."""

    has_exchangeable_candidates = True

    def __init__(self, simulator: Simulator, seed: int, device: Device) -> None:
        self.simulator, self.seed, self.device = simulator, seed, device
        self.schema = simulator.inputs()

    def _rows(self, purpose: str, n_rows: int, targets: Sequence[str], start: int) -> RandomRows:
        key = draws.key(draws.start_seed(self.seed, start), f"{self.simulator.name} {purpose}")
        return RandomRows(self.simulator, n_rows, key, targets, self.device)

    def pretraining(self, targets: Sequence[str], start: int) -> RandomRows:
        """Random items."""
        return self._rows("pretraining", self.simulator.n_pretrain_rows, targets, start)

    def held_out(
        self, targets: Sequence[str], n_visits: int, n_candidates: int, start: int
    ) -> HeldOut:
        """New users with random items."""
        n = n_visits * n_candidates
        batch, y_L = self._rows("held out", n, targets, start).read(np.arange(n))
        item_BCD = batch.candidate["video_num"].view(1, n_visits, n_candidates, -1)
        y_BCL = torch.stack(y_L, dim=-1).view(n_visits, n_candidates, -1)
        is_candidate_BC = torch.ones_like(y_BCL[..., 0], dtype=torch.bool)
        return HeldOut(_batch(item_BCD), y_BCL, is_candidate_BC, n_visits)

    def world(self, targets: Sequence[str], settings: WorldSettings) -> SimulatedWorld:
        """The simulator, R times."""
        return SimulatedWorld(self.simulator, targets, settings, self.device)

    def stats(self) -> dict[str, Any]:
        """The sizes."""
        return {"n_pretrain_rows": self.simulator.n_pretrain_rows}

    def description(self) -> list[str]:
        """The simulator's."""
        return self.simulator.description()
