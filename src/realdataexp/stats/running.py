"""The effect so far, while an experiment runs: what progress shows."""

from __future__ import annotations

from typing import NamedTuple

import polars as pl

from realdataexp.stats.comparison import TRUTH
from realdataexp.stats.starts import mean_over_worlds


class RelativeEffect(NamedTuple):
    """An effect in percent of control, and its standard error (None with fewer than 2 worlds)."""

    design: str
    label: str
    percent: float
    se: float | None


def relative_effects(totals: pl.DataFrame, n_starts: int = 1) -> list[RelativeEffect]:
    """Each label's effect in percent of control: of the truth where it is run, else of the design.

    With T and C a world's totals in its arms (of the truth), or its means per visit (of a design),
    the effect is rho = mean(T - C) / mean(C) over worlds, so that at the end of a run it is
    ``GTE_<label>_relative``. Its standard error is that of a ratio of means by the delta method
    (Cochran 1977, Sampling Techniques, equation 2.46): that of the mean over worlds of
    T - C - rho C, over |mean(C)|.

    Args:
        totals: sums as ``aggregates.world_totals`` gives, of the truth or of one design, or of
            both, where only the truth is looked at.
        n_starts: how many starting models the run has.

    Returns:
        An entry for each label, in the order of the table, whose effect has a number: some world
        has outcomes in both arms, and the mean of C is not 0.

    Examples:
        Everybody treated brought 12 and 9 minutes in two worlds, nobody treated 10 and 10:

        >>> totals = pl.DataFrame({
        ...     "design": ["global"] * 4, "world": [0, 0, 1, 1], "arm": ["T", "C"] * 2,
        ...     "label": ["minutes"] * 4, "n": [5] * 4, "sum": [12.0, 10.0, 9.0, 10.0],
        ... })
        >>> effect = relative_effects(totals)[0]
        >>> effect.percent, round(effect.se, 6)  # T - C is 2 and -1, of 10
        (5.0, 15.0)
    """
    designs = totals["design"].unique(maintain_order=True).to_list()
    if not designs:
        return []
    design = TRUTH if TRUTH in designs else designs[0]
    value = pl.col("sum") if design == TRUTH else pl.col("sum") / pl.col("n")
    own = totals.filter(pl.col("design") == design).with_columns(value=value)
    keys = ["label", "world"]
    arms = [own.filter(pl.col("arm") == arm).select(*keys, value="value") for arm in ("T", "C")]
    worlds = arms[0].join(arms[1], on=keys, suffix="_C", maintain_order="left")
    found = []
    for (label,), group in worlds.group_by("label", maintain_order=True):
        treated, control = group["value"].to_numpy(), group["value_C"].to_numpy()
        scale = abs(control.mean())
        if scale == 0:
            continue
        rho = (treated - control).mean() / control.mean()
        rest = treated - control - rho * control
        se = mean_over_worlds(rest, group["world"].to_numpy(), n_starts).se
        relative = None if se is None else float(100 * se / scale)
        found.append(RelativeEffect(design, str(label), float(100 * rho), relative))
    return found
