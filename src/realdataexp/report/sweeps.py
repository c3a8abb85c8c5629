"""What is shown of a sweep: how the effect and the designs' answers change from point to point.

It is made from sweep.yaml, sweep.parquet and the resolved config of the first point.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from rich.console import Console

from realdataexp.errors import InputError
from realdataexp.report.files import TRUTH, Compared, Settings, odd_files_named, read_table
from realdataexp.report.numbers import number, percent
from realdataexp.report.panels import Cells, Curve, Dot, Panel, look, shown
from realdataexp.report.table import Cell, Column, Table, say
from realdataexp.report.verdicts import JUDGEMENTS, MIN_REPLICATIONS, Bias, limit

SWEEP, TABLE, PAGE = "sweep.yaml", "sweep.parquet", "sweep.html"
_TABLE = TABLE.removesuffix(".parquet")
_ON_TERMINAL = 60  # rows of a table
_LOG_FROM = 50.0  # largest over least value of a key, from which its axis is logarithmic


@dataclass(frozen=True)
class Sweep:
    """A sweep's folder as its readers see it.

    Attributes:
        table: a row for each point, design and label; the keys that vary are its first columns.
        asked: the content of sweep.yaml.
        settings: of the first point.
    """

    table: pl.DataFrame
    asked: Mapping[str, Any]
    settings: Settings

    @classmethod
    def read(cls, folder: Path) -> Sweep:
        """Those of a folder.

        Raises:
            InputError: a file is missing or damaged.
        """
        table = read_table(folder, _TABLE)
        with odd_files_named(folder):
            try:
                asked = yaml.safe_load((folder / SWEEP).read_text(encoding="utf-8"))
                first = (folder / "points" / "0" / "config.yaml").read_text(encoding="utf-8")
            except OSError as error:
                said = f"{error.filename}: cannot be read ({error.strerror})"
                raise InputError(f"{said}; pass a folder made by sweep") from error
            settings = Settings.model_validate(yaml.safe_load(first))
            return cls(table, asked, settings)

    @cached_property
    def keys(self) -> list[str]:
        """The keys that vary."""
        return self.table.columns[: self.table.columns.index("design")]

    @cached_property
    def n_points(self) -> int:
        """How many points were asked for."""
        return len(self.asked["points"])

    @cached_property
    def designs(self) -> list[str]:
        """The designs, in the order of the results; the truth alone where nothing else was run."""
        found = self.table["design"].unique(maintain_order=True).to_list()
        return [x for x in found if x != TRUTH] or found

    @cached_property
    def titles(self) -> dict[str, str]:
        """The title of each label."""
        known = {x.name: x.title for x in self.settings.measured}
        labels = self.table["label"].unique(maintain_order=True).to_list()
        return {label: known.get(label, label) for label in labels}

    @cached_property
    def failed(self) -> dict[int, str]:
        """The cause of each point's failure."""
        rows = self.table.drop_nulls("fault").unique("point", maintain_order=True)
        return dict(rows.select("point", "fault").iter_rows())

    @cached_property
    def points(self) -> pl.DataFrame:
        """The keys' values at each point that came to its end."""
        done = self.table.filter(pl.col("fault").is_null())
        return done.select("point", *self.keys).unique("point", maintain_order=True)

    def of(self, label: str) -> pl.DataFrame:
        """The rows of a label, of points that came to their end."""
        return self.table.filter(pl.col("fault").is_null(), pl.col("label") == label)

    def biases(self, label: str) -> dict[str, list[Bias]]:
        """The biases of each design at every point; each run's biases are judged together."""
        sizes = dict(self.table.drop_nulls("bias").group_by("point").len().iter_rows())
        found: dict[str, list[Bias]] = {}
        for row in self.of(label).drop_nulls("bias").iter_rows(named=True):
            entry = Compared.model_validate({k: row[k] for k in Compared.model_fields if k in row})
            found.setdefault(row["design"], []).append(Bias(entry, sizes[row["point"]]))
        return found


# --- words and tables ----------------------------------------------------------------------------


def headline(sweep: Sweep) -> list[str]:
    """What was swept, and how far it came."""
    values = {key: sweep.table[key].unique(maintain_order=True).to_list() for key in sweep.keys}
    told = [f"{key}: {_listed(own)}" for key, own in values.items()]
    done = sweep.points.height
    points = "point is" if sweep.n_points == 1 else "points are"
    lines = [f"{done} of {sweep.n_points} {points} done", *told]
    if sweep.failed:
        lines[0] += f", {len(sweep.failed)} failed"
    return lines


