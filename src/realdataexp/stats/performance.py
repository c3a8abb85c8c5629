"""How far is a design's answer from the truth, can its interval be believed, what does that cost?

All compare what one experimenter would have reported, world by world, with the truth. Every figure
is computed once, by ``judge``; the parts of a result take theirs by ``section``, and ``plan`` says
what effect a design could have detected.

The true global treatment effect (GTE) is the difference between two separate worlds: everybody
treated, and nobody. In the tables both stand under the design "global", as its arms T and C.

Axes: W worlds.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy import stats

from realdataexp.stats.estimates import TRUTH, mean_over_worlds, sd_within_starts
from realdataexp.stats.inference import inference_table
from realdataexp.stats.intervals import ALPHA, CONFIDENCE, rejects

MIN_WORLDS = 20
KEYS = ("design", "label", "se_method")

# the figures of each part of a result; "comparison" is by Welch's interval alone
SECTIONS = {
    "comparison": (
        "design", "label", "gte", "estimate", "bias", "bias_mc_se", "bias_df", "sd", "rmse",
        "se_mean", "se_ratio", "coverage", "sign_error_rate", "regret", "n_worlds",
    ),
    "inference": (
        *KEYS, "gte", "estimate", "bias", "bias_mc_se", "bias_df", "n_worlds", "n_intervals", "sd",
        "se_mean", "sign_error_rate", "coverage", "coverage_low", "coverage_high", "reject_share",
        "reject_low", "reject_high",
        "reject_share_adjusted", "trustworthy",
    ),
    "regret": (*KEYS, "gte", "n_intervals", "launch_share", "wrong_share", "regret"),
}  # fmt: skip
# of two groups of worlds: see two_groups
FAR = 6.0
MIN_GROUP = 3
MIN_SHARE = 0.05
_NUMBERS_OF_PLAN = (
    "n_visits", "control_mean", "effect", "effect_percent", "bias", "bias_mc_se", "sd",
    "power_at_effect", "mde_reported", "mde_honest", "mde_honest_percent",
)  # fmt: skip
PLAN_SCHEMA = pl.Schema(
    {
        "p": pl.Float64, "retrain_every": pl.Int64, "steps": pl.Int64, "design": pl.String,
        "label": pl.String, "n_worlds": pl.Int64,
        **dict.fromkeys(_NUMBERS_OF_PLAN, pl.Float64), "detects": pl.Boolean,
    }
)  # fmt: skip


@dataclass(frozen=True)
class Performance:
    """One design's figures for a label, by one interval method; None where nothing tells.

    - ``gte``, ``estimate``: the true effect and the design's, means over worlds.
    - ``bias``: the mean of the paired differences of estimate and truth. In a replication both
      share their random numbers, so most noise cancels. ``bias_mc_se``, ``bias_df``: its
      Monte-Carlo standard error, clustered by starting model, and its degrees of freedom
      (``mean_over_worlds``); bias over error is Student's t where there is no bias.
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
    """

    design: str
    label: str
    se_method: str
    gte: float | None
    n_worlds: int
    p_treatment: float | None
    n_visits: float
    estimate: float | None
    bias: float | None
    bias_mc_se: float | None
    bias_df: int | None
    sd: float | None
    se_mean: float | None
    n_intervals: int
    se_ratio: float | None = None
    rmse: float | None = None
    sign_error_rate: float | None = None
    coverage: float | None = None
    coverage_low: float | None = None
    coverage_high: float | None = None
    reject_share: float | None = None
    reject_low: float | None = None
    reject_high: float | None = None
    reject_share_adjusted: float | None = None
    power_at_effect: float | None = None
    launch_share: float | None = None
    wrong_share: float | None = None
    regret: float | None = None
    trustworthy: bool | None = None


def gte_results(outcomes: pl.DataFrame, ratios: Collection[str] = ()) -> dict[str, float | None]:
    """For each label: totals of the treated and the control world, and their difference.

    Totals are means over replications: ``GT_<label>``, ``GC_<label>``, ``GTE_<label>`` and
    ``GTE_<label>_relative`` (percent of GC; null where GC is 0). A ratio has no total: it is the
    mean of the worlds' ratios.

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
        if label in ratios:
            of_world = pl.col("sum") / pl.col("n").sum().over("world", "arm")
            group = group.with_columns(sum=of_world)
        sums = (group.filter(pl.col("arm") == arm)["sum"].sum() for arm in "TC")
        treated, control = (float(x) / n_worlds for x in sums)
        effect = treated - control
        results |= {
            f"GT_{label}": treated,
            f"GC_{label}": control,
            f"GTE_{label}": effect,
            f"GTE_{label}_relative": 100.0 * effect / control if control else None,
        }
    return results


