"""Arms: how a prediction of each label becomes a score, and scores become a pick.

The loop and the validation ask the same object, for both arms at once.

Axes: A arms (0 = control, 1 = treatment), W worlds, B visits, C candidates, L labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Arms:
    """The control and the treatment.

    Attributes:
        factor_AL: what each arm's score multiplies each label's prediction with: alpha / unit.
    """

    def __init__(self, factor_AL: Sequence[Sequence[float]]) -> None:
        self.factor_AL = torch.tensor(factor_AL)

    def to(self, device: torch.device) -> Arms:
        """The same arms, with what they need on a device."""
        moved = Arms(())
        moved.factor_AL = self.factor_AL.to(device)
        return moved

    def terms(self, prediction_WABCL: Tensor) -> Tensor:
        """What each label adds to the scores: W, A, B, C, L."""
        return prediction_WABCL * self.factor_AL.view(1, 2, 1, 1, -1)

    def score(self, prediction_WABCL: Tensor, is_candidate_WBC: Tensor) -> Tensor:
        """Each arm's score of each candidate, -inf for padding: W, A, B, C."""
        score_WABC = _sum(self.terms(prediction_WABCL))
        return score_WABC.masked_fill(~is_candidate_WBC.unsqueeze(1), -torch.inf)

    def score_of(self, arm: int, prediction_XBCL: Tensor) -> Tensor:
        """One arm's scores of candidates, from any worlds' predictions: X, B, C."""
        return _sum(prediction_XBCL * self.factor_AL[arm].to(prediction_XBCL.device))

    def pick(self, score_WABC: Tensor) -> Tensor:
        """The candidate that each arm picks: the best, of equal ones the first: W, A, B."""
        return score_WABC.argmax(-1)


def _sum(term_XL: Tensor) -> Tensor:
    first, *others = term_XL.unbind(-1)
    return sum(others, first)  # a sum over so short an axis is slow
