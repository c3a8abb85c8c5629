"""One's own A/B table: every interval method, without a run folder.

Axes: N rows, L outcomes, T steps of time, A arms (0 = control, 1 = treatment).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import polars as pl

from realdataexp.errors import InputError, did_you_mean
from realdataexp.registry import names
from realdataexp.stats.aggregates import (
    LEAST_P_VALUE,
    outcome_table,
    ratio_p_value,
    unit_table,
    units_by_arm,
)
from realdataexp.stats.inference import (
    compared,
    find_method,
    inference_table,
    needs_units,
    short_name,
)
from realdataexp.stats.intervals import adjust_labels
from realdataexp.stats.quantiles import Quantile, quantile_of
from realdataexp.stats.ratios import Ratio, ratio_of

_NUMBERS = (
    "value", "se", "ci_low", "ci_high", "p_value", "p_adjusted", "control_mean", "percent",
)  # fmt: skip
_OF_PERCENT = ("percent_se", "percent_low", "percent_high")
ANALYSIS_SCHEMA = pl.Schema(
    {
        **dict.fromkeys(("outcome", "method"), pl.String),
        **dict.fromkeys(_NUMBERS, pl.Float64),
        **dict.fromkeys(("n_T", "n_C", "units_T", "units_C"), pl.Int64),
        "ratio_p_value": pl.Float64,
        **dict.fromkeys(_OF_PERCENT, pl.Float64),
        "percent_why": pl.String,
    }
)
_DESIGN = "table"
_OF_RATIOS = ("welch", "always_valid")  # and the methods of units
_OF_ROLLOUTS = tuple(name for name in names("estimator") if name.startswith("rollout_"))
# what is known to mean control and treatment; 0 and 1 equal False and True
_PAIRS = [(False, True), ("0", "1"), ("C", "T"), ("control", "treatment"), ("A", "B")]


def analyze(
    table: Any,
    *,
    arm: str,
    outcomes: str | Sequence[str] = (),
    ratios: Mapping[str, tuple[str, str]] | None = None,
    quantiles: Mapping[str, tuple[str, float]] | None = None,
    unit: str | None = None,
    treatment: Any = None,
    covariates: str | Mapping[str, str] | None = None,
    time: str | None = None,
    share: str | None = None,
    methods: Sequence[str] | None = None,
    p_treatment: float = 0.5,
) -> pl.DataFrame:
    """The effect on each outcome of an A/B test, with the interval of each method.

    The estimand is the effect per row: the mean outcome of treated rows minus that of control rows,
    where a row is a visit, a session, an order, or a unit's total. Methods that need a unit take
    all rows of one as dependent; "welch" takes rows as independent, and is right only where a unit
    has one row. See ``welch``, ``user_cluster``, ``cuped``, ``block``, ``bootstrap``,
    ``randomisation`` and ``always_valid`` in this package for the equations and their sources.

    Args:
        table: a Polars, pandas or Arrow table, or a mapping of columns; N rows.
        arm: the column of each row's arm, of two values.
        outcomes: the columns of the outcomes, numbers or booleans in any unit; a missing outcome
            (null or NaN) leaves its row out for that outcome alone.
        ratios: by name, the columns of a numerator and of a denominator: the effect on
            sum / sum, such as clicks per visit or minutes watched per minute offered. A row where
            one is missing is left out. "welch" and the methods of units answer; these take a
            unit's denominator in place of its number of rows.
        quantiles: by name, the column of an outcome and a share above 0 and below 1: the effect on
            that quantile of the rows, such as ("minutes", 0.9). All methods but "randomisation"
            answer; ``quantiles.quantile_of`` has the equations.
        unit: the column of what was randomised as one, such as the user; None: each row by itself.
        treatment: the value of ``arm`` that is the treatment; None: where the two are False and
            True, 0 and 1, C and T, control and treatment, or A and B.
        covariates: a column known before the experiment, such as the unit's mean outcome in an
            earlier period, for each outcome, or one for all; the mean over a unit's rows counts,
            and a unit without one is neither helped nor left out. "cuped" needs it.
        time: a column that puts rows in order, such as a step, an hour or a timestamp. Its distinct
            values, 16 or more, are cut into about as many blocks as the root of their number.
            "block" needs it.
        share: a column of the share of units that was treated when the row came, where that rose
            in stages; all rows of one ``time`` have the same. "rollout_last", "rollout_linear",
            "rollout_quadratic" and "rollout_jackknife" need it, with two shares or three.
        methods: names of interval methods, or ``package.module:Name``; None: all of the package
            that the columns suffice for.
        p_treatment: the share of units that was to be treated; not looked at with ``share``.

    Returns:
        A row per outcome and method, in this order, of ANALYSIS_SCHEMA: ``value``, ``se``,
        ``ci_low`` and ``ci_high`` (95 %) in the outcome's unit; ``p_value``, and ``p_adjusted`` by
        Holm's method over the outcomes (Holm 1979); ``control_mean`` (of a quantile, control's
        quantile); ``percent``: value in percent
        of its size; ``n_T`` and ``n_C``: rows with that outcome. The same in each row: ``units_T``
        and ``units_C``, and ``ratio_p_value``, the exact test of the planned share (sample-ratio
        mismatch, Fabijan et al. 2019; null with ``share``). Null where a method cannot tell. Of
        "welch" and "user_cluster" also ``percent_se``, and ``percent_low`` to ``percent_high``:
        Fieller's 95 % interval of ``percent`` (``relative``); ``percent_why``: why there is none.
        Resampling draws by keys of its own: the same table gives the same numbers.

    Raises:
        InputError: a column is missing or holds what cannot be, or a method lacks its column.

    Warns:
        UserWarning: the arms' sizes contradict ``p_treatment``, or units have rows in both arms.

    Examples:
        Five of eight treated users clicked, two of eight others:

        >>> table = {
        ...     "user": list(range(16)), "arm": ["T"] * 8 + ["C"] * 8,
        ...     "click": [1, 1, 1, 1, 1, 0, 0, 0] + [1, 1, 0, 0, 0, 0, 0, 0],
        ... }
        >>> found = analyze(table, unit="user", arm="arm", outcomes="click", methods=["welch"])
        >>> found.select("value", pl.col("se").round(4), "control_mean", "units_T").row(0)
        (0.375, 0.2455, 0.25, 8)
    """
    frame = as_frame(table)
    outcomes = (outcomes,) if isinstance(outcomes, str) else tuple(outcomes)
    ratios, quantiles = ratios or {}, quantiles or {}
    labels = [*outcomes, *ratios, *quantiles]
    covariate_of = _covariates(covariates, labels)
    _check_columns(frame, arm, outcomes, ratios, quantiles, unit, covariate_of, time, share)
    asked, methods = (
        methods,
        _methods(methods, bool(covariate_of), time is not None, share is not None),
    )
    if not 0 < p_treatment < 1:
        raise InputError(f"p_treatment = {p_treatment}: must be above 0 and below 1")

    is_treated_N = is_treated(frame, arm, treatment)
    unit_N = _ranks(frame, unit, "unit") if unit else np.arange(frame.height)
    columns = [_numbers(frame, name, "outcomes") for name in outcomes]
    y_NL = np.array(columns).reshape(len(outcomes), frame.height).T.copy()
    # differences do not depend on a common level, whose square would drown their own
    level_L = np.nanmean(y_NL, axis=0)
    y_NL -= level_L
    ratio_of_name = {
        name: ratio_of(
            name, _numbers(frame, y, "ratios"), _numbers(frame, x, "ratios"), is_treated_N
        )
        for name, (y, x) in ratios.items()
    }
    x_NL = np.full((frame.height, len(labels)), np.nan)
    for i, name in enumerate(labels):
        if name in covariate_of:
            x_NL[:, i] = _numbers(frame, covariate_of[name], "covariates")
    step_N = np.zeros(frame.height, dtype=np.int64)
    if time or share:
        step_N = _ranks(frame, time, "time") if time else _ranks(frame, str(share), "share")

    worlds = [(_DESIGN, 0)]
    quantile_of_name = {
        name: quantile_of(name, _numbers(frame, y, "quantiles"), tau, unit_N, is_treated_N)
        for name, (y, tau) in quantiles.items()
    }
    own: list[Ratio | Quantile] = [*ratio_of_name.values(), *quantile_of_name.values()]
    linear_NL = np.column_stack([y_NL, *(x.linear_N for x in own)])
    sums = outcome_table(
        _sums(step_N, is_treated_N, linear_NL), [*range(int(step_N.max()) + 1)], worlds, labels
    )
    if share:
        share_T = _shares(frame, share, time, step_N)
        sums = sums.with_columns(p=pl.Series(share_T[sums["step"].to_numpy()]))
    row_1N = np.arange(frame.height)[None]

    def by_unit(value_NL: np.ndarray, names: list[str]) -> pl.DataFrame:
        own_NL = x_NL[:, [labels.index(name) for name in names]]
        rows = unit_N[None], row_1N, is_treated_N[None], value_NL[None]
        return unit_table(*rows, [own_NL], worlds, names).cast({"n": pl.Float64})

    is_plain = [name not in ratios for name in labels]
    units = by_unit(linear_NL[:, is_plain], [*outcomes, *quantiles])
    for name, ratio in ratio_of_name.items():
        y, x = (by_unit(x[:, None], [name]) for x in (ratio.numerator_N, ratio.denominator_N))
        units = pl.concat([units, _of_ratio(name, y, x)])
    levels = dict(zip(labels, [*level_L, *(x.level for x in own)], strict=True))
    found = inference_table(sums, units, methods, levels=levels)
    left_out = [x for x in methods if short_name(x) not in {*found["se_method"]}]
    if asked is not None and left_out:
        name = left_out[0]
        raise InputError(
            f"methods: {name!r} compares {compared(find_method(name, 'methods'))}, but share = "
            f"{share!r} has too few; leave it out"
        )
    found = _without_unfit(found, ratios, quantiles, methods)
    return (
        _shaped(found, frame.filter(~is_treated_N), outcomes, ratios, quantile_of_name, methods)
        .with_columns(**_sample_ratio(unit_N, is_treated_N, None if share else p_treatment))
        .select(ANALYSIS_SCHEMA.names())
        .cast(ANALYSIS_SCHEMA)
    )


def as_frame(table: Any, **columns: str) -> pl.DataFrame:
    """A table of any kind as Polars'; refuses what is none, and one without a row.

    Or without the columns that arguments name.
    """
    try:
        frame = table.collect() if isinstance(table, pl.LazyFrame) else pl.DataFrame(table)
    except Exception as error:  # the library's own, of many kinds
        text = " ".join(str(error).split())
        raise InputError(f"table: no Polars, pandas or Arrow table: {text}") from error
    if frame.height == 0:
        raise InputError("table: has no row")
    for argument, name in columns.items():
        if name not in frame.columns:
            raise InputError(
                f"{argument} = {name!r}: the table has no such column; it has "
                f"{', '.join(frame.columns)}"
            )
    return frame


def _covariates(
    covariates: str | Mapping[str, str] | None, outcomes: Sequence[str]
) -> Mapping[str, str]:
    """The covariate's column of each outcome that has one."""
    if covariates is None or isinstance(covariates, str):
        return dict.fromkeys(outcomes, covariates) if covariates else {}
    if not isinstance(covariates, Mapping):
        raise InputError(f"covariates = {covariates!r}: pass a column, or one for each outcome")
    for name in covariates:
        if name not in outcomes:
            near = did_you_mean(name, outcomes)
            raise InputError(f"covariates: {name!r} is no outcome{near}")
    return covariates


