"""What two tests say of one whose models learn from as much as a launched system's.

Simulation extrapolation (Cook and Stefanski 1994, JASA 89:1314): make an error larger on purpose,
see what that does, and go back on the line to where there is none. Here the error is that a test's
models learn in effect from 1/kappa of the visits, kappa = E[W^2]; a launched system has kappa = 1.
"""

from __future__ import annotations

import polars as pl

from realdataexp.errors import InputError
from realdataexp.stats.estimates import TRUTH, mean_over_worlds


def extrapolated(
    estimates: pl.DataFrame, near: str, far: str, kappas: tuple[float, float], n_starts: int = 1
) -> pl.DataFrame:
    """Where the line through two designs' effects is at kappa = 1.

        near + (kappa_near - 1) / (kappa_far - kappa_near) (near - far)

    Args:
        estimates: a row per design, world, label and se_method, as in estimates.parquet.
        near: a design.
        far: another, whose models learn from less.
        kappas: of both, each at least 1.
        n_starts: how many starting models the worlds have.

    Returns:
        A row per label: estimate, the mean over worlds, and se, that of a single pair of tests with
        visitors of their own (Welch); where the truth was run gte, bias and bias_mc_se, paired by
        world and clustered by starting model; n_worlds. In the label's unit per visit.

    Raises:
        InputError: kappa_far is not above kappa_near.

    Examples:
        Half of the visits, kappa = 2, give 8, and a quarter, kappa = 4, gives 6: all of them, 9.

        >>> estimates = pl.DataFrame({
        ...     "design": ["global", "half", "quarter"], "world": [0] * 3, "label": ["click"] * 3,
        ...     "se_method": ["welch"] * 3, "value": [9.5, 8.0, 6.0], "se": [1.0] * 3,
        ... })
        >>> found = extrapolated(estimates, "half", "quarter", (2.0, 4.0)).row(0, named=True)
        >>> found["estimate"], found["bias"], round(found["se"], 3)  # sqrt(1.5^2 + 0.5^2)
        (9.0, -0.5, 1.581)
    """
    if not kappas[0] < kappas[1]:
        raise InputError(
            f"far = {far!r}: its models learn from {1 / kappas[1]:.3g} of the visits in effect, "
            f"and near = {near!r}'s from {1 / kappas[0]:.3g}: far must learn from less"
        )
    more = (kappas[0] - 1) / (kappas[1] - kappas[0])
    rows = estimates.filter(pl.col("se_method") == "welch").select(
        "design", "world", "label", "value", "se"
    )
    own, other, truth = (rows.filter(design=x).drop("design") for x in (near, far, TRUTH))
    both = (
        own.join(other, on=["world", "label"], suffix="_far", maintain_order="left")
        .drop_nulls(["value", "value_far"])
        .join(truth.drop("se"), on=["world", "label"], how="left", suffix="_truth")
        .with_columns(
            value=pl.col("value") + more * (pl.col("value") - pl.col("value_far")),
            se=(((1 + more) * pl.col("se")) ** 2 + (more * pl.col("se_far")) ** 2).sqrt(),
        )
    )
    found = []
    for (label,), group in both.group_by(["label"], maintain_order=True):
        judged = group.drop_nulls("value_truth")
        error_W = (judged["value"] - judged["value_truth"]).to_numpy()
        bias = mean_over_worlds(error_W, judged["world"].to_numpy(), n_starts)
        found.append(
            {
                "label": label, "estimate": group["value"].mean(), "se": group["se"].mean(),
                "gte": group["value_truth"].mean(), "bias": bias.value, "bias_mc_se": bias.se,
                "n_worlds": group.height,
            }
        )  # fmt: skip
    return pl.DataFrame(found, infer_schema_length=None)