def _listed(values: Sequence[Any]) -> str:
    texts = [text(x) for x in values]
    if len(texts) > 6:
        texts = [*texts[:3], "…", *texts[-2:]]
    return ", ".join(texts)


def text(value: Any) -> str:
    """A key's value as a reader sees it."""
    return value if isinstance(value, str) else json.dumps(value)


def tables(sweep: Sweep) -> list[Table]:
    """Every point, design and label: a table for each label."""
    found = []
    for label, title in sweep.titles.items():
        own = Table(
            f"{title}: effect per visit", *_short(sweep.keys), "design", "GTE", "estimate",
            Column("bias ± MC SE", is_judged=True), Column("bias, % of effect", is_more=True),
            Column("RMSE", is_more=True), "coverage", first="point", label=label,
        )  # fmt: skip
        biases = {name: iter(x) for name, x in sweep.biases(label).items()}
        for row in sweep.of(label).iter_rows(named=True):
            known = row["bias"] is not None
            own.add(
                str(row["point"]), *(_key_cell(row[key]) for key in sweep.keys),
                shown(row["design"]), Cell.of(row["gte"]), Cell.of(row["estimate"]),
                *(_bias_cells(next(biases[row["design"]])) if known else ("-", "-")),
                Cell.of(row["rmse"]), _share_cell(row["coverage"]), design=row["design"],
            )  # fmt: skip
        found.append(own)
    return found