def _check_columns(
    frame: pl.DataFrame, arm: str, outcomes: Sequence[str],
    ratios: Mapping[str, tuple[str, str]], quantiles: Mapping[str, tuple[str, float]],
    unit: str | None, covariate_of: Mapping[str, str], time: str | None, share: str | None,
) -> None:  # fmt: skip
    """Refuse columns that are not there, and outcomes named twice, or none."""
    labels = [*outcomes, *ratios, *quantiles]
    if not labels or len(set(labels)) < len(labels):
        raise InputError(f"outcomes = {labels}: name one column or more, each once")
    for name, parts in ratios.items():
        if isinstance(parts, str) or len(parts) != 2 or parts[0] == parts[1]:
            raise InputError(
                f"ratios.{name} = {parts!r}: pass a numerator and a denominator, two columns"
            )
    for name, of in quantiles.items():
        if isinstance(of, str) or len(of) != 2 or not isinstance(of[1], float) or not 0 < of[1] < 1:
            raise InputError(
                f"quantiles.{name} = {of!r}: pass a column and a share above 0 and below 1, such "
                "as 0.9 for the 90th percentile"
            )
    named = [("arm", arm), *(("outcomes", name) for name in outcomes)]
    named += [("covariates", name) for name in covariate_of.values()]
    named += [(f"ratios.{name}", x) for name, parts in ratios.items() for x in parts]
    named += [(f"quantiles.{name}", of[0]) for name, of in quantiles.items()]
    rest = (("unit", unit), ("time", time), ("share", share))
    named += [(x, name) for x, name in rest if name is not None]
    for argument, name in named:
        if name not in frame.columns:
            near = did_you_mean(str(name), frame.columns)
            near = near or f"; it has {', '.join(frame.columns)}"
            raise InputError(f"{argument} = {name!r}: the table has no such column{near}")


