"""What every world gives the loop.

Axes: R replications, W worlds (block x replication), B visits, C candidates, L labels.

What does not depend on the worlds' own pasts (who visits, which slots a slate shows, the draws of
the arms) is drawn once per replication and shared by all blocks: common random numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from realdataexp.models import Batch, FeatureSchema


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
        n_short: share, over all replications, of training users with fewer than C unused rows
            left before this step.
    """

    step: int
    replication_R: Tensor
    user_RB: Tensor
    is_visit_RB: Tensor
    arm_draw_RB: Tensor
    n_candidates_RB: Tensor
    n_short: float


@dataclass(frozen=True)
class Slate:
    """What every world's visitors are offered.

    Attributes:
        item_WBC: the candidates' log rows (replay), or numbers of their own; those behind
            ``n_candidates`` are padding.
        video_WBC: the candidates' videos, as rows of the video table or numbers of their own.
        is_candidate_WBC: False for padding.
        batch: the candidates' features, a network's inputs (S = W).
    """

    item_WBC: Tensor
    video_WBC: Tensor
    is_candidate_WBC: Tensor
    batch: Batch


class World(Protocol):
    """R replications of one environment, each lived through by ``n_blocks`` designs at once."""

    schema: FeatureSchema

    def draw(self, step: int) -> Visits | None:
        """The step's visits; None when no replication has a visitor left. Called once a step."""
        ...

    def slate(self, visits: Visits) -> Slate:
        """Each world's candidates, after what that world has used."""
        ...

    def feedback(self, visits: Visits, slate: Slate, choice_WB: Tensor) -> Tensor:
        """The chosen candidates' true labels W, B, L (NaN = missing); they count as used."""
        ...


def chosen(slate: Slate, choice_WB: Tensor) -> Batch:
    """The chosen candidates' features, C = 1."""
    b = slate.batch

    def at(x_WBCX: Tensor) -> Tensor:
        index = choice_WB[..., None, None].expand(-1, -1, 1, x_WBCX.shape[-1])
        return x_WBCX.gather(2, index)

    return replace(
        b,
        video_num_SBCD=at(b.video_num_SBCD),
        video_cat_SBCK=at(b.video_cat_SBCK),
        video_weight_SBCK=at(b.video_weight_SBCK),
    )
