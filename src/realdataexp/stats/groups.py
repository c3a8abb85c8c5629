"""Do a design's worlds agree with each other, or do they fall into groups?

A training loop can have more than one state that keeps itself up. Which one a world ends in is
chance, so the worlds' effects lie far apart; a single test sees one state only, its standard error
knows nothing of the others, and the mean over worlds may be that of none.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import polars as pl

FAR = 6.0
MIN_GROUP = 3
MIN_SHARE = 0.05


class TwoGroups(NamedTuple):
    """The worlds of a design and label in two groups: how large, and how many errors apart."""

    design: str
    label: str
    n_below: int
    n_above: int
    gap_se: float


def two_groups(inference: pl.DataFrame, n_starts: int = 1) -> list[TwoGroups]:
    """The designs (the truth among them) and labels whose worlds fall into two groups.

    The rule: in ascending order two neighbouring estimates are over 6 mean standard errors apart,
    with 3 worlds or more, and 5 % of them or more, on either side. The standard error is that of
    ``user_cluster`` where a design has it, else of ``welch``. Where it is right, estimates with one
    hump meet the rule less than once in 10,000 times, with heavy tails (Student's t with 2.5
    degrees of freedom) or very skewed (log-normal, sigma 1.5) too; where it is three times too
    small, normal ones less than once in 500 times. Starting models have effects of their own; so
    with several of them 3 worlds or more must also be in another group than most of their start.

    Args:
        inference: the table of ``inference.inference_table``.
        n_starts: how many starting models the run has.
    """
    found = []
    for (design, label), group in inference.group_by(["design", "label"], maintain_order=True):
        has_units = (group["se_method"] == "user_cluster") & group["se"].is_not_null()
        method = "user_cluster" if has_units.any() else "welch"
        known = group.filter(pl.col("se_method") == method).drop_nulls(["value", "se"])
        known = known.sort("value")
        value, se = known["value"].to_numpy(), known["se"].to_numpy()
        least = max(MIN_GROUP, math.ceil(MIN_SHARE * len(value)))
        if len(value) < 2 * least or se.mean() == 0:
            continue
        gap = np.diff(value) / se.mean()
        if n_starts > 1:
            gap[_n_apart(known["world"].to_numpy() % n_starts) < MIN_GROUP] = 0.0
        gap = gap[least - 1 : len(value) - least]
        at = int(gap.argmax())
        if gap[at] > FAR:
            n_below = at + least
            found.append(
                TwoGroups(str(design), str(label), n_below, len(value) - n_below, float(gap[at]))
            )
    return found


def _n_apart(start_W: np.ndarray) -> np.ndarray:
    """Of worlds in order, cut behind each but the last: how many are not with most of their start.

    Args:
        start_W: each world's starting model.
    """
    is_of_WK = start_W[:, None] == np.unique(start_W)
    below_WK = is_of_WK.cumsum(0)[:-1]
    return np.minimum(below_WK, is_of_WK.sum(0) - below_WK).sum(1)