def _methods(
    methods: Sequence[str] | None, has_covariates: bool, has_time: bool, has_share: bool
) -> list[str]:
    """The methods to use; those asked for must be there and have what they need."""
    lacks = {"cuped": ("covariates", has_covariates), "block": ("time", has_time)}
    lacks |= {name: ("share", has_share) for name in _OF_ROLLOUTS}
    lacking = {name: argument for name, (argument, is_there) in lacks.items() if not is_there}
    if methods is None:
        return [x for x in (*names("interval method"), *_OF_ROLLOUTS) if x not in lacking]
    chosen = [methods] if isinstance(methods, str) else list(dict.fromkeys(methods))
    if not chosen:
        known = ", ".join(names("interval method"))
        raise InputError(f"methods: is empty; name one or more of {known}")
    for name in chosen:
        if compared(find_method(name, "methods")) and name not in _OF_ROLLOUTS:
            raise InputError(
                f"methods: {name!r} is an estimator of a run's designs; leave it out, or name some "
                f"of {', '.join(names('interval method'))}"
            )
        if name in lacking:
            raise InputError(
                f"methods: {name!r} needs {lacking[name]}; pass it, or leave the method out"
            )
    return chosen


def require_known(frame: pl.DataFrame, name: str, argument: str) -> pl.Series:
    """A column without a missing value, of a kind that has an order."""
    column = frame[name]
    if column.dtype == pl.Object:
        raise InputError(f"{argument} = {name!r}: holds Python objects; must be numbers or text")
    missing = column.fill_nan(None).is_null() if column.dtype.is_float() else column.is_null()
    if missing.any():
        raise InputError(
            f"{argument} = {name!r}: {missing.sum()} of {len(column)} rows have no value, first "
            f"row {missing.arg_true()[0]} (from 0); fill them in, or leave these rows out"
        )
    return column


