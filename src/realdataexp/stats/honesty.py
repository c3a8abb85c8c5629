"""How far is a design's answer from the truth, can its interval be believed, what does that cost?

All compare what one experimenter would have reported, world by world, with the truth. Every figure
is computed once, by ``judge``; the parts of a result take theirs by ``section``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from realdataexp.stats.comparison import TRUTH, true_effects
from realdataexp.stats.estimates import CONFIDENCE
from realdataexp.stats.intervals import ALPHA, rejects
from realdataexp.stats.starts import mean_over_worlds, sd_within_starts

MIN_WORLDS = 20
KEYS = ("design", "label", "se_method")

# the figures of each part of a result; "comparison" is by Welch's interval alone
SECTIONS = {
    "comparison": (
        "design", "label", "gte", "estimate", "bias", "bias_mc_se", "bias_df", "sd", "rmse",
        "se_mean", "se_ratio", "coverage", "sign_error_rate", "regret", "n_worlds",
    ),
    "inference": (
        *KEYS, "gte", "n_worlds", "n_intervals", "sd", "se_mean", "sign_error_rate",
        "coverage", "coverage_low", "coverage_high", "reject_share", "reject_low", "reject_high",
        "reject_share_adjusted", "trustworthy",
    ),
    "regret": (*KEYS, "gte", "n_intervals", "launch_share", "wrong_share", "regret"),
}  # fmt: skip


def judge(inference: pl.DataFrame, is_aa: bool = False, n_starts: int = 1) -> list[dict[str, Any]]:
    """One entry of figures per design, label and interval method; null where nothing tells.

    - ``gte``, ``estimate``: the true effect and the design's, means over worlds.
    - ``bias``: the mean of the paired differences of estimate and truth. In a replication both
      share their random numbers, so most noise cancels. ``bias_mc_se``, ``bias_df``: its
      Monte-Carlo standard error, clustered by starting model, and its degrees of freedom
      (``starts.mean_over_worlds``); bias over error is Student's t where there is no bias.
    - ``sd``, ``rmse``: of the estimates over worlds, around their mean and around the truth.
      Whoever runs a test has one starting model; so ``sd``, and all figures below, compare a
      world's estimate with the worlds, and the truth, of its own starting model.
    - ``se_mean``, ``se_ratio``: the mean standard error, and that over sd, which should be 1.
    - ``sign_error_rate``: the share of worlds whose estimate has not the truth's sign; null where
      the truth is 0.
    - ``coverage`` of the true GTE and ``reject_share`` (intervals that exclude 0, which is a
      p-value of at most 0.05; under A/A the type-I error), each with its exact binomial 95 %
      interval as ``_low`` and ``_high``; ``reject_share_adjusted``, the share of the intervals
      whose p-value, adjusted for the labels, is at most 0.05; ``power_at_effect``, the share that
      excludes 0 on the true effect's side.
    - ``launch_share``, ``wrong_share``, ``regret``: launch where the interval lies above 0. Right
      is to launch exactly if the true GTE is above 0 (a label of which more is better). Regret is
      the mean over worlds of abs(GTE) where the decision is wrong and 0 where it is right: not
      launching a good treatment for want of data counts too.
    - ``trustworthy``, by this rule. Under A/A: the type-I error's binomial interval reaches down
      to 0.05 or lies below it. Otherwise: the coverage's binomial interval reaches up to 0.95 or
      lies above it. So an interval that is too wide is trusted, and one whose worlds do not yet
      refute it too; with fewer than 20 intervals the answer is null. Coverage is lost to bias too:
      a design may be trustworthy under A/A and not in a test with an effect.
    - ``n_worlds`` (with an estimate), ``n_intervals``; ``p_treatment``, ``n_visits``: the share of
      treated visits, and visits a world.

    A world in which the truth has no value does not count where it has one in others.

    Args:
        inference: the table of ``inference.inference_table``, with the truth among the designs.
        is_aa: whether both arms are the same.
        n_starts: how many starting models the run has.

    Examples:
        Two replications; the truth is 2 on average, pooling says 3 and 5:

        >>> inference = pl.DataFrame({
        ...     "design": ["global", "global", "pooling", "pooling"], "label": ["a"] * 4,
        ...     "se_method": ["welch"] * 4, "world": [0, 1, 0, 1], "value": [1.0, 3.0, 3.0, 5.0],
        ...     "se": [1.0] * 4, "ci_low": [0.0, 2.0, 1.0, 3.0], "ci_high": [2.0, 4.0, 5.0, 7.0],
        ...     "p_adjusted": [0.2] * 4, "n_T": [9] * 4, "n_C": [9] * 4,
        ... })
        >>> found = judge(inference)[0]
        >>> found["gte"], found["bias"], found["bias_mc_se"]  # both are 2 too large
        (2.0, 2.0, 0.0)
        >>> found["coverage"]  # 1 to 5 holds 2; 3 to 7 does not
        0.5
    """
    truth = inference.filter(pl.col("design") == TRUTH).drop_nulls("value")
    start = pl.col("world") % n_starts
    own_truth = pl.col("value").mean().over("label", start)
    beside = truth.select("label", "world", truth="value", own_truth=own_truth)
    designs = inference.filter(pl.col("design") != TRUTH)
    rows = designs.join(beside, on=["label", "world"], how="left", maintain_order="left")
    effects = true_effects(inference)
    entries = []
    for keys, group in rows.group_by(KEYS, maintain_order=True):
        entry: dict[str, Any] = dict(zip(KEYS, keys, strict=True))
        entry["gte"] = gte = effects.get(entry["label"])
        counts = group if gte is None else group.drop_nulls("truth")
        entry.update(_spread(counts, gte, n_starts), **_shares(counts, gte, is_aa))
        if entry["sd"] and entry["se_mean"] is not None:
            entry["se_ratio"] = entry["se_mean"] / entry["sd"]
        entries.append(entry)
    return entries


def section(judged: Iterable[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The figures of one part of a result: a name of SECTIONS."""
    return [
        {key: entry[key] for key in SECTIONS[name]}
        for entry in judged
        if name != "comparison" or entry["se_method"] == "welch"
    ]