def true_effects(estimates: pl.DataFrame) -> dict[str, float]:
    """The true GTE of each label: the mean over worlds of the truth's estimates."""
    truth = estimates.filter(pl.col("design") == TRUTH).drop_nulls("value")
    means = truth.group_by("label", maintain_order=True).agg(pl.col("value").mean())
    return dict(means.iter_rows())


def judge(inference: pl.DataFrame, is_aa: bool = False, n_starts: int = 1) -> list[Performance]:
    """The performance of each design, label and interval method.

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
        >>> found.gte, found.bias, found.bias_mc_se  # both are 2 too large
        (2.0, 2.0, 0.0)
        >>> found.coverage  # 1 to 5 holds 2; 3 to 7 does not
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
        gte = effects.get(str(keys[1]))
        counts = group if gte is None else group.drop_nulls("truth")
        spread, shares = _spread(counts, gte, n_starts), _shares(counts, gte, is_aa)
        design, label, method = map(str, keys)
        entries.append(Performance(design, label, method, gte, **spread, **shares))
    return entries


def section(judged: Iterable[Performance], name: str) -> list[dict[str, Any]]:
    """The figures of one part of a result: a name of SECTIONS."""
    return [
        {key: getattr(entry, key) for key in SECTIONS[name]}
        for entry in judged
        if name != "comparison" or entry.se_method == "welch"
    ]


@cache  # a run asks a hundred times, of few numbers, and SciPy searches for each end
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


def _share_with_interval(n_hits: int, n: int, share: str, ends: str) -> dict[str, float | None]:
    """A share and its exact interval under their names; null where nothing counts."""
    values = (n_hits / n, *binomial_interval(n_hits, n)) if n else (None,) * 3
    return dict(zip((share, f"{ends}_low", f"{ends}_high"), values, strict=True))


def _spread(group: pl.DataFrame, gte: float | None, n_starts: int) -> dict[str, Any]:
    """How the estimates vary, and how far they are from the truth."""
    known = group.drop_nulls("value")
    value, world = known["value"].to_numpy(), known["world"].to_numpy()
    se = group["se"].drop_nulls().to_numpy()
    n_T, n_C = int(group["n_T"].sum()), int(group["n_C"].sum())
    error = value - known["truth"].to_numpy() if gte is not None else value[:0]
    bias = mean_over_worlds(error, world[: len(error)], n_starts)
    out: dict[str, Any] = {
        "n_worlds": len(value),
        "p_treatment": n_T / (n_T + n_C) if n_T + n_C else None,
        "n_visits": (n_T + n_C) / group.height if group.height else 0.0,
        "estimate": float(value.mean()) if len(value) else None,
        "bias": bias.value,
        "bias_mc_se": bias.se,
        "bias_df": bias.df,
        "sd": sd_within_starts(value, world, n_starts),
        "se_mean": float(se.mean()) if len(se) else None,
    }
    if out["sd"] and out["se_mean"] is not None:
        out["se_ratio"] = out["se_mean"] / out["sd"]
    if gte is not None and len(value):
        own = known["own_truth"].to_numpy()
        out["rmse"] = float(np.sqrt(((value - own) ** 2).mean()))
        if own.any():
            out["sign_error_rate"] = float((np.sign(value) != np.sign(own)).mean())
    return out


def _shares(group: pl.DataFrame, gte: float | None, is_aa: bool) -> dict[str, Any]:
    """Shares of the intervals, and the verdict."""
    known = group.drop_nulls(["ci_low", "ci_high"])
    low, high = known["ci_low"].to_numpy(), known["ci_high"].to_numpy()
    n = known.height
    out: dict[str, Any] = {"n_intervals": n}
    if n == 0:
        return out
    n_rejected = int(rejects(known).sum())
    out |= _share_with_interval(n_rejected, n, "reject_share", "reject")
    out["reject_share_adjusted"] = int((known["p_adjusted"] <= ALPHA).sum()) / n
    if gte is not None:
        own = known["own_truth"].to_numpy()
        n_covering = int(((low <= own) & (high >= own)).sum())
        out |= _share_with_interval(n_covering, n, "coverage", "coverage")
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
    there is none the shares are null. The truth's own rows are left out.
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
        shares = _share_with_interval(n_rejected, n, "any_reject_share", "any_reject")
        entries.append({**dict(zip(keys, names, strict=True)), "n_worlds": n, **shares})
    return entries


class TwoGroups(NamedTuple):
    """The worlds of a design and label in two groups: how large, and how many errors apart."""

    design: str
    label: str
    n_below: int
    n_above: int
    gap_se: float


def two_groups(inference: pl.DataFrame, n_starts: int = 1) -> list[TwoGroups]:
    """The designs (the truth among them) and labels whose worlds fall into two groups.

    A training loop can have more than one state that keeps itself up. Which one a world ends in is
    chance, so the worlds' effects are far apart; a single test sees one state only, its standard
    error knows nothing of the others, and the mean over worlds may be that of none.

    The rule: in ascending order two neighbouring estimates are over 6 mean standard errors apart,
    with 3 worlds or more, and 5 % of them or more, on either side. The standard error is that of
    ``user_cluster`` where a design has it, else of ``welch``. Where it is right, estimates with one
    hump meet the rule less than once in 10,000 times, with heavy tails (Student's t with 2.5
    degrees of freedom) or very skewed (log-normal, sigma 1.5) too; where it is three times too
    small, normal ones less than once in 500 times. Starting models have effects of their own; so
    with several of them 3 worlds or more must also be in another group than most of their start.
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
    """Of worlds in order, cut after each but the last: those not with most of their start."""
    is_of_WZ = start_W[:, None] == np.unique(start_W)
    below_WZ = is_of_WZ.cumsum(0)[:-1]
    return np.minimum(below_WZ, is_of_WZ.sum(0) - below_WZ).sum(1)


