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

Axes: R replications, W worlds, B visits or rows, C candidates, D features, L outcomes, K types
(0 = short, 1 = long).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.config import Si2023Config
from realdataexp.device import Device
from realdataexp.models import Batch, FeatureSchema, SideSchema
from realdataexp.models.base import restore
from realdataexp.worlds.base import HeldOut, Slate, Visits, WorldSettings

OUTCOMES = ("stay_time", "finish", "short_video")
_SHORT, _LONG = 0, 1


@dataclass(frozen=True)
class Platform:
    """The truth of the simulated platform.

    Attributes:
        finish_DK, stay_DK: coefficients of the features, by type.
        finish_bias_K, stay_bias_K: intercepts, by type; features enter as x - 1/2.
        long_share: probability that a candidate is long.
    """

    finish_DK: Tensor
    stay_DK: Tensor
    finish_bias_K: Tensor
    stay_bias_K: Tensor
    long_share: float

    @classmethod
    def draw(cls, config: Si2023Config) -> Platform:
        """The platform that ``world_seed`` draws: coefficients ~U[-1, 1] times a strength."""
        shape = (config.n_features, 2)
        u = draws.uniform(draws.key(config.world_seed, "si2023", torch.arange(2)), 2 * shape[0])
        finish, stay = (2.0 * u.view(2, *shape) - 1.0).float()
        return cls(
            finish * config.finish_strength,
            stay * config.stay_strength,
            torch.tensor([config.finish_logit_short, config.finish_logit_long]),
            torch.tensor([config.stay_time_short, config.stay_time_long]).log(),
            config.long_share,
        )

    def to(self, device: Device) -> Platform:
        """The same on a device."""
        return replace(
            self,
            finish_DK=self.finish_DK.to(device.torch),
            stay_DK=self.stay_DK.to(device.torch),
            finish_bias_K=self.finish_bias_K.to(device.torch),
            stay_bias_K=self.stay_bias_K.to(device.torch),
        )

    def videos(self, u_XE: Tensor) -> Tensor:
        """What models see of videos: D features and whether it is long, from D + 1 uniforms."""
        is_long_X1 = (u_XE[..., -1:] < self.long_share).to(u_XE.dtype)
        return torch.cat([u_XE[..., :-1], is_long_X1], dim=-1)

    def means(self, video_XE: Tensor) -> tuple[Tensor, Tensor]:
        """The mean stay time and the probability to finish of each video."""
        x_XD = video_XE[..., :-1] - 0.5
        is_long_X = video_XE[..., -1] > 0.5
        both_XK = x_XD @ self.finish_DK + self.finish_bias_K
        finish_X = torch.where(is_long_X, both_XK[..., _LONG], both_XK[..., _SHORT])
        both_XK = x_XD @ self.stay_DK + self.stay_bias_K
        stay_X = torch.where(is_long_X, both_XK[..., _LONG], both_XK[..., _SHORT])
        return stay_X.exp(), finish_X.sigmoid()

    def outcomes(self, video_XE: Tensor, u_X2: Tensor) -> Tensor:
        """Stay time, finished, and whether the video is short: X, L, from two uniforms each."""
        stay_X, finish_X = self.means(video_XE)
        stay_X = -torch.log1p(-u_X2[..., 0]) * stay_X
        finished_X = (u_X2[..., 1] < finish_X).to(stay_X.dtype)
        return torch.stack([stay_X, finished_X, 1.0 - video_XE[..., -1]], dim=-1)


def _batch(video_SBCE: Tensor) -> Batch:
    """Inputs of networks: everything is on the video's side."""
    return Batch(candidate={"video_num": video_SBCE})


class RandomRows:
    """Random videos shown to random users: what models learn from before the test."""

    def __init__(
        self,
        platform: Platform,
        n_features: int,
        n_rows: int,
        key: Tensor,
        targets: Sequence[str],
        device: Device,
    ) -> None:
        self.n_rows = n_rows
        self._platform, self._n_features, self._key = platform, n_features, key
        self._device = device
        self._columns = [OUTCOMES.index(name) for name in targets]

    def read(self, place_B: np.ndarray) -> tuple[Batch, list[Tensor]]:
        """Inputs (S = 1, C = 1) and each label's values 1, B; a row depends on its place alone."""
        keys_B = draws.key(0, "row", self._key, torch.from_numpy(place_B))
        keys_B = self._device.tensor(keys_B)
        u_BX = draws.uniform32(keys_B, self._n_features + 3)
        video_BE = self._platform.videos(u_BX[:, :-2])
        y_BL = self._platform.outcomes(video_BE, u_BX[:, -2:])
        return _batch(video_BE[None, :, None]), [y_BL[None, :, i] for i in self._columns]