def binomial_interval(n_hits: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's exact 95 % interval of a share.

    Examples:
        None of 20: the share p with (1 - p)^20 = 2.5 % is the upper end.

        >>> low, high = binomial_interval(0, 20)
        >>> low, round((1 - high) ** 20, 6)
        (0.0, 0.025)
    """
    found = stats.binomtest(n_hits, n).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)


def _spread(group: pl.DataFrame, gte: float | None, n_starts: int) -> dict[str, Any]:
    """How the estimates vary, and how far they are from the truth."""
    known = group.drop_nulls("value")
    value, world = known["value"].to_numpy(), known["world"].to_numpy()
    se = group["se"].drop_nulls().to_numpy()
    n_T, n_C = int(group["n_T"].sum()), int(group["n_C"].sum())
    error = value - known["truth"].to_numpy() if gte is not None else value[:0]
    bias = mean_over_worlds(error, world[: len(error)], n_starts)
    out = {
        "n_worlds": len(value),
        "p_treatment": n_T / (n_T + n_C) if n_T + n_C else None,
        "n_visits": (n_T + n_C) / group.height if group.height else 0.0,
        "estimate": float(value.mean()) if len(value) else None,
        "bias": bias.value,
        "bias_mc_se": bias.se,
        "bias_df": bias.df,
        "sd": sd_within_starts(value, world, n_starts),
        "se_mean": float(se.mean()) if len(se) else None,
        "se_ratio": None,
        "rmse": None,
        "sign_error_rate": None,
    }
    if gte is not None and len(value):
        own = known["own_truth"].to_numpy()
        out["rmse"] = float(np.sqrt(((value - own) ** 2).mean()))
        if own.any():
            out["sign_error_rate"] = float((np.sign(value) != np.sign(own)).mean())
    return out


def _shares(group: pl.DataFrame, gte: float | None, is_aa: bool) -> dict[str, Any]:
    """Shares of the intervals, and the verdict."""
    names = (
        "coverage", "coverage_low", "coverage_high", "reject_share", "reject_low", "reject_high",
        "reject_share_adjusted", "power_at_effect", "launch_share", "wrong_share", "regret",
        "trustworthy",
    )  # fmt: skip
    out: dict[str, Any] = dict.fromkeys(names)
    known = group.drop_nulls(["ci_low", "ci_high"])
    low, high = known["ci_low"].to_numpy(), known["ci_high"].to_numpy()
    n = out["n_intervals"] = known.height
    if n == 0:
        return out
    n_rejected = int(rejects(known).sum())
    out["reject_share"] = n_rejected / n
    out["reject_low"], out["reject_high"] = binomial_interval(n_rejected, n)
    out["reject_share_adjusted"] = int((known["p_adjusted"] <= ALPHA).sum()) / n
    if gte is not None:
        own = known["own_truth"].to_numpy()
        n_covering = int(((low <= own) & (high >= own)).sum())
        out["coverage"] = n_covering / n
        out["coverage_low"], out["coverage_high"] = binomial_interval(n_covering, n)
        is_wrong = (low > 0) != (own > 0)
        out["launch_share"] = int((low > 0).sum()) / n
        out["wrong_share"] = int(is_wrong.sum()) / n
        out["regret"] = float((np.abs(own) * is_wrong).mean())
        if own.any():
            out["power_at_effect"] = int(np.where(own > 0, low > 0, high < 0).sum()) / n
    if n >= MIN_WORLDS and is_aa:
        out["trustworthy"] = out["reject_low"] <= ALPHA
    elif n >= MIN_WORLDS and gte is not None:
        out["trustworthy"] = out["coverage_high"] >= CONFIDENCE
    return out


def family_rejections(inference: pl.DataFrame) -> list[dict[str, Any]]:
    """One entry per design and interval method: how often is any label's effect called real?

    ``any_reject_share`` is the share of worlds in which a label's p-value, adjusted for the labels
    (Holm 1979), is at most 0.05, with its exact binomial 95 % interval as ``any_reject_low`` and
    ``any_reject_high``. Under A/A it is the chance of any false rejection, which Holm's method
    keeps to 5 % where each label's test does. ``n_worlds`` counts the worlds with a p-value; where
    there is none the shares are null.

    Args:
        inference: the table of ``inference.inference_table``; the truth's own rows are left out.
    """
    least = pl.col("p_adjusted").min()
    keys = ["design", "se_method"]
    worlds = inference.filter(pl.col("design") != TRUTH).group_by(
        [*keys, "world"], maintain_order=True
    )
    entries = []
    for names, group in worlds.agg(least).group_by(keys, maintain_order=True):
        known = group["p_adjusted"].drop_nulls()
        n, n_rejected = len(known), int((known <= ALPHA).sum())
        entry: dict[str, Any] = dict(zip(keys, names, strict=True))
        entry.update(n_worlds=n, any_reject_share=None, any_reject_low=None, any_reject_high=None)
        if n:
            entry["any_reject_share"] = n_rejected / n
            entry["any_reject_low"], entry["any_reject_high"] = binomial_interval(n_rejected, n)
        entries.append(entry)
    return entries
