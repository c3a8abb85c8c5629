"""The contamination ledger: from which arm's visits came what each arm's model learned?

The model of an arm is the one that ranks for it: of a design with two models its own, of a design
with one the model that both arms share. In a world where everybody is in one arm all of its
training weight comes from that arm's visits; in a test a part comes from the other arm's, and that
is what interference through training consists of.

Axes: T steps, W worlds, A arms whose model it is, then A arms whose visits they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from realdataexp.stats.aggregates import ARMS

LEDGER_SCHEMA = pl.Schema(
    {
        "design": pl.String, "world": pl.Int32, "step": pl.Int32, "arm": pl.String,
        "visits": pl.Int32, "differ": pl.Int32, "own_weight": pl.Float64,
        "other_weight": pl.Float64,
    }
)  # fmt: skip


def ledger_table(
    visits_TWA: np.ndarray,
    differ_TWA: np.ndarray,
    weight_TWAA: np.ndarray,
    has_both_W: np.ndarray,
    steps: list[int],
    worlds: list[tuple[str, int]],
) -> pl.DataFrame:
    """Rows of ledger.parquet: one for each step, world and arm; where all are in one arm, of that.

    Args:
        visits_TWA: visits of each arm.
        differ_TWA: those of them in which the arms would have picked differently.
        weight_TWAA: the weight of each arm's visits in what each arm's model learns from.
        has_both_W: whether a world's visitors may get either arm.
        steps: the steps' numbers.
        worlds: each world's design and replication.
    """
    at = of_T, of_w, of_a = np.nonzero((visits_TWA > 0) | has_both_W[:, None])
    return pl.DataFrame(
        {
            "design": np.array([name for name, _ in worlds])[of_w],
            "world": np.array([replication for _, replication in worlds])[of_w],
            "step": np.array(steps)[of_T],
            "arm": np.array(ARMS)[of_a],
            "visits": visits_TWA[at],
            "differ": differ_TWA[at],
            "own_weight": weight_TWAA[(*at, of_a)],
            "other_weight": weight_TWAA[(*at, 1 - of_a)],
        }
    ).cast(LEDGER_SCHEMA)


def shares(ledger: pl.DataFrame, *keys: str) -> pl.DataFrame:
    """Sums of a ledger by some of its keys, and the share of the weight from the other arm.

    Returns:
        The keys, visits, own_weight, other_weight, and other_share: null where nothing was learned.

    Examples:
        One model learns from 3 treated and 1 control visits, which count equally:

        >>> ledger = pl.DataFrame({
        ...     "arm": ["T", "C"], "visits": [3, 1], "own_weight": [3.0, 1.0],
        ...     "other_weight": [1.0, 3.0],
        ... })
        >>> shares(ledger, "arm")["other_share"].to_list()
        [0.25, 0.75]
    """
    sums = ledger.group_by(*keys, maintain_order=True).agg(
        pl.col("visits").cast(pl.Int64).sum(), pl.col("own_weight", "other_weight").sum()
    )
    weight = pl.col("own_weight") + pl.col("other_weight")
    share = pl.when(weight > 0).then(pl.col("other_weight") / weight)
    return sums.with_columns(other_share=share)


def ledger_results(ledger: pl.DataFrame) -> list[dict[str, Any]]:
    """An entry for each design and arm: weight in all worlds, and its share from the other arm.

    ``other_share`` is left out where the arm's model learned nothing.
    """
    return [
        {
            "design": row["design"],
            "arm": row["arm"],
            "weight": row["own_weight"] + row["other_weight"],
            **({} if row["other_share"] is None else {"other_share": row["other_share"]}),
        }
        for row in shares(ledger, "design", "arm").iter_rows(named=True)
    ]
