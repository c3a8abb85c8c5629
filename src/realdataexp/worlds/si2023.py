"""The simulated video platform of Si, arXiv 2310.17496 (v5): a world without files.

Each visit is a new user with C candidate videos. A video is short or long, with features of user
and video ~U[0, 1]. Who watches it finishes it with a probability that is logistic in the features,
and stays for an exponential time whose mean is exponential in them; both differ by type. The models
are linear in the features and the type, without interactions: deliberately misspecified, so that
what they learn depends on which videos the training data hold, and the arms' data differ in that.
The paper does not give its coefficients: here ``world_seed`` draws them, and the constants are
settings. A config names the features ``x0``, ``x1``, ..., and ``long`` for the type.

Candidates are independent and identically distributed, so that the share of treated data at a
video, E[Z|X], can be computed: see designs/oracle.py.

Axes: X any, D features, E features and the type, L outcomes, 2 types (short, long).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from pydantic import Field
from torch import Tensor

from realdataexp import draws
from realdataexp.options import Count, Decay, Number, Options, Rate, Share
from realdataexp.worlds.simulated import Simulator

OUTCOMES = ("stay_time", "finish", "short_video")
_SHORT, _LONG = 0, 1


class Si2023Config(Options):
    """The simulated platform of Si (arXiv 2310.17496); the paper does not give its constants."""

    world_seed: int = Field(
        4, ge=0, le=2**63 - 1, description="draws the coefficients, apart from the run's seed"
    )
    n_features: int = Field(
        10, ge=1, le=1000, description="features of user and video, each ~U[0, 1]"
    )
    long_share: Share = Field(0.5, description="probability that a candidate is a long video")
    finish_logit_short: Number = Field(1.0, description="logit of finishing an average short video")
    finish_logit_long: Number = Field(-1.0, description="logit of finishing an average long video")
    finish_strength: Decay = Field(1.5, description="scale of finishing's coefficients")
    stay_time_short: Rate = Field(0.6, description="mean stay time of an average short video")
    stay_time_long: Rate = Field(1.2, description="mean stay time of an average long video")
    stay_strength: Decay = Field(0.8, description="scale of stay time's coefficients")
    pretrain_rows: Count = Field(20_000, description="random videos shown before the test")


@dataclass(frozen=True)
class Platform:
    """The truth of the simulated platform: coefficients and intercepts; features enter as x - 1/2.

    ``long_share`` is the probability that a candidate is long.
    """

    finish_D2: Tensor
    stay_D2: Tensor
    finish_bias_2: Tensor
    stay_bias_2: Tensor
    long_share: float

    @classmethod
    def draw(cls, config: Si2023Config, device: torch.device | None = None) -> Platform:
        """The platform that ``world_seed`` draws: coefficients ~U[-1, 1] times a strength."""
        shape = (config.n_features, 2)
        u = draws.uniform(draws.key(config.world_seed, "si2023", torch.arange(2)), 2 * shape[0])
        finish, stay = (2.0 * u.view(2, *shape) - 1.0).float()
        return cls(
            (finish * config.finish_strength).to(device),
            (stay * config.stay_strength).to(device),
            torch.tensor([config.finish_logit_short, config.finish_logit_long]).to(device),
            torch.tensor([config.stay_time_short, config.stay_time_long]).log().to(device),
            config.long_share,
        )

    def videos(self, u_XE: Tensor) -> Tensor:
        """What models see of videos: D features and whether it is long, from D + 1 uniforms."""
        is_long_X1 = (u_XE[..., -1:] < self.long_share).to(u_XE.dtype)
        return torch.cat([u_XE[..., :-1], is_long_X1], dim=-1)

    def means(self, video_XE: Tensor) -> tuple[Tensor, Tensor]:
        """The mean stay time and the probability to finish of each video."""
        x_XD = video_XE[..., :-1] - 0.5
        is_long_X = video_XE[..., -1] > 0.5
        stay_X2 = x_XD @ self.stay_D2 + self.stay_bias_2
        finish_X2 = x_XD @ self.finish_D2 + self.finish_bias_2
        stay_X, finish_X = (
            torch.where(is_long_X, x_X2[..., _LONG], x_X2[..., _SHORT])
            for x_X2 in (stay_X2, finish_X2)
        )
        return stay_X.exp(), finish_X.sigmoid()

    def outcomes(self, video_XE: Tensor, u_X2: Tensor) -> Tensor:
        """Stay time, finished, and whether the video is short: X, L, from two uniforms each."""
        stay_X, finish_X = self.means(video_XE)
        stay_X = -torch.log1p(-u_X2[..., 0]) * stay_X
        finished_X = (u_X2[..., 1] < finish_X).to(stay_X.dtype)
        return torch.stack([stay_X, finished_X, 1.0 - video_XE[..., -1]], dim=-1)


_platform = lru_cache(maxsize=8)(Platform.draw)


class Si2023(Simulator):
    """The world `si2023`."""

    si2023: Si2023Config = Field(
        Si2023Config(), description="constants of the simulated world si2023"
    )

    @property
    def features(self) -> tuple[str, ...]:
        """x0, x1, ... and whether a video is long."""
        return (*(f"x{d}" for d in range(self.si2023.n_features)), "long")

    @property
    def outcomes(self) -> tuple[str, ...]:
        """What a visitor's watching comes to."""
        return OUTCOMES

    @property
    def n_response_draws(self) -> int:
        """For the stay and for finishing."""
        return 2

    @property
    def n_pretrain_rows(self) -> int:
        """Random videos shown before the test."""
        return self.si2023.pretrain_rows

    def items(self, u_XE: Tensor) -> Tensor:
        """Videos."""
        return _platform(self.si2023, u_XE.device).videos(u_XE)

    def respond(self, item_XE: Tensor, u_X2: Tensor) -> Tensor:
        """What the watchers of videos do."""
        return _platform(self.si2023, item_XE.device).outcomes(item_XE, u_X2)

    def sizes(self) -> list[tuple[str, int, int]]:
        """Rows and features."""
        return [
            ("dataset.si2023.pretrain_rows", self.si2023.pretrain_rows, 20_000),
            ("dataset.si2023.n_features", self.si2023.n_features, 10),
        ]

    def description(self) -> list[str]:
        """The platform in a line."""
        c = self.si2023
        return [
            f"simulated platform {c.world_seed}: {c.n_features} features, "
            f"{100 * c.long_share:g} % long videos; {c.pretrain_rows:,} pretraining rows"
        ]
