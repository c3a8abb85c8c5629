"""What is shown of a training: how well a model ranks held-out items, and its learning curves."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import polars as pl

from realdataexp.report.files import Difference, RunResult, Score, read_table, read_table_if_there
from realdataexp.report.panels import Curve, Panel, Point, look
from realdataexp.report.table import Cell, Column, Table

Kind = tuple[str, int | None]  # a metric and the length of its list
_Row = TypeVar("_Row", Score, Difference)

_NAMES = {"ndcg": "NDCG", "mrr": "MRR", "gini": "Gini"}
_SPREAD = ("coverage", "gini", "entropy")
LEGEND = (
    "hit@k: share of questions whose item is among the first k of all items (recall@k too, as each "
    "question has one item); NDCG@k: the same, discounted by its place; MRR: mean of 1/place; ± "
    "standard error over questions."
)
MARKED = "{mark} marks differences whose paired 95 % bootstrap interval excludes 0."
MORE_LEGEND = (
    "Of everybody's first k items: coverage, the share of all items on some list; Gini, 0 where "
    "all items are listed equally often, towards 1 where few fill the lists; entropy of a listed "
    "item, in bits."
)


def tables(result: RunResult) -> list[Table]:
    """What each recommender reaches on the test and on the validation, and the differences."""
    own = {result.trained}
    found = [reached(split, by_model(result), own) for split in ("test", "validation")]
    return [table for table in (*found, differences(result.compared)) if table.rows]


def headline(result: RunResult) -> list[str]:
    """Whether the model ranks better than each baseline, by test NDCG; alone: what it reaches."""
    if told := verdicts(result.compared):
        return told
    own = [x for x in result.results if (x.model, x.split) == (result.trained, "test")]
    return [f"{x.model}: test {_name(x)} {_score(x).shown}" for x in _by_ndcg(own)]


def verdicts(compared: Sequence[Difference]) -> list[str]:
    """Which of each pair ranks better, by test NDCG."""
    return [_verdict(x) for x in _by_ndcg(compared)]


def _verdict(x: Difference) -> str:
    said = f"test {_name(x)} {_signed(x)}"
    if not x.is_significant:
        return f"{x.model} and {x.against} cannot be told apart: {said}"
    return f"{x.model} ranks {'better' if x.difference > 0 else 'worse'} than {x.against}: {said}"


def panels(run_dir: Path, result: RunResult, *, is_lenient: bool = False) -> list[Panel]:
    """Learning curves with the baselines as lines, and the differences.

    Raises:
        InputError: metrics.parquet is damaged or, unless ``is_lenient``, missing.
    """
    table = (read_table_if_there if is_lenient else read_table)(run_dir, "metrics")
    curves = [] if table is None else [_validation(result, table), *_training(table)]
    return [x for x in (*curves, differences_panel(result.compared)) if x.curves or x.rows]


def first_choice(panel: Panel) -> Panel:
    """A panel as it looks where nobody can choose a metric."""
    if not panel.choices:
        return panel
    metric = panel.choices["metric"][0]
    own = tuple(x for x in panel.curves if x.metric == metric)
    return replace(panel, title=f"{panel.title}: {metric}", axis=metric, curves=own, choices={})


# --- names and numbers ---------------------------------------------------------------------------


def _name(x: Score | Difference) -> str:
    return _named(x.metric, x.k)


def _named(metric: str, k: int | None) -> str:
    return _NAMES.get(metric, metric) + ("" if k is None else f"@{k}")


def main_length(kinds: Iterable[Kind]) -> int | None:
    """The length of list that matters most: 10, by which the best epoch is chosen, or the longest.

    None where there is no list.
    """
    known = {k for metric, k in kinds if k is not None and metric not in _SPREAD}
    return 10 if 10 in known else max(known, default=None)


def _by_ndcg(found: Sequence[_Row]) -> list[_Row]:
    k = main_length((x.metric, x.k) for x in found)
    return [x for x in found if (x.metric, x.k) == ("ndcg", k)]


def _signed(x: Difference) -> str:
    return f"{x.difference:+.4f} [{x.ci_low:+.4f}, {x.ci_high:+.4f}]"


def _score(x: Score | None) -> Cell:
    if x is None or x.value is None:
        return Cell("-")
    return Cell(f"{x.value:.4f}" + ("" if x.se is None else f" ± {x.se:.4f}"), x.value)


# --- tables --------------------------------------------------------------------------------------


def reached(split: str, scores: Mapping[str, Sequence[Score]], bold: Container[str]) -> Table:
    """What each recommender reaches on a split, by its name; ``bold`` ones are models."""
    own = {
        name: {(x.metric, x.k): x for x in of if x.split == split} for name, of in scores.items()
    }
    kinds = list(dict.fromkeys(kind for of in own.values() for kind in of))
    kinds.sort(key=lambda kind: kind[0] in _SPREAD)
    shown = (None, main_length(kinds))
    asked = sorted({x.n for of in own.values() for x in of.values()})
    n = " to ".join(f"{x:,}" for x in dict.fromkeys(asked[:1] + asked[-1:]))
    table = Table(
        f"{split.capitalize()}: {n} questions, all items ranked",
        *(Column(_named(*x), is_more=x[1] not in shown or x[0] in _SPREAD) for x in kinds),
        first="recommender",
    )
    for name, of in own.items():
        if of:
            cells = [_score(of.get(kind)) for kind in kinds]
            table.add(name, *cells, style="bold" if name in bold else "")
    return table


def by_model(result: RunResult) -> dict[str, list[Score]]:
    """The scores of each recommender, in the order of the result."""
    found: dict[str, list[Score]] = {}
    for x in result.results:
        found.setdefault(x.model, []).append(x)
    return found


def differences(compared: Sequence[Difference]) -> Table:
    """A row for each pair; what its interval finds gets a mark."""
    kinds = list(dict.fromkeys((x.metric, x.k) for x in compared))
    main = main_length(kinds)
    kinds.sort(key=lambda kind: kind[1] != main)
    table = Table(
        "Differences on the test, with the paired 95 % interval",
        *(Column(_named(*x), is_more=x[1] != main, is_judged=True) for x in kinds),
        first="model − other",
    )
    for pair in dict.fromkeys(x.pair for x in compared):
        known = {(x.metric, x.k): x for x in compared if x.pair == pair}
        table.add(pair, *(_difference(known.get(kind)) for kind in kinds))
    return table


def _difference(x: Difference | None) -> Cell:
    if x is None:
        return Cell("-")
    return Cell(_signed(x), x.difference, "notable" if x.is_significant else "")


# --- pictures ------------------------------------------------------------------------------------


def curve(
    name: str, rows: pl.DataFrame, order: Sequence[str], metric: str = "", *, is_level: bool = False
) -> Curve:
    """Values over epochs."""
    colour, dash, symbol = look(name, order)
    empty = pl.lit(None, pl.Float64)
    table = rows.select(step="epoch", mean="value", low=empty, high=empty)
    return Curve(name, table, colour, dash, "none" if is_level else symbol, metric=metric)


def _validation(result: RunResult, table: pl.DataFrame) -> Panel:
    """Each validation metric after each epoch; what a baseline reaches is a level line."""
    own = table.filter(pl.col("split") == "validation")
    kinds: list[Kind] = own.select("metric", "k").unique(maintain_order=True).rows()
    main = ("ndcg", main_length(kinds))
    kinds.sort(key=lambda kind: kind != main)
    reached = [x for x in result.results if x.split == "validation" and x.model != result.trained]
    order = (result.trained, *dict.fromkeys(x.model for x in reached))
    curves = []
    for metric, k in kinds:
        name = _named(metric, k)
        rows = own.filter((pl.col("metric") == metric) & pl.col("k").eq_missing(k))
        curves.append(curve(result.trained, rows, order, name))
        curves += [
            curve(x.model, rows.with_columns(value=pl.lit(x.value)), order, name, is_level=True)
            for x in reached
            if (x.metric, x.k) == (metric, k)
        ]
    some = result.raw["config"]["evaluation"]["validation_users"]
    of = f" by {some:,} of the questions" if some else ""
    return Panel(
        "validation", "Validation", f"After each epoch{of}, of which the best is kept; level "
        f"lines: the others{', by all questions' * bool(some)}", "",
        curves=tuple(curves), from_zero=True, over="epoch",
        choices={"metric": [_named(*kind) for kind in kinds]} if kinds else {},
    )  # fmt: skip


def _training(table: pl.DataFrame) -> list[Panel]:
    """Loss, gradient norm and learning rate, by epoch."""
    found = []
    for title, summary, curves in (
        ("Training loss", "Mean over an epoch's positions", {"loss": "loss"}),
        ("Gradient norm", "Of an epoch's updates, before clipping",
         {"gradient_norm": "mean", "largest_gradient_norm": "largest"}),
        ("Learning rate", "At the end of each epoch", {"learning_rate": "learning rate"}),
    ):  # fmt: skip
        rows = {name: table.filter(pl.col("metric") == metric) for metric, name in curves.items()}
        drawn = tuple(curve(name, x, list(rows)) for name, x in rows.items() if x.height)
        key = title.lower().replace(" ", "-")
        found.append(Panel(key, title, summary, title.lower(), curves=drawn, over="epoch"))
    return found


def differences_panel(compared: Sequence[Difference]) -> Panel:
    """The differences in NDCG with their intervals."""
    own = _by_ndcg(compared)
    points = [Point(x.pair, x.difference, (x.ci_low, x.ci_high), _colour(x), "circle") for x in own]
    name = _name(own[0]) if own else ""
    return Panel(
        "compared", f"Differences in test {name}",
        "Right of 0 the first of a pair ranks better; bars: paired 95 % intervals",
        f"difference in {name}", rows=tuple(x.pair for x in own), points=tuple(points), line=0.0,
    )  # fmt: skip


def _colour(x: Difference) -> str:
    if not x.is_significant:
        return "plain"
    return "control" if x.difference > 0 else "treatment"