def is_treated(frame: pl.DataFrame, arm: str, treatment: Any) -> np.ndarray:
    """Each row's arm."""
    column = require_known(frame, arm, "arm")
    values = column.unique().sort().to_list()
    if len(values) != 2:
        shown = ", ".join(repr(value) for value in values[:5])
        raise InputError(
            f"arm = {arm!r}: has {len(values)} values ({shown}), must have two; keep the rows of "
            "two arms"
        )
    if treatment is None:
        treated = [t for c, t in _PAIRS if c in values and t in values]
    else:
        treated = [value for value in values if value == treatment]
    if len(treated) != 1:
        raise InputError(
            f"treatment = {treatment!r}: must be one of the arms {values[0]!r} and {values[1]!r}"
        )
    return np.array([value == treated[0] for value in column.to_list()])


def _ranks(frame: pl.DataFrame, name: str, argument: str) -> np.ndarray:
    """The places of a column's values among its distinct ones, in order: N."""
    column = require_known(frame, name, argument)
    return (column.rank("dense") - 1).cast(pl.Int64).to_numpy()


def _shares(frame: pl.DataFrame, share: str, time: str | None, step_N: np.ndarray) -> np.ndarray:
    """The share treated at each step: T."""
    require_known(frame, share, "share")
    share_N = _numbers(frame, share, "share")
    if share_N.min() <= 0 or share_N.max() >= 1:
        raise InputError(
            f"share = {share!r}: has values from {share_N.min():g} to {share_N.max():g}; must be "
            "above 0 and below 1, such as 0.05 for 5 %"
        )
    share_T = np.zeros(int(step_N.max()) + 1)
    share_T[step_N] = share_N
    if (share_T[step_N] != share_N).any():
        raise InputError(
            f"share = {share!r}: rows of one value of time = {time!r} have several shares; give "
            "each stage its own times"
        )
    return share_T


