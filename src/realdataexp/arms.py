"""Arms: how predictions become scores, and scores a pick with its propensity.

The loop and the validation ask the same object, for both arms at once. An arm scores the candidates
of a slate (by labels, a rule, or a policy from outside) and picks the best, or explores.

What is random in a pick is a function of (seed, replication, step) and the place on the slate,
the same for both arms and all designs: arms that do the same pick the same.

Axes: A arms (0 = control, 1 = treatment), W worlds, R replications, B visits, C candidates,
K places of a list that is shown, L labels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from realdataexp import draws
from realdataexp.contracts import FLOATS, fit
from realdataexp.registry import calling
from realdataexp.worlds.base import start_of

_LEAST_UNIFORM = 2.0**-25  # below the least of 24 bits but 0, whose logarithm is none


@dataclass(frozen=True)
class Scene:
    """What an arm may know of the slates besides its predictions, and its luck.

    Attributes:
        replication_W: the worlds' replications.
        video_WBC: the candidates' videos.
        is_candidate_WBC: False for padding.
        uniform_WBC, coin_WB: U[0, 1) for each candidate and for each visit, to draw with.
    """

    replication_W: Tensor
    video_WBC: Tensor
    is_candidate_WBC: Tensor
    uniform_WBC: Tensor
    coin_WB: Tensor


@dataclass(frozen=True)
class Explore:
    """How an arm departs from the best score; see the config's section ``explore``."""

    kind: str = "none"
    epsilon: float | None = None
    temperature: float | None = None


class Policy(BaseModel):
    """An arm's policy from outside. Its fields are the options that a config may give it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def score(self, prediction_WBCL: Tensor, scene: Scene) -> Tensor:
        """Each candidate's score, float W, B, C: the higher, the better.

        Args:
            prediction_WBCL: of the arm's networks, in the labels' units.
            scene: the slates; draw with its uniforms alone.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how it scores")


class Scorer(Protocol):
    """What scores in place of labels: a rule, or a `Policy` (see there)."""

    def score(self, prediction_WBCL: Tensor, scene: Scene) -> Tensor:
        """See Policy."""
        ...


class Random(Scorer):
    """Any candidate, each as likely."""

    def score(self, prediction_WBCL: Tensor, scene: Scene) -> Tensor:
        """See Policy."""
        return scene.uniform_WBC


class MostPopular(Scorer):
    """The video with the most pretraining rows of the world's start (X starts)."""

    def __init__(self, count_XV: Tensor) -> None:
        self._count_XV = count_XV

    def score(self, prediction_WBCL: Tensor, scene: Scene) -> Tensor:
        """See Policy."""
        start_W = start_of(scene.replication_W, len(self._count_XV))
        return self._count_XV[start_W.view(-1, 1, 1), scene.video_WBC]


class OutsidePolicy(Scorer):
    """A policy from outside, held to what it promises; ComponentError where it breaks that."""

    def __init__(self, policy: Policy, who: str) -> None:
        self._policy, self._who = policy, who

    def score(self, prediction_WBCL: Tensor, scene: Scene) -> Tensor:
        """See Policy."""
        like = scene.is_candidate_WBC
        with calling(self._who, "score()"):
            found = self._policy.score(prediction_WBCL, scene)
            return fit(found, FLOATS, like.shape, "worlds, visits, candidates", like).float()


