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


def two_groups(inference: pl.DataFrame) -> list[TwoGroups]:
    """The designs (the truth among them) and labels whose worlds fall into two groups.

    The rule: in ascending order two neighbouring estimates are over 6 mean standard errors apart,
    with 3 worlds or more, and 5 % of them or more, on either side. The standard error is that of
    ``user_cluster`` where a design has it, else of ``welch``. Where it is right, estimates with one
    hump meet the rule less than once in 10,000 times, with heavy tails (Student's t with 2.5
    degrees of freedom) or very skewed (log-normal, sigma 1.5) too; where it is three times too
    small, normal ones less than once in 500 times.

    Args:
        inference: the table of ``inference.inference_table``.
    """
    found = []
    for (design, label), group in inference.group_by(["design", "label"], maintain_order=True):
        has_units = (group["se_method"] == "user_cluster") & group["se"].is_not_null()
        method = "user_cluster" if has_units.any() else "welch"
        known = group.filter(pl.col("se_method") == method).drop_nulls(["value", "se"])
        value, se = np.sort(known["value"].to_numpy()), known["se"].to_numpy()
        least = max(MIN_GROUP, math.ceil(MIN_SHARE * len(value)))
        if len(value) < 2 * least or se.mean() == 0:
            continue
        gap = np.diff(value)[least - 1 : len(value) - least] / se.mean()
        at = int(gap.argmax())
        if gap[at] > FAR:
            n_below = at + least
            found.append(
                TwoGroups(str(design), str(label), n_below, len(value) - n_below, float(gap[at]))
            )
    return found