def _numbers(frame: pl.DataFrame, name: str, argument: str) -> np.ndarray:
    """A column as float64, NaN where it has no value: N."""
    column = frame[name]
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise InputError(
            f"{argument} = {name!r}: has dtype {column.dtype}; must be numbers or booleans"
        )
    x_N = column.cast(pl.Float64).fill_null(float("nan")).to_numpy().copy()
    is_infinite = np.isinf(x_N)
    if is_infinite.any():
        raise InputError(
            f"{argument} = {name!r}: {is_infinite.sum()} infinite values, first in row "
            f"{int(is_infinite.argmax())}; make them finite, or missing"
        )
    if argument == "outcomes" and np.isnan(x_N).all():
        raise InputError(f"outcomes = {name!r}: has no value")
    return x_N


def _sums(step_N: np.ndarray, is_treated_N: np.ndarray, y_NL: np.ndarray) -> np.ndarray:
    """Count, sum and sum of squares of known outcomes: T, 1 world, A, L, 3."""
    n_steps = int(step_N.max()) + 1
    out = np.zeros((n_steps * 2, y_NL.shape[1], 3))
    for i, y_N in enumerate(y_NL.T):
        known = np.isfinite(y_N)
        key, y = (2 * step_N + is_treated_N)[known], y_N[known]
        for power in range(3):
            out[:, i, power] = np.bincount(key, y**power, minlength=len(out))
    return out.reshape(n_steps, 1, 2, -1, 3)


def _of_ratio(name: str, numerator: pl.DataFrame, denominator: pl.DataFrame) -> pl.DataFrame:
    """A ratio's units: the denominator's sums stand where the number of visits does."""
    units = numerator.with_columns(n=denominator["sum"])
    empty = units.filter(pl.col("n") == 0)
    n_bad = empty.filter(pl.col("sum") != 0).height
    if n_bad:
        raise InputError(
            f"ratios.{name}: {n_bad:,} units have a numerator, but a denominator of 0; leave "
            "these units out"
        )
    return units.filter(pl.col("n") > 0)


