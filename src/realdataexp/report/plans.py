"""What is shown of a plan: which tests show the effect, and what each could detect."""

from __future__ import annotations

import polars as pl

from realdataexp.report import tables
from realdataexp.report.files import Plan, Planned
from realdataexp.report.numbers import number
from realdataexp.report.panels import Curve, Panel, look
from realdataexp.report.table import Table

PAGE = "plan.html"


def headline(plan: Plan) -> list[str]:
    """For each outcome the shortest test that shows the effect, the smallest MDE first."""
    said = []
    for label, title in titles(plan).items():
        able = [row for row in plan.rows if row.label == label and row.detects]
        if not able:
            said.append(f"{title}: no test of this plan shows the effect")
            continue
        best = min(able, key=lambda row: (row.steps, row.mde_honest or 0.0))
        found = f"{title}: {best.steps:,} steps with {best.design} show the effect"
        said.append(f"{found} ({100 * best.p:g} % treated, training every {_every(best)})")
    return said


def _every(row: Planned) -> str:
    return "step" if row.retrain_every == 1 else f"{row.retrain_every} steps"


def titles(plan: Plan) -> dict[str, str]:
    """The title of each outcome that has rows."""
    known = {x.name: x.title for x in plan.settings.config.measured}
    return {label: known[label] for label in dict.fromkeys(row.label for row in plan.rows)}


def panels(plan: Plan) -> list[Panel]:
    """For each outcome, what each design could detect by the length of the test."""
    return [panel for i, x in enumerate(titles(plan).items()) if (panel := _panel(plan, i, *x))]


def _panel(plan: Plan, i: int, label: str, title: str) -> Panel | None:
    rows = [row for row in plan.rows if row.label == label and row.mde_honest is not None]
    order = list(dict.fromkeys(row.design for row in rows))
    curves = []
    for p, every, design in dict.fromkeys((x.p, x.retrain_every, x.design) for x in rows):
        own = [x for x in rows if (x.p, x.retrain_every, x.design) == (p, every, design)]
        points = pl.DataFrame(
            {"step": [x.steps for x in own], "mean": [x.mde_honest for x in own]}
        ).with_columns(low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64))
        where = f"{100 * p:g} % treated, training every {_every(own[0])}"
        curves.append(Curve(design, points, *look(design, order), design, where=where))
    if not curves:
        return None
    places = list(dict.fromkeys(curve.where for curve in curves))
    effects = [abs(row.effect) for row in rows if row.effect is not None]
    size = sum(effects) / len(effects) if effects else None
    line = (
        "" if size is None else f". Green: the true effect, about {number(size)}, without its sign"
    )
    return Panel(
        f"mde-{i}", f"{title}: least effect that a test shows",
        f"With a power of {100 * plan.settings.power:g} %, given the true spread and bias{line}",
        "per visit", curves=tuple(curves), from_zero=True, level=size, label=label, over="steps",
        choices={"where": places} if len(places) > 1 else {},
    )  # fmt: skip


def shown(plan: Plan) -> list[Table]:
    """A table for each outcome, as on the terminal."""
    return [table for _, table in tables.plan_tables(plan)]
