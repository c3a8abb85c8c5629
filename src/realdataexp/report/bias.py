"""Is a design's estimate biased? One rule for verdicts, stars, bold figures and charts.

An entry of ``comparison`` is one of n biases that a run looks at (designs times labels). Without a
bias, ``bias`` over ``bias_mc_se`` is Student's t with ``bias_df`` degrees of freedom. So a bias is
statistically significant where its interval bias ± t s excludes 0, with t the limit of 5 % / n
(Bonferroni): at most 5 % of runs without any bias show one, whatever n, the number of replications
and the correlation of the designs. The n intervals hold all n biases in 95 % of runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from scipy import stats

FALSE_FINDS = 0.05  # chance that a run without any bias shows one, over all its biases
SMALL, HIDDEN = 0.05, 0.2  # shares of the effect
MIN_REPLICATIONS, MANY = 5, 100_000
INTERVAL_OF_BIAS = (
    "An interval that excludes 0 is a bias found: the {n} of this run all hold their bias in 95 % "
    "of runs"
)
_SURE = float(stats.norm.ppf(0.9))  # so that a bias of 0 is then excluded in 80 % of runs

Kind = Literal["unknown", "few", "found", "small", "doubtful", "none", "unclear"]


def degrees_of_freedom(entry: dict[str, Any]) -> int:
    """Of ``bias_mc_se``; results of earlier versions have one for each replication but one."""
    df: int = entry.get("bias_df", entry["n_worlds"] - 1)
    return df


def limit(df: float, n_biases: int = 1) -> float:
    """Standard errors beyond which one of so many biases is statistically significant.

    Examples:
        >>> round(limit(39), 2), round(limit(39, n_biases=10), 2)
        (2.02, 2.98)
    """
    return float(stats.t.isf(FALSE_FINDS / 2 / n_biases, df))


def interval(entry: dict[str, Any], n_biases: int) -> tuple[float, float] | None:
    """The interval of a bias, one of so many; None where too few replications tell."""
    b, s, df = entry["bias"], entry["bias_mc_se"], degrees_of_freedom(entry)
    if b is None or s is None or df + 1 < MIN_REPLICATIONS:
        return None
    half = limit(df, n_biases) * s
    return b - half, b + half


def kind(entry: dict[str, Any], n_biases: int) -> Kind:
    """What an entry says of a bias, one of so many.

    ``unknown``: no bias, or no standard error. ``few``: too few replications. Else, by its interval
    and the truth: ``found``: the interval excludes 0. ``small``: so it does, but it holds no bias
    of more than 5 % of the effect. ``none``: it holds 0, and no bias of more than 20 % of the
    effect. ``unclear``: it holds both. ``doubtful``: it holds 0, but would not if this had been the
    run's only bias (and none of 5 % is excluded).
    """
    b, s, gte = entry["bias"], entry["bias_mc_se"], entry["gte"]
    if b is None or s is None:
        return "unknown"
    ends = interval(entry, n_biases)
    if ends is None:
        return "few"
    largest, effect = max(map(abs, ends)), abs(gte or 0.0)
    is_small = effect > 0 and largest <= SMALL * effect
    if ends[0] > 0 or ends[1] < 0:
        return "small" if is_small else "found"
    if is_small:
        return "none"
    if abs(b) > limit(degrees_of_freedom(entry)) * s:
        return "doubtful"
    return "unclear" if effect and largest > HIDDEN * effect else "none"


def is_significant(entry: dict[str, Any], n_biases: int) -> bool:
    """Whether a bias, one of so many, is statistically significant: gets a star, is bold."""
    return kind(entry, n_biases) in ("found", "small")


def rule(comparison: Sequence[dict[str, Any]]) -> str:
    """What a star or bold figures mean in words, to follow "* " or "bold "."""
    n = len(comparison)
    judged = [e for e in comparison if interval(e, n) is not None]
    if not judged:
        return f"if statistically significant, for which {MIN_REPLICATIONS} replications are needed"
    limits = sorted({f"{limit(degrees_of_freedom(e), n):.2f}" for e in judged}, key=float)
    shown = limits[0] if len(limits) == 1 else f"{limits[0]} to {limits[-1]}"
    over = "" if n == 1 else f" over the {n} biases of this run"
    return (
        f"if statistically significant, more than {shown} of these from 0 (Student's t limit for "
        f"5 %{over})"
    )


def percent_of_effect(entry: dict[str, Any]) -> float | None:
    """100 bias / GTE: below 0 the design understates the effect, below -100 it turns its sign."""
    b, gte = entry["bias"], entry["gte"]
    return 100.0 * b / gte if b is not None and gte else None


def enough(entry: dict[str, Any], n_biases: int) -> tuple[int, str] | None:
    """About how many replications would decide on a bias that is not decided, and what they are.

    So many that a bias of 20 % of the effect is then found, or excluded where there is none, in
    80 % of runs or more, as the standard error falls with the root of their number; where that
    many have not decided it, or for a ``doubtful`` bias: so many that decide if it is what it now
    seems. Rounded to two digits. Where the degrees of freedom are those of starting models, it is
    these that are too few.

    Returns:
        None where it is decided, or where nothing tells. At most ``MANY``.
    """
    found = kind(entry, n_biases)
    if found not in ("few", "doubtful", "unclear"):
        return None
    b, s, df = abs(entry["bias"]), entry["bias_mc_se"], degrees_of_freedom(entry)
    n, hidden = df + 1, HIDDEN * abs(entry["gte"] or 0.0)
    aims = {"doubtful": [b], "unclear": [hidden, max(b, hidden - b)], "few": [hidden]}[found]
    needed = [_needed(s * math.sqrt(n), half, n_biases) for half in aims if half > 0]
    most = next((x for x in needed if x > n), None)
    if found == "few":
        most = max(MIN_REPLICATIONS, most or 0)
    unit = "replications" if n == entry["n_worlds"] else "starting models"
    return None if most is None else (_rounded(most), unit)


def _needed(spread: float, half: float, n_biases: int) -> int:
    """The least number of replications whose interval is surely no wider than ± ``half``."""

    def is_enough(n: int) -> bool:
        return (limit(n - 1, n_biases) + _SURE) * spread <= half * math.sqrt(n)

    high = MIN_REPLICATIONS
    while not is_enough(high):
        high *= 2
        if high >= MANY:
            return MANY
    low = MIN_REPLICATIONS - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _rounded(n: int) -> int:
    """Up, to two significant digits."""
    unit = 10 ** max(0, len(str(n)) - 2)
    return -(-n // unit) * unit
