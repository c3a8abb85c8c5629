"""Switchback: everybody has one arm for a block of steps, then the coin is tossed again.

Within a block no arm meets the other, but the one model carries what it learned into the next
block. The first steps of a block, the wash-out, can be left out of the estimate: the model keeps
learning in them. Blocks of time as units: Bojinov, Simchi-Levi & Zhao, arXiv 2009.00148.

Axes: R replications, B visits.
"""

from __future__ import annotations

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from realdataexp import draws
from realdataexp.designs.base import Context
from realdataexp.designs.pooling import Pooling
from realdataexp.options import MOST, Count, Options
from realdataexp.worlds.base import Visits


class Switchback(Pooling, Options):
    """One model; a block of ``block_steps`` steps is treated with probability p.

    Where all blocks fall into one arm, that replication has no estimate.
    """

    block_steps: Count = Field(10, description="steps for which everybody keeps one arm")
    washout_steps: int = Field(
        0, ge=0, le=MOST, description="first steps of a block that the estimate leaves out"
    )

    _seed: int = PrivateAttr()

    def start(self, context: Context) -> Switchback:
        """With the run's seed.

        Raises:
            InputError: fewer than two blocks would have an outcome that counts.
        """
        block, washout, n_steps = self.block_steps, self.washout_steps, context.n_steps
        if washout >= block:
            raise context.refuse(
                f"washout_steps = {washout}: no step of a block would count; must be less than "
                f"block_steps, which is {block}"
            )
        if n_steps - washout <= block:
            raise context.refuse(
                f"block_steps = {block}, washout_steps = {washout}: no second block counts in a "
                f"run of {n_steps} steps; use shorter blocks, or more than {block + washout} steps"
            )
        started = self.model_copy()
        started._seed = context.seed
        return started

    def assign(self, visits: Visits, p: float) -> Tensor:
        """The arm of the block, the same for all visits."""
        block = visits.step // self.block_steps
        keys_R = draws.key(self._seed, "arm of block", visits.replication_R, block)
        return draws.chance(keys_R, 1, p).expand_as(visits.is_visit_RB)

    def counts(self, visits: Visits) -> Tensor:
        """All but those of the wash-out."""
        is_washout = visits.step % self.block_steps < self.washout_steps
        return visits.is_visit_RB & (not is_washout)

    def unit(self, visits: Visits) -> Tensor:
        """The block of steps."""
        return torch.full_like(visits.user_RB, visits.step // self.block_steps)