def minimum_detectable_effect(se: float, power: float = 0.8, alpha: float = ALPHA) -> float:
    """The effect that a two-sided z test detects with this power: (z_{1-alpha/2} + z_power) se.

    Normal theory, without bias; the chance of a rejection on the wrong side is left out.

    Raises:
        ValueError: se below 0, or power or alpha not between 0 and 1.

    Examples:
        >>> round(minimum_detectable_effect(se=1.0), 2)  # 1.96 + 0.84
        2.8
    """
    if se < 0:
        raise ValueError(f"se == {se}, must be >= 0")
    for name, share in (("power", power), ("alpha", alpha)):
        if not 0 < share < 1:
            raise ValueError(f"{name} == {share}, must be > 0 and < 1")
    return float(stats.norm.ppf(1 - alpha / 2) + stats.norm.ppf(power)) * se


def plan(judged: Iterable[Performance], power: float = 0.8) -> list[dict[str, Any]]:
    """One entry per design, label and interval method: what a test like these can detect.

    - ``p_treatment``, ``n_visits``, ``effect``, ``bias``, ``power_at_effect``: as judged.
    - ``mde_reported`` = (z_0.975 + z_power) se_mean: what an experimenter would be told.
    - ``mde_honest`` = (z_0.975 + z_power) sd + |bias|, with sd that of the estimates over
      worlds: estimates are about normal around effect + bias, and a bias against the effect must
      be overcome before anything shows.

    Null where too few worlds tell. Other p, lengths and cadences are other runs.
    """
    entries = []
    for x in judged:
        reported = honest = None
        if x.se_mean is not None:
            reported = minimum_detectable_effect(x.se_mean, power)
        if x.sd is not None and x.bias is not None:
            honest = minimum_detectable_effect(x.sd, power) + abs(x.bias)
        names = (*KEYS, "n_worlds", "p_treatment", "n_visits")
        entries.append(
            {name: getattr(x, name) for name in names}
            | {"effect": x.gte, "bias": x.bias, "power_at_effect": x.power_at_effect}
            | {"mde_reported": reported, "mde_honest": honest}
        )
    return entries


