"""The truth, and a design's bias against it.

The true global treatment effect (GTE) is the difference between two separate worlds: everybody
treated, and nobody. In the tables both stand under the design "global", as its arms T and C.
"""

from __future__ import annotations

import polars as pl

TRUTH = "global"


def gte_results(outcomes: pl.DataFrame) -> dict[str, float | None]:
    """For each label: totals of the treated and the control world, and their difference.

    Totals are means over replications: ``GT_<label>``, ``GC_<label>``, ``GTE_<label>`` and
    ``GTE_<label>_relative`` (percent of GC; null where GC is 0).

    Examples:
        Everybody treated clicked 12 times, nobody treated 10 times:

        >>> outcomes = pl.DataFrame({
        ...     "design": ["global"] * 2, "world": [0, 0], "label": ["click"] * 2,
        ...     "arm": ["T", "C"], "sum": [12.0, 10.0],
        ... })
        >>> gte_results(outcomes)
        {'GT_click': 12.0, 'GC_click': 10.0, 'GTE_click': 2.0, 'GTE_click_relative': 20.0}
    """
    truth = outcomes.filter(pl.col("design") == TRUTH)
    results: dict[str, float | None] = {}
    n_worlds = max(1, truth["world"].n_unique())
    for (label,), group in truth.group_by(["label"], maintain_order=True):
        totals = {
            arm: float(group.filter(pl.col("arm") == arm)["sum"].sum()) / n_worlds for arm in "TC"
        }
        effect = totals["T"] - totals["C"]
        results[f"GT_{label}"] = totals["T"]
        results[f"GC_{label}"] = totals["C"]
        results[f"GTE_{label}"] = effect
        results[f"GTE_{label}_relative"] = 100.0 * effect / totals["C"] if totals["C"] else None
    return results


def true_effects(estimates: pl.DataFrame) -> dict[str, float]:
    """The true GTE of each label: the mean over worlds of the truth's estimates."""
    truth = estimates.filter(pl.col("design") == TRUTH).drop_nulls("value")
    means = truth.group_by("label", maintain_order=True).agg(pl.col("value").mean())
    return dict(means.iter_rows())
