"""Can a design's interval be believed, and what would believing it cost?

Both compare what one experimenter would have reported, world by world, with the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from realdataexp.stats.comparison import TRUTH
from realdataexp.stats.estimates import CONFIDENCE
from realdataexp.stats.intervals import ALPHA, rejects

MIN_WORLDS = 20
KEYS = ["design", "label", "se_method"]


def honesty(
    inference: pl.DataFrame, truth_estimates: pl.DataFrame, is_aa: bool
) -> list[dict[str, Any]]:
    """One entry per design, label and interval method: does it cover as often as it says?

    An entry has n_worlds (with an estimate) and n_intervals (with an interval); ``sd`` of the
    estimates over worlds and ``se_mean``, which should be alike; ``coverage`` of the true GTE (the
    mean over worlds of the truth) and ``reject_share`` (intervals that exclude 0, which is a
    p-value of at most 0.05; under A/A the type-I error), each with its exact binomial 95 %
    interval (Clopper and Pearson 1934) as ``_low`` and ``_high``; ``reject_share_adjusted``, the
    share of the intervals whose p-value, adjusted for the labels, is at most 0.05;
    ``sign_error_rate``, null where the truth is 0; and ``trustworthy``.

    **The rule of trustworthy.** Under A/A: the type-I error's binomial interval reaches down to
    0.05 or lies below it. Otherwise: the coverage's binomial interval reaches up to 0.95 or lies
    above it. So an interval that is too wide is trusted, and one whose worlds do not yet refute it
    too; with fewer than 20 intervals the answer is null. Coverage is lost to bias too: a design
    may be trustworthy under A/A and not in a test with an effect.

    Args:
        inference: the table of ``inference.inference_table``; the truth's own rows are left out.
        truth_estimates: estimates with the truth among the designs.
        is_aa: whether both arms are the same.
    """
    entries = []
    for entry, group in _by_method(inference, truth_estimates):
        gte = entry["gte"]
        entries.append({**entry, **_spread(group, gte), **_shares(group, gte, is_aa)})
    return entries


def _by_method(
    inference: pl.DataFrame, truth_estimates: pl.DataFrame
) -> Iterator[tuple[dict[str, Any], pl.DataFrame]]:
    """The start of each entry, with the true effect, and its rows of the table."""
    truth = true_effects(truth_estimates)
    designs = inference.filter(pl.col("design") != TRUTH)
    for keys, group in designs.group_by(KEYS, maintain_order=True):
        entry: dict[str, Any] = dict(zip(KEYS, keys, strict=True))
        yield {**entry, "gte": truth.get(entry["label"])}, group


def true_effects(truth_estimates: pl.DataFrame) -> dict[str, float]:
    """The true GTE of each label: the mean over worlds of the truth's estimates."""
    truth = truth_estimates.filter(pl.col("design") == TRUTH).drop_nulls("value")
    means = truth.group_by("label", maintain_order=True).agg(pl.col("value").mean())
    return dict(means.iter_rows())


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


def _spread(group: pl.DataFrame, gte: float | None) -> dict[str, Any]:
    """How the estimates vary, and how often their sign is wrong."""
    value = group["value"].drop_nulls().to_numpy()
    se = group["se"].drop_nulls().to_numpy()
    is_signed = gte is not None and gte != 0.0 and len(value) > 0
    wrong = np.sign(value) != np.sign(gte or 0.0)
    return {
        "n_worlds": len(value),
        "sd": float(value.std(ddof=1)) if len(value) > 1 else None,
        "se_mean": float(se.mean()) if len(se) else None,
        "sign_error_rate": float(wrong.mean()) if is_signed else None,
    }


def _shares(group: pl.DataFrame, gte: float | None, is_aa: bool) -> dict[str, Any]:
    """Coverage, rejections and the verdict; null where nothing tells."""
    names = (
        "coverage", "coverage_low", "coverage_high", "reject_share", "reject_low", "reject_high",
        "reject_share_adjusted", "trustworthy",
    )  # fmt: skip
    out: dict[str, Any] = dict.fromkeys(names)
    known = group.drop_nulls(["ci_low", "ci_high"])
    n = out["n_intervals"] = known.height
    if n == 0:
        return out
    n_rejected = int(rejects(known).sum())
    out["reject_share"] = n_rejected / n
    out["reject_low"], out["reject_high"] = binomial_interval(n_rejected, n)
    out["reject_share_adjusted"] = int((known["p_adjusted"] <= ALPHA).sum()) / n
    if gte is not None:
        is_in = known.select((pl.col("ci_low") <= gte) & (pl.col("ci_high") >= gte)).to_series()
        out["coverage"] = int(is_in.sum()) / n
        out["coverage_low"], out["coverage_high"] = binomial_interval(int(is_in.sum()), n)
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


def wrong_launch_regret(
    inference: pl.DataFrame, truth_estimates: pl.DataFrame
) -> list[dict[str, Any]]:
    """What it costs, per visit, to decide by a design's interval.

    **The rule of decision**: launch where the interval lies above 0. Right is to launch exactly if
    the true GTE is above 0 (a label of which more is better). ``regret`` is the mean over worlds
    of |GTE| where the decision is wrong and 0 where it is right, in the label's unit per visit;
    ``wrong_share`` is the share of wrong decisions, ``launch_share`` that of launches. Not
    launching a good treatment for want of data counts too.

    Args:
        inference: the table of ``inference.inference_table``.
        truth_estimates: estimates with the truth among the designs.

    Returns:
        One entry per design, label and se_method, over the worlds with an interval; nulls where
        there is none or the truth is unknown.
    """
    entries = []
    for entry, group in _by_method(inference, truth_estimates):
        gte = entry["gte"]
        is_launched = group["ci_low"].drop_nulls() > 0
        entry["n_intervals"] = n = len(is_launched)
        entry.update(launch_share=None, wrong_share=None, regret=None)
        if n and gte is not None:
            launched = int(is_launched.sum()) / n
            wrong = 1.0 - launched if gte > 0 else launched
            entry.update(launch_share=launched, wrong_share=wrong, regret=abs(gte) * wrong)
        entries.append(entry)
    return entries