@dataclass(frozen=True)
class PlannedRun:
    """A run of mode compare, as one p and training cadence had it: its table outcomes.parquet."""

    p: float
    retrain_every: int
    outcomes: pl.DataFrame
    n_starts: int = 1


def plan_grid(
    runs: Iterable[PlannedRun],
    steps: Sequence[int],
    designs: Sequence[str],
    labels: Sequence[str],
    power: float = 0.8,
) -> pl.DataFrame:
    """What each design could detect at each p, cadence and length, by Welch's interval.

    What happens in a step does not depend on how many follow, so a test that ends after n steps is
    the first n steps of a longer one, for the truth and for the designs. The true effect of a
    shorter test is another number: the mean per visit up to there.

    Args:
        runs: a run for each p and cadence.
        steps: the lengths.
        designs: those that get a row in each case.
        labels: the names of the outcomes.
        power: the chance with which the effect shall be detected.

    Returns:
        PLAN_SCHEMA, sorted by p, retrain_every, steps and design. Besides what ``plan`` says:
        ``bias_mc_se`` and ``sd`` as in ``judge``; ``control_mean``, what a visit of
        the control world yields; ``_percent``, relative to its size; ``detects``, whether the
        true effect is as large as ``mde_honest``. Null where too few worlds tell.
    """
    rows = [
        {"p": run.p, "retrain_every": run.retrain_every, "steps": n, **row}
        for run in runs
        for n in steps
        for row in _answers(run, n, designs, labels, power)
    ]
    order = ["p", "retrain_every", "steps", "design"]
    return pl.DataFrame(rows, schema=PLAN_SCHEMA).sort(order, maintain_order=True)


def _answers(
    run: PlannedRun, n_steps: int, designs: Sequence[str], labels: Sequence[str], power: float
) -> Iterator[dict[str, Any]]:
    """A row for every design and label, also where nobody counted for a design yet."""
    outcomes = run.outcomes.filter(pl.col("step") < n_steps)
    inference = inference_table(outcomes, None, ["welch"])
    judged = judge(inference, n_starts=run.n_starts)
    found = {
        (e.design, e.label): {**vars(e), **planned}
        for e, planned in zip(judged, plan(judged, power), strict=True)
    }
    effects, controls = true_effects(inference), _control_means(outcomes)
    for design in designs:
        for label in labels:
            effect, control = effects.get(label), controls.get(label)
            row = {"n_worlds": 0, "n_visits": 0.0, **found.get((design, label), {})}
            mde = row.get("mde_honest")
            row |= {
                "design": design, "label": label, "control_mean": control, "effect": effect,
                "effect_percent": _percent(effect, control),
                "mde_honest_percent": _percent(mde, control),
                "detects": None if effect is None or mde is None else abs(effect) >= mde,
            }  # fmt: skip
            yield {name: row[name] for name in PLAN_SCHEMA if name in row}


def _control_means(outcomes: pl.DataFrame) -> dict[str, float]:
    """Each label's mean per visit where nobody is treated: the mean over worlds."""
    control = outcomes.filter((pl.col("design") == TRUTH) & (pl.col("arm") == "C"))
    worlds = control.group_by("label", "world", maintain_order=True).agg(
        mean=pl.col("sum").sum() / pl.col("n").sum()
    )
    means = worlds.group_by("label", maintain_order=True).agg(pl.col("mean").mean())
    return dict(means.iter_rows())


def _percent(value: float | None, control: float | None) -> float | None:
    return 100.0 * value / abs(control) if value is not None and control else None