class Si2023World:
    """R replications of the platform; all designs of one are offered the same videos."""

    def __init__(
        self,
        platform: Platform,
        n_features: int,
        targets: Sequence[str],
        settings: WorldSettings,
        device: Device,
    ) -> None:
        self._platform, self._n_features, self._settings = platform, n_features, settings
        columns = [OUTCOMES.index(name) for name in targets]
        self._column_L = torch.tensor(columns, device=device.torch)
        self._device = device
        self._replication_R = torch.tensor(settings.replications, device=device.torch)

    def _uniform(self, purpose: str, step: int, shape: tuple[int, ...]) -> Tensor:
        keys_R = draws.key(self._settings.seed, purpose, self._replication_R, step)
        n = int(torch.Size(shape).numel())
        return draws.uniform32(keys_R, n).view(len(keys_R), *shape)

    @property
    def has_visitors(self) -> bool:
        """New users never end."""
        return True

    def draw(self, step: int) -> Visits:
        """New users; every one is a visit, with its own draw of the arm."""
        s, R = self._settings, len(self._replication_R)
        B, to = s.batch_size, self._device.torch
        numbers_B = torch.arange(step * B, (step + 1) * B, device=to)
        return Visits(
            step,
            self._replication_R,
            numbers_B.expand(R, B),
            torch.ones(R, B, dtype=torch.bool, device=to),
            self._uniform("arm of visit", step, (B,)).to(self._device.float64),
            torch.full((R, B), s.n_candidates, device=to),
            torch.zeros(R, dtype=torch.float64),
        )

    def slate(self, visits: Visits) -> Slate:
        """Fresh videos; the same for all designs of a replication."""
        s, R = self._settings, len(self._replication_R)
        shape = (s.batch_size, s.n_candidates, self._n_features + 1)
        video_RBCE = self._platform.videos(self._uniform("slate", visits.step, shape))
        W = s.n_blocks * R
        first = visits.step * s.batch_size * s.n_candidates
        number_BC = first + torch.arange(s.batch_size * s.n_candidates, device=video_RBCE.device)
        number_WBC = number_BC.view(1, s.batch_size, -1).expand(W, -1, -1)
        return Slate(
            number_WBC,
            number_WBC,
            torch.ones(1, 1, 1, dtype=torch.bool, device=video_RBCE.device).expand_as(number_WBC),
            _batch(video_RBCE),
        )

    def feedback(self, visits: Visits, slate: Slate, choice_WB: Tensor) -> Tensor:
        """What the watcher of the chosen video does: W, B, L; the same luck in all designs."""
        video_WBE = slate.batch.chosen(choice_WB).candidate["video_num"][:, :, 0]
        u_RB2 = self._uniform("feedback", visits.step, (self._settings.batch_size, 2))
        u_WB2 = u_RB2.repeat(self._settings.n_blocks, 1, 1)
        return self._platform.outcomes(video_WBE, u_WB2).index_select(-1, self._column_L)

    def state(self) -> dict[str, Tensor]:
        """Nothing: each step is new."""
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing; see World."""
        restore({}, tensors)


class Si2023Environment:
    """The simulated platform: see worlds.base.Environment."""

    has_exchangeable_candidates = True

    def __init__(self, config: Si2023Config, seed: int, device: Device) -> None:
        self._config, self._seed, self._device = config, seed, device
        self._platform = Platform.draw(config).to(device)
        names = (*(f"x{d}" for d in range(config.n_features)), "long")
        self.schema = FeatureSchema(
            SideSchema(0, (), 0), SideSchema(len(names), (), 0, numerical=names)
        )

    def _rows(self, purpose: str, n_rows: int, targets: Sequence[str], start: int) -> RandomRows:
        key = draws.key(draws.start_seed(self._seed, start), purpose)
        return RandomRows(
            self._platform, self._config.n_features, n_rows, key, targets, self._device
        )

    def label_values(self, target: str) -> Iterator[np.ndarray]:
        """The values on the first start's pretraining rows."""
        rows = self.pretraining((target,), 0)
        yield rows.read(np.arange(rows.n_rows))[1][0][0].cpu().double().numpy()

    def pretraining(self, targets: Sequence[str], start: int) -> RandomRows:
        """Random videos."""
        return self._rows("si2023 pretraining", self._config.pretrain_rows, targets, start)

    def held_out(
        self, targets: Sequence[str], n_visits: int, n_candidates: int, start: int
    ) -> HeldOut:
        """New users with random videos."""
        n = n_visits * n_candidates
        batch, y_L = self._rows("si2023 held out", n, targets, start).read(np.arange(n))
        video_BCE = batch.candidate["video_num"].view(1, n_visits, n_candidates, -1)
        y_BCL = torch.stack(y_L, dim=-1).view(n_visits, n_candidates, -1)
        is_candidate_BC = torch.ones_like(y_BCL[..., 0], dtype=torch.bool)
        return HeldOut(_batch(video_BCE), y_BCL, is_candidate_BC, n_visits)

    def tastes(self, start: int) -> None:
        """Every visit is a new user."""
        return None

    def history(self, targets: Sequence[str], start: int) -> None:
        """Every visit is a new user."""
        return None

    def popularity(self, start: int) -> None:
        """Every video is a new one."""
        return None

    def world(self, targets: Sequence[str], settings: WorldSettings) -> Si2023World:
        """The platform, R times."""
        return Si2023World(self._platform, self._config.n_features, targets, settings, self._device)

    def stats(self) -> dict[str, Any]:
        """The sizes."""
        return {
            "n_pretrain_rows": self._config.pretrain_rows,
        }

    def identity(self) -> dict[str, Any]:
        """Nothing: the config says all."""
        return {}

    def description(self) -> list[str]:
        """The platform in a line."""
        c = self._config
        return [
            f"simulated platform {c.world_seed}: {c.n_features} features, "
            f"{100 * c.long_share:g} % long videos; {c.pretrain_rows:,} pretraining rows"
        ]