class Arms:
    """The control and the treatment.

    Attributes:
        factor_AL: what each arm's score multiplies each label's prediction with: alpha / unit.
        scorers: what scores instead, for each arm; None: its labels.
        explores: how each arm departs from the best score.
    """

    def __init__(
        self,
        factor_AL: Sequence[Sequence[float]],
        scorers: Sequence[Scorer | None] = (None, None),
        explores: Sequence[Explore] = (Explore(), Explore()),
        seed: int = 0,
    ) -> None:
        self.factor_AL = torch.tensor(factor_AL)
        self.scorers, self.explores, self._seed = tuple(scorers), tuple(explores), seed

    def to(self, device: torch.device) -> Arms:
        """The same arms, with what they need on a device."""
        moved = copy.copy(self)
        moved.factor_AL = self.factor_AL.to(device)
        return moved

    @property
    def is_random(self) -> bool:
        """Whether some arm's pick is not determined by the slate and the networks."""
        kinds = [x.kind for x in self.explores]
        return any(x != "none" for x in kinds) or any(isinstance(x, Random) for x in self.scorers)

    @property
    def draws_networks_A(self) -> tuple[bool, ...]:
        """Whether each arm scores with networks that are drawn: Thompson sampling by dropout."""
        return tuple(x.kind == "thompson" for x in self.explores)

    @property
    def needs_scene(self) -> bool:
        """Whether predictions are not enough to score and pick."""
        return self.is_random or any(x is not None for x in self.scorers)

    def scene(
        self,
        purpose: str,
        replication_R: Tensor,
        step: Tensor | int,
        video_WBC: Tensor,
        is_candidate_WBC: Tensor,
    ) -> Scene:
        """What the arms may know; the draws are each replication's own, for all of its worlds."""
        W, B, C = is_candidate_WBC.shape
        n_blocks = W // len(replication_R)
        uniform_RX, coin_RB = (
            draws.uniform32(draws.key(self._seed, f"{purpose} {x}", replication_R, step), n)
            for x, n in (("candidates", B * C), ("coins", B))
        )
        uniform_WBC = uniform_RX.view(-1, B, C).repeat(n_blocks, 1, 1)
        coin_WB, replication_W = coin_RB.repeat(n_blocks, 1), replication_R.repeat(n_blocks)
        return Scene(replication_W, video_WBC, is_candidate_WBC, uniform_WBC, coin_WB)

    def terms(self, prediction_WABCL: Tensor) -> Tensor:
        """What each label adds to the scores: W, A, B, C, L."""
        return prediction_WABCL * self.factor_AL.view(1, 2, 1, 1, -1)

    def score(
        self, prediction_WABCL: Tensor, is_candidate_WBC: Tensor, scene: Scene | None = None
    ) -> Tensor:
        """Each arm's score of each candidate, -inf for padding: W, A, B, C."""
        score_WABC = _sum(self.terms(prediction_WABCL))
        for arm, scorer in enumerate(self.scorers):
            if scorer is not None and scene is not None:
                score_WABC[:, arm] = scorer.score(prediction_WABCL[:, arm], scene)
        return score_WABC.masked_fill(~is_candidate_WBC.unsqueeze(1), -torch.inf)

    def score_of(self, arm: int, prediction_WBCL: Tensor, scene: Scene | None = None) -> Tensor:
        """One arm's scores of candidates in any worlds, padding among them: W, B, C."""
        scorer = self.scorers[arm]
        if scorer is not None and scene is not None:
            return scorer.score(prediction_WBCL, scene)
        return _sum(prediction_WBCL * self.factor_AL[arm].to(prediction_WBCL.device))

    def pick(self, score_WABC: Tensor, scene: Scene | None = None) -> tuple[Tensor, Tensor | None]:
        """What each arm picks, and how likely it was to pick each candidate.

        Returns:
            int64 W, A, B: the best, of equal ones the first, where an arm does not explore; and
            the logarithms of the propensities W, A, B, C: NaN where they are not known (Thompson
            sampling), None where no arm explores.
        """
        pick_WAB = score_WABC.argmax(-1)
        if scene is None or not self.is_random:
            return pick_WAB, None
        log_WABC = _log_of_best(pick_WAB, score_WABC)
        for arm, (explore, scorer) in enumerate(zip(self.explores, self.scorers, strict=True)):
            epsilon = 1.0 if isinstance(scorer, Random) else explore.epsilon
            score_WBC, found = score_WABC[:, arm], None
            if epsilon is not None:
                found = _epsilon_greedy(score_WBC, scene, epsilon)
            elif explore.temperature is not None:
                found = _softmax(score_WBC, scene, explore.temperature)
            elif explore.kind == "thompson":
                log_WABC[:, arm] = torch.nan
            if found is not None:
                pick_WAB[:, arm], log_WABC[:, arm] = found
        return pick_WAB, log_WABC

    def lists(self, score_WABC: Tensor, pick_WAB: Tensor, n_shown: int) -> Tensor:
        """What each arm shows: the pick alone, or its best, the best first: int64 W, A, B, K.

        Of equal ones the first comes first; padding comes last.
        """
        if n_shown == 1:
            return pick_WAB.unsqueeze(-1)
        return score_WABC.argsort(dim=-1, descending=True, stable=True)[..., :n_shown]


def _sum(term_XL: Tensor) -> Tensor:
    first, *others = term_XL.unbind(-1)
    return sum(others, first)  # a sum over so short an axis is slow


def _log_of_best(pick_X: Tensor, score_XC: Tensor) -> Tensor:
    """The logarithms of 1 for what was picked, and of 0 for the rest."""
    return torch.full_like(score_XC, -torch.inf).scatter(-1, pick_X.unsqueeze(-1), 0.0)


def _epsilon_greedy(score_WBC: Tensor, scene: Scene, epsilon: float) -> tuple[Tensor, Tensor]:
    """Any candidate where the coin says so, else the best (Sutton & Barto 2018, section 2.2)."""
    on_WBC = scene.is_candidate_WBC
    best_WB = score_WBC.argmax(-1)
    any_WB = scene.uniform_WBC.masked_fill(~on_WBC, -1.0).argmax(-1)
    pick_WB = torch.where(scene.coin_WB < epsilon, any_WB, best_WB)
    is_best_WBC = _log_of_best(best_WB, score_WBC).exp()
    chance_WBC = epsilon / on_WBC.sum(-1, keepdim=True) + (1.0 - epsilon) * is_best_WBC
    return pick_WB, chance_WBC.log().masked_fill(~on_WBC, -torch.inf)


def _softmax(score_WBC: Tensor, scene: Scene, temperature: float) -> tuple[Tensor, Tensor]:
    """Proportional to exp(score / temperature), by the Gumbel-max trick (Maddison et al. 2014)."""
    logit_WBC = (score_WBC - score_WBC.amax(-1, keepdim=True)) / temperature
    gumbel_WBC = -(-scene.uniform_WBC.clamp_min(_LEAST_UNIFORM).log()).log()
    return (logit_WBC + gumbel_WBC).argmax(-1), logit_WBC.log_softmax(-1)
