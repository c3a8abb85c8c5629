"""The truth, and how far each design's answer is from it.

The true global treatment effect (GTE) is the difference between two separate worlds: everybody
treated, and nobody. In the tables both stand under the design "global", as its arms T and C.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
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


def compare(estimates: pl.DataFrame) -> list[dict[str, Any]]:
    """One entry per design and label: bias, spread and honesty against the truth.

    A design's estimate and the truth of the same replication share their random numbers, so bias
    is the mean of paired differences and ``bias_mc_se`` its Monte-Carlo standard error; bias over
    it is Student's t with ``bias_df`` degrees of freedom where there is no bias. ``sd`` is that of
    the estimate over replications, and ``se_ratio`` what an experimenter's mean standard error is
    of it; ``rmse``, ``coverage`` and ``sign_error_rate`` are against the mean truth.
    ``regret`` is what launching exactly where the interval lies above 0 costs per visit, as in
    ``honesty.wrong_launch_regret``.

    Args:
        estimates: the table of estimates.parquet, the truth among the designs.

    Examples:
        Two replications; the truth is 2 on average, pooling says 3 and 5:

        >>> estimates = pl.DataFrame({
        ...     "design": ["global", "global", "pooling", "pooling"], "label": ["a"] * 4,
        ...     "world": [0, 1, 0, 1], "value": [1.0, 3.0, 3.0, 5.0], "se": [1.0] * 4,
        ...     "ci_low": [0.0, 2.0, 1.0, 3.0], "ci_high": [2.0, 4.0, 5.0, 7.0],
        ... })
        >>> found = compare(estimates)[0]
        >>> found["gte"], found["bias"], found["bias_mc_se"]  # both are 2 too large
        (2.0, 2.0, 0.0)
        >>> found["coverage"]  # 1 to 5 holds 2; 3 to 7 does not
        0.5
    """
    truth = estimates.filter(pl.col("design") == TRUTH)
    entries = []
    designs = estimates.filter(pl.col("design") != TRUTH)
    for (design, label), group in designs.group_by(["design", "label"], maintain_order=True):
        ours = truth.filter(pl.col("label") == label).select("world", gte="value")
        paired = group.join(ours, on="world", how="inner").drop_nulls(["value", "gte"])
        entries.append({"design": design, "label": label, **_against(paired)})
    return entries


def _against(paired: pl.DataFrame) -> dict[str, Any]:
    """The numbers of one design and label; null where too few worlds tell."""
    names = (
        "gte", "estimate", "bias", "bias_mc_se", "bias_df", "sd", "rmse", "se_mean", "se_ratio",
        "coverage", "sign_error_rate", "regret",
    )  # fmt: skip
    out: dict[str, Any] = dict.fromkeys(names)
    n = out["n_worlds"] = paired.height
    if n == 0:
        return out
    value, gte = paired["value"].to_numpy(), paired["gte"].to_numpy()
    truth = float(gte.mean())
    out.update(
        gte=truth,
        estimate=float(value.mean()),
        bias=float((value - gte).mean()),
        bias_df=n - 1,
        rmse=float(np.sqrt(((value - truth) ** 2).mean())),
        sign_error_rate=float((np.sign(value) != np.sign(truth)).mean()),
    )
    if n >= 2:
        out["bias_mc_se"] = float((value - gte).std(ddof=1)) / math.sqrt(n)
        out["sd"] = float(value.std(ddof=1))
    known = paired.drop_nulls(["se", "ci_low", "ci_high"])
    if known.height:
        low, high = known["ci_low"].to_numpy(), known["ci_high"].to_numpy()
        out["se_mean"] = float(known["se"].to_numpy().mean())
        out["coverage"] = float(((low <= truth) & (truth <= high)).mean())
        out["regret"] = abs(truth) * float(((low > 0) != (truth > 0)).mean())
        if out["sd"]:
            out["se_ratio"] = out["se_mean"] / out["sd"]
    return out
