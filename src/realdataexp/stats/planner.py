"""What effect could this design have detected? Answered from the simulated worlds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from scipy import stats

from realdataexp.stats.comparison import TRUTH, compare
from realdataexp.stats.estimates import world_estimates
from realdataexp.stats.honesty import KEYS, honesty, true_effects
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
    inference: pl.DataFrame,
    truth_estimates: pl.DataFrame,
    power: float = 0.8,
    alpha: float = ALPHA,
) -> list[dict[str, Any]]:
    """One entry per design, label and interval method: what a test like these can detect.

    - ``p_treatment``, ``n_visits``: the share of treated visits, and visits a world, as run.
    - ``effect``, ``bias``: the true GTE, and the mean estimate minus it.
    - ``power_at_effect``: the share of worlds whose interval excludes 0 on the true effect's side.
    - ``mde_reported`` = (z_{1-alpha/2} + z_power) se_mean: what an experimenter would be told.
    - ``mde_honest`` = (z_{1-alpha/2} + z_power) sd + |bias|, with sd that of the estimates over
      worlds: estimates are about normal around effect + bias, and a bias against the effect must
      be overcome before anything shows.

    Null where too few worlds tell. Other p, lengths and cadences are other runs.

    Args:
        inference: the table of ``inference.inference_table``.
        truth_estimates: estimates with the truth among the designs.
        power: the chance with which the effect shall be detected.
        alpha: the test's chance of a false rejection.
    """
    designs = inference.filter(pl.col("design") != TRUTH)
    groups = designs.group_by(KEYS, maintain_order=True)
    entries = []
    checked = honesty(inference, truth_estimates, is_aa=False)
    for found, (_, group) in zip(checked, groups, strict=True):
        gte, sd, se_mean = found["gte"], found["sd"], found["se_mean"]
        n_T, n_C = int(group["n_T"].sum()), int(group["n_C"].sum())
        entry: dict[str, Any] = {key: found[key] for key in (*KEYS, "n_worlds")}
        entry.update(
            p_treatment=n_T / (n_T + n_C) if n_T + n_C else None,
            n_visits=(n_T + n_C) / group.height,
            effect=gte,
            bias=None,
            power_at_effect=None,
            mde_reported=None,
            mde_honest=None,
        )
        known = group.drop_nulls(["ci_low", "ci_high"])
        if gte and known.height:
            side = known["ci_low"] > 0 if gte > 0 else known["ci_high"] < 0
            entry["power_at_effect"] = int(side.sum()) / known.height
        if se_mean is not None:
            entry["mde_reported"] = minimum_detectable_effect(se_mean, power, alpha)
        if gte is not None and found["n_worlds"]:
            entry["bias"] = float(group["value"].drop_nulls().to_numpy().mean()) - gte
            if sd is not None:
                z_sd = minimum_detectable_effect(sd, power, alpha)
                entry["mde_honest"] = z_sd + abs(entry["bias"])
        entries.append(entry)
    return entries


@dataclass(frozen=True)
class PlannedRun:
    """A run of mode compare, as one p and training cadence had it: its table outcomes.parquet."""

    p: float
    retrain_every: int
    outcomes: pl.DataFrame


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
        ``bias_mc_se`` and ``sd`` as in ``comparison.compare``; ``control_mean``, what a visit of
        the control world yields; ``_percent``, relative to its size; ``detects``, whether the
        true effect is as large as ``mde_honest``. Null where too few worlds tell.
    """
    rows = [
        {"p": run.p, "retrain_every": run.retrain_every, "steps": n, **row}
        for run in runs
        for n in steps
        for row in _answers(run.outcomes.filter(pl.col("step") < n), designs, labels, power)
    ]
    order = ["p", "retrain_every", "steps", "design"]
    return pl.DataFrame(rows, schema=PLAN_SCHEMA).sort(order, maintain_order=True)


def _answers(
    outcomes: pl.DataFrame, designs: Sequence[str], labels: Sequence[str], power: float
) -> Iterator[dict[str, Any]]:
    """A row for every design and label, also where nobody counted for a design yet."""
    estimates = world_estimates(outcomes)
    inference = inference_table(outcomes, None, ["welch"])
    planned = {(e["design"], e["label"]): e for e in plan(inference, estimates, power)}
    compared = {(e["design"], e["label"]): e for e in compare(estimates)}
    effects, controls = true_effects(estimates), _control_means(outcomes)
    for design in designs:
        for label in labels:
            key, effect, control = (design, label), effects.get(label), controls.get(label)
            row = {"n_worlds": 0, "n_visits": 0.0, **planned.get(key, {})}
            beside, mde = compared.get(key, {}), row.get("mde_honest")
            row.update(
                design=design,
                label=label,
                control_mean=control,
                effect=effect,
                effect_percent=_percent(effect, control),
                bias_mc_se=beside.get("bias_mc_se"),
                sd=beside.get("sd"),
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
