"""What effect could this design have detected? Answered from the simulated worlds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from scipy import stats

from realdataexp.stats.comparison import TRUTH, true_effects
from realdataexp.stats.honesty import KEYS, judge
from realdataexp.stats.inference import inference_table
from realdataexp.stats.intervals import ALPHA

PLAN_SCHEMA = pl.Schema(
    {
        "p": pl.Float64,
        "retrain_every": pl.Int64,
        "steps": pl.Int64,
        "design": pl.String,
        "label": pl.String,
        "n_worlds": pl.Int64,
        "n_visits": pl.Float64,
        "control_mean": pl.Float64,
        "effect": pl.Float64,
        "effect_percent": pl.Float64,
        "bias": pl.Float64,
        "bias_mc_se": pl.Float64,
        "sd": pl.Float64,
        "power_at_effect": pl.Float64,
        "mde_reported": pl.Float64,
        "mde_honest": pl.Float64,
        "mde_honest_percent": pl.Float64,
        "detects": pl.Boolean,
    }
)


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


def plan(
    judged: Iterable[dict[str, Any]], power: float = 0.8, alpha: float = ALPHA
) -> list[dict[str, Any]]:
    """One entry per design, label and interval method: what a test like these can detect.

    - ``p_treatment``, ``n_visits``, ``effect``, ``bias``, ``power_at_effect``: as judged.
    - ``mde_reported`` = (z_{1-alpha/2} + z_power) se_mean: what an experimenter would be told.
    - ``mde_honest`` = (z_{1-alpha/2} + z_power) sd + |bias|, with sd that of the estimates over
      worlds: estimates are about normal around effect + bias, and a bias against the effect must
      be overcome before anything shows.

    Null where too few worlds tell. Other p, lengths and cadences are other runs.

    Args:
        judged: the entries of ``honesty.judge``.
        power: the chance with which the effect shall be detected.
        alpha: the test's chance of a false rejection.
    """
    entries = []
    for found in judged:
        sd, se_mean, bias = found["sd"], found["se_mean"], found["bias"]
        entry = {key: found[key] for key in (*KEYS, "n_worlds", "p_treatment", "n_visits")}
        entry.update(
            effect=found["gte"],
            bias=bias,
            power_at_effect=found["power_at_effect"],
            mde_reported=None,
            mde_honest=None,
        )
        if se_mean is not None:
            entry["mde_reported"] = minimum_detectable_effect(se_mean, power, alpha)
        if sd is not None and bias is not None:
            entry["mde_honest"] = minimum_detectable_effect(sd, power, alpha) + abs(bias)
        entries.append(entry)
    return entries


@dataclass(frozen=True)
class PlannedRun:
    """A run of mode compare, as one p and training cadence had it: its table outcomes.parquet.

    Attributes:
        n_starts: how many starting models it has.
    """

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
        designs: the labels of the designs.
        labels: the names of the outcomes.
        power: the chance with which the effect shall be detected.

    Returns:
        PLAN_SCHEMA, sorted by p, retrain_every, steps and design. Beside what ``plan`` says:
        ``bias_mc_se`` and ``sd`` as in ``honesty.judge``; ``control_mean``, what a visit of
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
        (e["design"], e["label"]): {**e, **planned}
        for e, planned in zip(judged, plan(judged, power), strict=True)
    }
    effects, controls = true_effects(inference), _control_means(outcomes)
    for design in designs:
        for label in labels:
            key, effect, control = (design, label), effects.get(label), controls.get(label)
            row = {"n_worlds": 0, "n_visits": 0.0, **found.get(key, {})}
            mde = row.get("mde_honest")
            row.update(
                design=design,
                label=label,
                control_mean=control,
                effect=effect,
                effect_percent=_percent(effect, control),
                mde_honest_percent=_percent(mde, control),
                detects=None if effect is None or mde is None else abs(effect) >= mde,
            )
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
