"""A world of one's own with a memory, in one file: users return, and tire of what they click."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from realdataexp import draws
from realdataexp.config import Config
from realdataexp.device import Device
from realdataexp.errors import Warnings
from realdataexp.worlds import SimulatedEnvironment, SimulatedWorld, Simulator

from realdataexp.worlds import Slate, Visits, WorldSettings  # isort: skip


class VillageWorld(SimulatedWorld):
    """Each world remembers how often each user clicked."""

    def __init__(self, village: Village, targets: Any, settings: Any, device: Device) -> None:
        super().__init__(village, targets, settings, device)
        n_worlds = settings.n_blocks * len(settings.replications)
        self.n_clicks_WU = torch.zeros(n_worlds, village.n_users, device=device.torch)

    def draw(self, step: int) -> Visits:
        visits = super().draw(step)
        keys_R = draws.key(0, "who", visits.replication_R, step)
        u_RB = draws.uniform32(keys_R, visits.user_RB.shape[1])
        user_RB = (u_RB * self.n_clicks_WU.shape[1]).long()
        arm_RU = draws.uniform(draws.key(0, "arm", visits.replication_R), 1000)
        return replace(visits, user_RB=user_RB, arm_draw_RB=arm_RU.gather(1, user_RB))

    def feedback(self, visits: Visits, slate: Slate, choice_WB: Tensor) -> Tensor:
        click_WBL = super().feedback(visits, slate, choice_WB)
        user_WB = visits.user_RB.repeat(len(choice_WB) // len(visits.user_RB), 1)
        is_tired_WB = self.n_clicks_WU.gather(1, user_WB) % 3 == 2  # every third click is lost
        self.n_clicks_WU.scatter_add_(1, user_WB, click_WBL[..., 0])
        return click_WBL * ~is_tired_WB.unsqueeze(-1)

    def state(self) -> dict[str, Tensor]:
        return {"n_clicks": self.n_clicks_WU}


class VillageEnvironment(SimulatedEnvironment):
    """Users who return have no history before the test."""

    simulator: Village

    def world(self, targets: Sequence[str], settings: WorldSettings) -> VillageWorld:
        return VillageWorld(self.simulator, targets, settings, self.device)

    def history(self, targets: Sequence[str], start: int) -> np.ndarray:
        return np.full((self.simulator.n_users, len(targets)), np.nan)


class Village(Simulator):
    """Items are one number each: how likely a click is."""

    features: ClassVar = ("x",)
    outcomes: ClassVar = ("click",)

    n_users: int = Field(30, ge=1, le=1000)

    def open(self, config: Config, device: Device, warnings: Warnings) -> VillageEnvironment:
        return VillageEnvironment(self, config.seed, device)

    def items(self, u_XE: Tensor) -> Tensor:
        return u_XE

    def respond(self, item_XD: Tensor, u_XE: Tensor) -> Tensor:
        return (u_XE < item_XD).float()