def _short(keys: Sequence[str]) -> list[str]:
    """The ends of keys, as long as tells them apart."""
    parts = [key.split(".") for key in keys]
    for n in range(1, max(map(len, parts)) + 1):
        names = [".".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(keys)


def _key_cell(value: Any) -> Cell:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(text(value), float(value) if is_number else None)


def _bias_cells(bias: Bias) -> tuple[Cell, Cell]:
    value, error = bias.entry.bias, bias.entry.bias_mc_se
    kind = "notable" if bias.is_significant else ""
    share = bias.percent_of_effect
    return Cell(f"{number(value)} ± {number(error)}", value, kind), Cell(percent(share), share)


def _share_cell(share: float | None) -> Cell:
    return Cell("-" if share is None else f"{100 * share:.0f} %", share)


def judged(sweep: Sweep) -> list[Table]:
    """At how many points each design is biased, and unbiased: a table for each label."""
    found = []
    for label, title in sweep.titles.items():
        own = Table(
            f"{title}: points by verdict", *JUDGEMENTS.values(), first="design", label=label
        )
        for design, biases in sweep.biases(label).items():
            verdicts = [bias.judgement for bias in biases]
            counts = (verdicts.count(judgement) for judgement in JUDGEMENTS)
            own.add(design, *(Cell(str(n), n) for n in counts), design=design)
        if own.rows:
            found.append(own)
    return found


def warned(sweep: Sweep) -> list[tuple[str, int]]:
    """The codes of the runs' warnings, and at how many points each was reported."""
    rows = sweep.table.drop_nulls("warnings").unique("point", maintain_order=True)
    codes = rows["warnings"].str.split(", ").explode(empty_as_null=False, keep_nulls=False)
    counts = codes.filter(codes != "").value_counts(sort=True, name="n")
    return [(code, n) for code, n in counts.sort("n", "warnings", descending=[True, False]).rows()]


def print_sweep(folder: Path, console: Console | None = None) -> tuple[int, int]:
    """Print how far a sweep came, and the tables, unless they are long.

    Returns how many points failed, and how many there are.
    """
    console = console or Console(highlight=False)
    sweep = Sweep.read(folder)
    for own in tables(sweep):
        if len(own.rows) <= _ON_TERMINAL:
            own.show(console)
    console.print()
    for line in headline(sweep):
        say(console, line, hang="  ")
    for point, fault in sweep.failed.items():
        say(console, f"! point {point}: {fault}", "yellow", hang="  ")
    return len(sweep.failed), sweep.n_points


# --- charts ---------------------------------------------------------------------------------------


def panels(sweep: Sweep) -> Iterator[Panel]:
    """Dose-response curves by key and label, bias against spread, Pareto plots, heat maps."""
    varied = [key for key in sweep.keys if sweep.points[key].n_unique() > 1]
    for i, (label, title) in enumerate(sweep.titles.items()):
        for j, key in enumerate(varied):
            for panel in _responses(sweep, label, key):
                yield _named(panel, f"{i}-{j}", title, label)
        for panel in _trade(sweep, label):
            yield _named(panel, str(i), title, label)
    for i, pair in enumerate(combinations(sweep.titles, 2)):
        yield from _pareto(sweep, *pair, str(i))
    for a, b in combinations(varied, 2):
        if b in _free(sweep, a) and a in _free(sweep, b):
            for i, (label, title) in enumerate(sweep.titles.items()):
                for panel in _heat(sweep, label, a, b):
                    yield _named(panel, str(i), title, label)
            return


def _named(panel: Panel, key: str, title: str, label: str) -> Panel:
    return replace(panel, key=f"{panel.key}-{key}", title=f"{title}: {panel.title}", label=label)


def _free(sweep: Sweep, *keys: str) -> list[str]:
    """The other keys that vary while these stay."""
    groups = sweep.points.group_by(keys).agg(pl.col(sweep.keys).exclude(*keys).n_unique())
    return [x for x in sweep.keys if x not in keys and (groups[x] > 1).any()]


def _where(free: Sequence[str]) -> pl.Expr:
    """The values of the keys that stay the same along a curve, in words."""
    if not free:
        return pl.lit("")
    said = (pl.format("{} = {}", pl.lit(key), pl.col(key)) for key in free)
    return pl.concat_str(*said, separator=", ", ignore_nulls=True)


def _choices(table: pl.DataFrame) -> dict[str, list[str]]:
    places = table["where"].unique(maintain_order=True).to_list()
    return {"where": places} if len(places) > 1 else {}


def _responses(sweep: Sweep, label: str, key: str) -> Iterator[Panel]:
    """Effect, bias and coverage against a key, by design."""
    table = sweep.of(label).with_columns(where=_where(_free(sweep, key)))
    x = _axis(table[key])
    table = table.with_columns(step=x.values)
    estimates = [c for d in sweep.designs for c in _curves(sweep, table, d, "estimate")]
    truth = table.unique(["where", "point"], maintain_order=True).with_columns(design=pl.lit(TRUTH))
    effects = [*_curves(sweep, truth, TRUTH, "gte"), *estimates]
    se = pl.col("bias_mc_se") * pl.col("bias_df").map_elements(_limit, return_dtype=pl.Float64)
    bias = table.with_columns(bias_low=pl.col("bias") - se, bias_high=pl.col("bias") + se)
    shares = table.with_columns(pl.col("coverage", "coverage_low", "coverage_high") * 100)
    kinds = (
        ("effect", effects, "effect per visit", "Mean over replications with its 95 % interval"),
        ("bias", [c for d in sweep.designs for c in _curves(sweep, bias, d, "bias")],
         "estimate − truth, per visit", "Mean distance from the truth; bias ± t × MC SE, 95 %"),
        ("coverage", [c for d in sweep.designs for c in _curves(sweep, shares, d, "coverage")],
         "% of 95 % intervals that hold the truth", "Welch's intervals; exact binomial 95 %"),
    )  # fmt: skip
    for kind, drawn, axis, said in kinds:
        if drawn:
            yield Panel(
                kind, f"{kind} by {key}", said, axis, curves=tuple(drawn), over=key,
                scale=x.scale, choices=_choices(table),
                level={"bias": 0.0, "coverage": 95.0}.get(kind),
            )  # fmt: skip


def _limit(df: int) -> float | None:
    """Student's limit of 5 %; None of too few degrees of freedom."""
    return limit(df) if df + 1 >= MIN_REPLICATIONS else None


@dataclass(frozen=True)
class _Axis:
    values: pl.Series
    scale: str


def _axis(values: pl.Series) -> _Axis:
    """A key's values as places on an axis: numbers, or texts in their own order."""
    if not values.dtype.is_numeric():
        return _Axis(pl.Series([text(x) for x in values], dtype=pl.String), "category")
    known = values.drop_nulls().cast(pl.Float64).to_list()
    is_log = min(known) > 0 and max(known) / min(known) >= _LOG_FROM
    return _Axis(values, "log" if is_log else "linear")


def _curves(sweep: Sweep, table: pl.DataFrame, design: str, what: str) -> Iterator[Curve]:
    """A design's curve of one figure, for each value of what else varies."""
    own = table.filter(pl.col("design") == design).drop_nulls(["step", what])
    for part in own.partition_by("where", maintain_order=True):
        points = part.select("step", mean=what, low=f"{what}_low", high=f"{what}_high")
        if points["step"].dtype.is_numeric():
            points = points.sort("step", maintain_order=True)
        colour, dash, symbol = look(design, sweep.designs)
        yield Curve(
            shown(design), points, colour, dash, symbol, design, where=part["where"][0],
            has_bars=True,
        )  # fmt: skip


def _trade(sweep: Sweep, label: str) -> Iterator[Panel]:
    """Bias against the spread of a single test: a dot for each point and design."""
    rows = sweep.of(label).drop_nulls(["bias", "sd"]).to_dicts()
    errors = [(abs(row["bias"]), row["sd"]) for row in rows]
    several = len(sweep.designs) > 1
    dots = []
    for row, (size, sd) in zip(rows, errors, strict=True):
        half = (row["bias_mc_se"] or 0.0) * (_limit(row["bias_df"]) or 0.0)
        is_beaten = any(p <= size and q <= sd and (p, q) != (size, sd) for p, q in errors)
        names = [shown(row["design"])] * several + _settings(sweep, row)
        interval = (row["bias"] - half, row["bias"] + half) if half else None
        dots.append(Dot(", ".join(names), sd, row["bias"], None, interval, not is_beaten))
    if dots:
        yield Panel(
            "trade", "bias against spread",
            "A dot for each point and design; bias ± t × MC SE, 95 %. Squares: nothing has both "
            "less bias and less spread", "estimate − truth, per visit", dots=tuple(dots),
            over="standard deviation of a single test", level=0.0,
            best="nothing has less of both",
        )  # fmt: skip


def _settings(sweep: Sweep, row: Mapping[str, Any]) -> list[str]:
    """What a point's keys are set to."""
    return [f"{key} = {text(row[key])}" for key in sweep.keys]


def _pareto(sweep: Sweep, a: str, b: str, key: str) -> Iterator[Panel]:
    """The true effects on two labels: a dot for each point, and those that none is better than."""
    columns = ("gte", "gte_low", "gte_high")
    x, y = (
        sweep.of(label).drop_nulls("gte").unique("point", maintain_order=True) for label in (a, b)
    )
    both = x.select("point", *sweep.keys, *columns).join(
        y.select("point", *columns), on="point", suffix="_y", maintain_order="left"
    )
    if both.is_empty():
        return
    effects = both.select("gte", "gte_y").rows()
    drawn = [
        Dot(
            ", ".join(_settings(sweep, row)), row["gte"], row["gte_y"],
            _interval(row, ""), _interval(row, "_y"),
            not any(p != q and q[0] >= p[0] and q[1] >= p[1] for p in [(row["gte"], row["gte_y"])]
                    for q in effects),
        )
        for row in both.iter_rows(named=True)
    ]  # fmt: skip
    titles = sweep.titles
    yield Panel(
        f"pareto-{key}", f"true effects on {a} and {b}",
        "A dot for each point, with 95 % intervals. Squares: no point has more of both",
        f"{titles[b]}: effect per visit", dots=tuple(drawn), over=f"{titles[a]}: effect per visit",
    )  # fmt: skip


def _interval(row: Mapping[str, Any], suffix: str) -> tuple[float, float] | None:
    low, high = row[f"gte_low{suffix}"], row[f"gte_high{suffix}"]
    return None if low is None or high is None else (low, high)


def _heat(sweep: Sweep, label: str, a: str, b: str) -> Iterator[Panel]:
    """The effect, the bias and the coverage over two keys."""
    table = sweep.of(label).with_columns(where=_where(_free(sweep, a, b)))
    cells = []
    for metric, what, scale in (
        ("effect", "gte", 1),
        ("bias", "bias", 1),
        ("coverage", "coverage", 100),
    ):
        for design in sweep.designs:
            own = table.filter(pl.col("design") == design).drop_nulls([a, b, what])
            for part in own.partition_by("where", maintain_order=True):
                xs, ys = (_values(sweep.points[key]) for key in (a, b))
                known = {(p, q): scale * v for p, q, v in part.select(a, b, what).iter_rows()}
                rows = [[known.get((x, y)) for x in xs] for y in ys]
                cells.append(
                    Cells([text(x) for x in xs], [text(y) for y in ys], rows, metric, design,
                          part["where"][0])
                )  # fmt: skip
    if cells:
        of = {"metric": [x.metric for x in cells], "design": [x.design for x in cells]}
        yield Panel(
            "heat", f"{a} and {b}", "The true effect, or a design's bias or coverage (%)", b,
            cells=tuple(cells), over=a,
            choices={k: list(dict.fromkeys(x)) for k, x in of.items()} | _choices(table),
        )  # fmt: skip


def _values(values: pl.Series) -> list[Any]:
    """A key's values, each once: numbers ascending, others in their own order."""
    known = values.drop_nulls().unique(maintain_order=True)
    return (known.sort() if known.dtype.is_numeric() else known).to_list()
