"""A world of one's own, in one file: a market whose visitors buy, or do not.

A visitor's taste meets an item's quality and price; what is measured is whether it was bought and
what was paid.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from realdataexp.worlds import Simulator


class Market(Simulator):
    """New visitors with fresh offers."""

    features: ClassVar = ("taste", "quality", "price")
    outcomes: ClassVar = ("bought", "paid")

    max_price: float = Field(10.0, gt=0, description="of an item")

    def items(self, u_XE: Tensor) -> Tensor:
        """Taste, quality and price, each ~U[0, 1]."""
        return u_XE

    def respond(self, item_XD: Tensor, u_XE: Tensor) -> Tensor:
        """Bought with a probability that is logistic in quality, taste and price."""
        taste_X, quality_X, price_X = item_XD.unbind(-1)
        chance_X = torch.sigmoid(3 * taste_X * quality_X - 3 * price_X)
        bought_X = (u_XE[..., 0] < chance_X).float()
        return torch.stack([bought_X, bought_X * price_X * self.max_price], dim=-1)