def _without_unfit(
    found: pl.DataFrame, ratios: Mapping[str, tuple[str, str]],
    quantiles: Mapping[str, tuple[str, float]], methods: Sequence[str],
) -> pl.DataFrame:  # fmt: skip
    """The rows but those of ratios by methods that would read them as outcomes of rows.

    And those of quantiles by the one that would draw again which arm's quantile a row was held to.
    """
    fit = [x for x in methods if x in _OF_RATIOS or needs_units(find_method(x, "methods"))]
    is_ratio = pl.col("label").is_in([*ratios])
    left = found.filter(~is_ratio | pl.col("se_method").is_in([short_name(x) for x in fit]))
    drawn_again = pl.col("label").is_in([*quantiles]) & (pl.col("se_method") == "randomisation")
    left = left.filter(~drawn_again)
    if left.height == 0:
        what = "ratios" if ratios else "quantiles"
        raise InputError(f"methods: {methods[0]!r} has no answer for {what}; name user_cluster")
    return adjust_labels(left.drop("p_adjusted"))


def _shaped(
    found: pl.DataFrame, control: pl.DataFrame, outcomes: Sequence[str],
    ratios: Mapping[str, tuple[str, str]], quantiles: Mapping[str, Quantile],
    methods: Sequence[str],
) -> pl.DataFrame:  # fmt: skip
    """The rows by outcome and method, with what control had."""
    control = control.select(
        pl.col({*outcomes, *chain(*ratios.values())}).cast(pl.Float64).fill_nan(None)
    )
    means: list[Any] = [control[name].mean() for name in outcomes]
    for parts in ratios.values():
        y, x = control.select(parts).drop_nulls().sum().row(0)
        means.append(y / x)
    means += [x.level for x in quantiles.values()]
    schema = {"outcome": pl.String, "control_mean": pl.Float64}
    order = pl.col("method").replace_strict({short_name(name): i for i, name in enumerate(methods)})
    size = pl.col("control_mean").abs()
    return (
        pl.DataFrame([[*outcomes, *ratios, *quantiles], means], schema=schema)
        .with_row_index("place")
        .join(
            found.drop("control_mean", "percent").rename(
                {"label": "outcome", "se_method": "method"}
            ),
            on="outcome",
        )
        .sort("place", order)
        .with_columns(percent=pl.when(size > 0).then(100 * pl.col("value") / size))
    )


def _sample_ratio(
    unit_N: np.ndarray, is_treated_N: np.ndarray, p_treatment: float | None
) -> dict[str, pl.Expr]:
    """How many units each arm has, and whether that was planned; warns where it was not.

    Nothing is planned (None) of a rollout: units get into the other arm there.
    """
    treated, control = (np.unique(unit_N[rows]) for rows in (is_treated_N, ~is_treated_N))
    counts = {"units_T": pl.lit(len(treated)), "units_C": pl.lit(len(control))}
    if p_treatment is None:
        return {**counts, "ratio_p_value": pl.lit(None, pl.Float64)}
    n = units_by_arm(unit_N[None], is_treated_N[None])
    p_value = ratio_p_value(n["T"], n["C"], p_treatment)
    n_both = len(np.intersect1d(treated, control, assume_unique=True))
    if n_both:
        warnings.warn(
            f"{n_both:,} units have rows in both arms: rows were counted, not units, to compare "
            "the arms' sizes, and 'randomisation' has no answer",
            stacklevel=3,
        )
    if p_value < LEAST_P_VALUE:
        warnings.warn(
            f"sample-ratio mismatch: {n['T']:,} treated and {n['C']:,} control, planned was a "
            f"share of {p_treatment:g} treated (p = {p_value:.1e}): something assigned or lost "
            "units unevenly, and no estimate from this table can be trusted",
            stacklevel=3,
        )
    return {**counts, "ratio_p_value": pl.lit(p_value)}
