"""A score card's figures: every design over many questions, a world's label each, and its ranks.

Worlds differ in what they measure, so sizes are in percent of the true effect.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from realdataexp.stats.intervals import ALPHA, CONFIDENCE

_QUESTION = ("world", "label")
ROW_SCHEMA = pl.Schema(
    {
        **dict.fromkeys((*_QUESTION, "design", "interval", "verdict"), pl.String),
        **dict.fromkeys(
            ("gte", "estimate", "bias", "bias_mc_se", "bias_percent", "bias_mc_se_percent", "sd",
             "sd_percent", "rmse_percent", "coverage", "coverage_low", "coverage_high",
             "sign_error_rate", "regret", "regret_percent"),
            pl.Float64,
        ),
        "n_worlds": pl.Int64,
        "aa_interval": pl.String,
        **dict.fromkeys(("type_1", "type_1_low", "type_1_high"), pl.Float64),
        "cause": pl.String,
    }
)  # fmt: skip
"""A row of a card: a design's answer to a question; where it has none, the ``cause``."""

# of each figure: over questions, and what the designs of a question are ranked by, least first
_FIGURES = {
    "bias": (pl.col("bias_percent").abs().median(), pl.col("bias_percent").abs()),
    "sd": (pl.col("sd_percent").median(), pl.col("sd_percent")),
    "rmse": (pl.col("rmse_percent").median(), pl.col("rmse_percent")),
    "coverage": (pl.col("coverage").mean(), (pl.col("coverage") - CONFIDENCE).abs()),
    "type_1": (pl.col("type_1").mean(), (pl.col("type_1") - ALPHA).abs()),
    "sign_errors": (pl.col("sign_error_rate").mean(), pl.col("sign_error_rate")),
    "regret": (pl.col("regret_percent").mean(), pl.col("regret_percent")),
}


def summary(rows: pl.DataFrame, costs: pl.DataFrame) -> list[dict[str, Any]]:
    """One entry for each design, in the order of the rows: every figure, and its rank.

    ``bias``, ``sd`` and ``rmse`` are medians over questions (``bias_worst``: the largest size),
    the others means; ``n_biased`` counts the questions at which its bias is statistically
    significant and not small, of ``n_questions`` that it answers. ``_rank``: in each question the
    designs that answer are ranked (ties share the mean rank); they are placed by their mean rank,
    1 the best. Coverage and type-I error are ranked by their distance from 95 % and 5 %. So a
    design that cannot run everywhere is compared with others only where it runs.

    Args:
        rows: ROW_SCHEMA.
        costs: design, world, seconds (of a million visits), and models.

    Examples:
        One of two designs answers both questions, and is the better one at the first:

        >>> rows = pl.DataFrame({
        ...     "world": ["a", "a", "b"], "label": ["x"] * 3, "design": ["p", "q", "p"],
        ...     "bias_percent": [-1.0, 4.0, 3.0], "verdict": ["unbiased", "biased", "biased"],
        ... })
        >>> p, q = summary(rows, pl.DataFrame())
        >>> p["bias"], p["bias_worst"], p["bias_rank"], p["n_biased"], p["n_questions"]
        (2.0, 3.0, 1, 1, 2)
        >>> q["bias_rank"], q["type_1"]
        (2, None)
    """
    rows = _filled(rows, ROW_SCHEMA)
    schema = {"design": pl.String, "world": pl.String, "seconds": pl.Float64, "models": pl.Int64}
    costs = _filled(costs, pl.Schema(schema))
    entries = rows.group_by("design", maintain_order=True).agg(
        n_questions=pl.col("cause").is_null().sum(),
        n_biased=(pl.col("verdict") == "biased").sum(),
        bias_worst=pl.col("bias_percent").abs().max(),
        **{name: of_all for name, (of_all, _) in _FIGURES.items()},
    )
    for name, (_, by) in _FIGURES.items():
        entries = _with_ranks(entries, rows, name, by, _QUESTION)
    own = costs.group_by("design").agg(pl.col("seconds").mean(), pl.col("models").max())
    entries = entries.join(own, on="design", how="left", maintain_order="left")
    return _with_ranks(entries, costs, "seconds", pl.col("seconds"), ("world",)).to_dicts()


def _filled(table: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """A table with every column of a schema."""
    known = [
        pl.col(c) if c in table.columns else pl.lit(None, t).alias(c) for c, t in schema.items()
    ]
    return table.select(known) if table.width else pl.DataFrame(schema=schema)


def _with_ranks(
    entries: pl.DataFrame, rows: pl.DataFrame, name: str, by: pl.Expr, question: tuple[str, ...]
) -> pl.DataFrame:
    """With the column ``<name>_rank``: the place of the mean rank, null of who has none."""
    known = rows.with_columns(by=by).drop_nulls("by")
    ranks = known.with_columns(rank=pl.col("by").rank("average").over(question))
    means = ranks.group_by("design").agg(pl.col("rank").mean())
    places = means.select("design", pl.col("rank").rank("min").cast(pl.Int64).alias(f"{name}_rank"))
    return entries.join(places, on="design", how="left", maintain_order="left")
