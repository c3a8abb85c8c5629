"""Rollout: the treatment's share rises in stages, as most launches do.

A user who was treated once stays treated: who is treated at a share is treated at every larger one.
So the arms' outcomes are seen at several shares, and what both would be at 1 and at 0 can be
extrapolated: `rollout_linear`, `rollout_quadratic` (Boyarsky, Namkoong & Pouget-Abadie, arXiv
2305.10728; Han, Li, Mao & Wu, arXiv 2211.03262). What time does to outcomes they take for an effect
of the share.

Axes: R replications, B visits.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

from pydantic import Field, PrivateAttr, field_validator
from torch import Tensor

from realdataexp.designs.base import Context
from realdataexp.designs.pooling import Pooling
from realdataexp.options import MOST, Options, Share
from realdataexp.worlds.base import Visits

USUAL = (0.1, 0.4, 1.0)
"""The stages' shares where none are given, as parts of p."""


class Rollout(Pooling, Options):
    """One model; in each stage another share is treated, never a smaller one than before.

    With an arm per user (``experiment.assignment``) users keep the treatment once they have it;
    with an arm per visit each stage draws with its own share.
    """

    shares: Annotated[tuple[Share, ...], Field(strict=False, min_length=2)] | None = Field(
        None,
        description="share treated in each stage, not falling; null: 0.1, 0.4 and 1 times "
        "experiment.p_treatment",
    )
    first_steps: (
        Annotated[
            tuple[Annotated[int, Field(ge=0, le=MOST)], ...], Field(strict=False, min_length=2)
        ]
        | None
    ) = Field(
        None, description="step with which each stage begins, the first 0; null: equal lengths"
    )

    _n_steps: int = PrivateAttr()

    @field_validator("shares")
    @classmethod
    def _not_falling(cls, shares: tuple[float, ...] | None) -> tuple[float, ...] | None:
        for before, after in pairwise(shares or ()):
            if after < before:
                raise ValueError(
                    f"falls from {before:g} to {after:g}, so treated users would lose the "
                    "treatment: give shares that rise, or stay"
                )
        return shares

    @field_validator("first_steps")
    @classmethod
    def _rising_from_0(cls, steps: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if steps is not None and (steps[0] != 0 or any(b <= a for a, b in pairwise(steps))):
            raise ValueError(f"must rise from 0, such as {[*range(0, 20 * len(steps), 20)]}")
        return steps

    def start(self, context: Context) -> Rollout:
        """With the length of the test.

        Raises:
            InputError: a stage would have no step, or one arm only.
        """
        n_stages, n_steps = len(self.shares or USUAL), context.n_steps
        if self.first_steps is not None and len(self.first_steps) != n_stages:
            raise context.refuse(
                f"first_steps = {[*self.first_steps]}: begins {len(self.first_steps)} stages, but "
                f"there are {n_stages} shares; give each share its first step"
            )
        if self._first(n_steps)[-1] >= n_steps or n_steps < n_stages:
            raise context.refuse(
                f"its last stage would begin with step {self._first(n_steps)[-1]} of {n_steps}, so "
                f"not each of its {n_stages} stages has a step; begin it earlier (first_steps), or "
                "raise simulation.n_steps"
            )
        if self.shares is None and not 0.0 < context.p < 1.0:
            raise context.refuse(
                f"experiment.p_treatment = {context.p}: its last stage would have one arm only; "
                "use a share between 0 and 1, or give shares"
            )
        started = self.model_copy()
        started._n_steps = n_steps
        return started

    def assign(self, visits: Visits, p: float) -> Tensor:
        """The default draw, compared with the stage's share."""
        return visits.arm_draw_RB < self.treated_share(visits.step, self._n_steps, p)

    def treated_share(self, step: int, n_steps: int, p: float) -> float:
        """That of the stage."""
        shares = self.shares or [part * p for part in USUAL]
        return shares[bisect_right(self._first(n_steps), step) - 1]

    def _first(self, n_steps: int) -> Sequence[int]:
        """The first step of each stage."""
        n = len(self.shares or USUAL)
        return self.first_steps or [n_steps * i // n for i in range(n)]
