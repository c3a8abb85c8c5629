"""How well networks and rankings predict held-out visits, by design: error, and its spread.

All designs of a starting model are judged on the same held-out visits, and begin from the same
network, so that they differ in what they learned during the test alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from realdataexp.stats.estimates import TRUTH, mean_over_worlds, sd_within_starts

_KEYS = ["design", "arm", "label", "metric"]


def prediction_quality(metrics: pl.DataFrame, n_starts: int = 1) -> list[dict[str, Any]]:
    """An entry for each design, arm, label and metric of the last validation in the loop.

    ``value`` is the mean over worlds of the metric of the network (or ranking) that serves the
    arm; with one model that is the same for both arms. ``sd`` is its standard deviation over the
    replications of a starting model, left out where none has two. ``difference`` is the mean of
    value minus that of the truth's network of this arm in the same world, which learned from a
    whole platform with this arm, and ``difference_se`` its standard error, clustered by starting
    model. Both are left out where there is no truth, and for the truth itself.

    Args:
        metrics: the table of metrics.parquet.
        n_starts: how many starting models the run has.

    Examples:
        One network of pooling serves both arms; the truth has one for each:

        >>> names = ["design", "world", "model", "value"]
        >>> rows = [("global_T", 0, "shared", 0.5), ("global_C", 0, "shared", 0.4)]
        >>> rows += [("pooling", 0, "shared", 0.75)]
        >>> table = pl.DataFrame(rows, schema=names, orient="row").with_columns(
        ...     phase=pl.lit("loop"), split=pl.lit("validation"), step=pl.lit(5),
        ...     label=pl.lit("click"), metric=pl.lit("loss"), n=pl.lit(9),
        ... )
        >>> [(x["arm"], x["difference"]) for x in prediction_quality(table)[2:]]
        [('T', 0.25), ('C', 0.35)]
    """
    last = metrics.filter(
        (pl.col("phase") == "loop") & (pl.col("split") == "validation")
        & (pl.col("metric") != "n_nonfinite") & pl.col("world").is_not_null()
    ).filter(pl.col("step") == pl.col("step").max())  # fmt: skip
    of_truth = pl.col("design").is_in([f"{TRUTH}_T", f"{TRUTH}_C"])
    shared = pl.when(of_truth).then(pl.col("design").str.tail(1)).otherwise(pl.lit("TC"))
    arms = pl.when(pl.col("model") == "shared").then(shared).otherwise("model")
    served = last.with_columns(
        arm=arms.str.split(""),
        design=pl.when(of_truth).then(pl.lit(TRUTH)).otherwise("design"),
    ).explode("arm")
    served = served.filter(pl.col("arm").is_in(["T", "C"]))
    truth = served.filter(pl.col("design") == TRUTH).select(
        "arm", "label", "metric", "world", truth="value"
    )
    both = served.join(
        truth, on=["arm", "label", "metric", "world"], how="left", maintain_order="left"
    )
    found = [
        _entry(dict(zip(_KEYS, key, strict=True)), group, n_starts)
        for key, group in both.group_by(_KEYS, maintain_order=True)
    ]
    # by design, label and metric as they come, the treatment first
    places = {key: list(dict.fromkeys(x[key] for x in found)) for key in _KEYS}
    places["arm"] = ["T", "C"]
    order = ("design", "label", "metric", "arm")
    return sorted(found, key=lambda x: [places[key].index(x[key]) for key in order])


def _entry(entry: dict[str, Any], group: pl.DataFrame, n_starts: int) -> dict[str, Any]:
    """The numbers of one design, arm, label and metric, one row a world."""
    value_W, world_W = group["value"].to_numpy(), group["world"].to_numpy()
    entry |= {"value": float(value_W.mean()), "n_worlds": len(value_W)}
    if (sd := sd_within_starts(value_W, world_W, n_starts)) is not None:
        entry["sd"] = sd
    truth_W = group["truth"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    paired_W = np.isfinite(truth_W)
    if entry["design"] != TRUTH and paired_W.any():
        apart = value_W[paired_W] - truth_W[paired_W]
        mean, se, _ = mean_over_worlds(apart, world_W[paired_W], n_starts)
        entry |= {"difference": mean, "difference_se": se}
    return entry
