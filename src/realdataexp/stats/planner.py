"""What effect could this design have detected? Answered from the simulated worlds."""

from __future__ import annotations

from typing import Any

import polars as pl
from scipy import stats

from realdataexp.stats.comparison import TRUTH
from realdataexp.stats.honesty import KEYS, honesty
from realdataexp.stats.intervals import ALPHA


def minimum_detectable_effect(se: float, power: float = 0.8, alpha: float = ALPHA) -> float:
    """The effect that a two-sided z test detects with this power: (z_{1-alpha/2} + z_power) se.

    Normal theory, without bias; the chance of a rejection on the wrong side is left out.

    Raises:
        ValueError: se below 0, or power or alpha not between 0 and 1.
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
