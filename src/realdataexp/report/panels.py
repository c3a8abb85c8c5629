"""What each picture of a run shows, once for all that draw it.

A panel is made from the run's tables and says what to draw: boxes and points of designs from top to
bottom, or curves over steps, with the truth, words, limits and units. ``plots`` draws it with
matplotlib (plot.svg, figures from Python), ``charts`` with Plotly (report.html).

A colour is a role: "truth", "treatment", "control", "plain", or one of six for designs, "d0" to
"d5". A curve is a mean over worlds with the range of most of them, in few points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from realdataexp.report.files import TRUTH, Effect, RunResult, read_table, read_table_if_there
from realdataexp.report.verdicts import (
    INTERVAL_OF_BIAS,
    JUDGEMENTS,
    MIN_REPLICATIONS,
    Bias,
    Judgement,
    biases,
)

LOW, HIGH = 0.1, 0.9  # the band: the middle 80 % of the worlds
MAX_POINTS = 200
MARKED = 30  # points of a curve that still have a marker each
EARLY = 0.2  # share of the steps, in which estimates still scatter widely
_MIN_BAND = 3  # worlds
_BAND = "band: the middle 80 % of the replications"

# what tells designs apart, in the order of a result: six of each
COLOURS = ("d0", "d1", "d2", "d3", "d4", "d5")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle", "cross", "star")
JUDGED: dict[Judgement, tuple[str, str]] = {
    "unbiased": ("control", "circle"),
    "small": ("control", "square"),
    "inconclusive": ("plain", "diamond"),
    "few": ("plain", "cross"),
    "biased": ("treatment", "square"),
}
_WHO = {
    "T": ("treatment", "treatment", "circle"),
    "C": ("control", "control", "square"),
    "shared": ("both arms", "plain", "circle"),
}
METRICS = {  # the first that there is says best how good predictions are
    "auc": "AUC (0.5 is guessing)",
    "relative_error": "relative error",
    "mae": "mean absolute error",
    "loss": "loss",
}
_OF_G = (  # metrics of the weight model that stand together
    ("AUC and accuracy", ("auc", "accuracy"), "higher is better"),
    ("log loss", ("log_loss", "log_loss_of_constant"), "lower is better"),
    ("mean weights", ("mean_weight_T", "mean_weight_C"), "should be 1"),
)
_OF_DATA = (
    ("users_short", "training users", "control", "solid"),
    ("slates_short", "slates of the visits", "treatment", "dot"),
)


def look(design: str, order: Sequence[str]) -> tuple[str, str, str]:
    """Colour, line and symbol that tell a design apart."""
    if design == TRUTH:
        return "truth", "solid", "circle"
    turn, i = divmod(order.index(design) if design in order else 0, len(COLOURS))
    line = (i + turn) % len(DASHES)  # a colour that comes again has another line
    return COLOURS[i], DASHES[line], SYMBOLS[line]


def shown(design: str) -> str:
    """What a picture calls a design."""
    return "truth (GTE)" if design == TRUTH else design


@dataclass(frozen=True)
class Box:
    """A design's estimates: least, quartiles and largest, and the mean."""

    row: str
    colour: str
    cuts: tuple[float, ...]
    mean: float


@dataclass(frozen=True)
class Point:
    """A figure of a row, with its interval where it has one."""

    row: str
    value: float
    interval: tuple[float, float] | None
    colour: str
    symbol: str
    name: str = ""  # in the legend, where it has one
    above: float = 0.0  # of the middle of its row, in rows
    is_extra: bool = False  # hidden until the reader asks for it


@dataclass(frozen=True)
class Curve:
    """A curve over steps, or what else there is; its table has step, mean, low and high.

    These are the ends of a band, or with ``has_bars`` of a bar at each point, or null.
    """

    name: str
    table: pl.DataFrame
    colour: str
    dash: str = "solid"
    symbol: str = "circle"
    design: str = ""  # which it is of, where the reader can choose
    metric: str = ""
    where: str = ""  # the reader's choice of what else varies
    has_bars: bool = False

    @property
    def band(self) -> pl.DataFrame:
        """The rows that have a band."""
        return self.table.drop_nulls(["low", "high"])

    def beyond(self, limits: tuple[float, float] | None) -> list[tuple[int, bool]]:
        """Steps whose mean is beyond limits, each with whether it is above them."""
        low, high = limits or (-np.inf, np.inf)
        points = self.table.select("step", "mean").drop_nulls().iter_rows()
        return [(step, y > high) for step, y in points if not low <= y <= high]


@dataclass(frozen=True)
class Dot:
    """A pair of figures, each with its interval where it has one; ``is_best``: none beats it."""

    name: str
    x: float
    y: float
    x_interval: tuple[float, float] | None
    y_interval: tuple[float, float] | None
    is_best: bool


@dataclass(frozen=True)
class Cells:
    """A figure for each pair of places; a row of ``values`` is one of ``ys``."""

    xs: Sequence[str]
    ys: Sequence[str]
    values: Sequence[Sequence[float | None]]
    metric: str
    design: str
    where: str


@dataclass(frozen=True)
class Panel:
    """A picture: designs from top to bottom (``rows``), curves over steps, dots, or a heat map."""

    key: str  # of its element on the page
    title: str
    summary: str  # what it shows, in words
    axis: str  # title of the axis of values: across for designs, upright for curves
    rows: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()
    curves: tuple[Curve, ...] = ()
    dots: tuple[Dot, ...] = ()
    best: str = "no point has more of both"  # what is said of the dots that are best
    cells: tuple[Cells, ...] = ()
    line: float | None = None  # the truth, or what is claimed
    line_name: str = ""
    band: tuple[float, float] | None = None  # the truth's interval
    limits: tuple[float, float] | None = None  # of the axis of values
    from_zero: bool = False
    label: str = ""  # the outcome that it is about
    over: str = "step"  # what curves run over, or the title of the other axis
    scale: str = "-"  # of that axis: "linear", "log", "category", or as its values are
    level: float | None = None  # of a line across curves
    choices: Mapping[str, Sequence[str]] = field(
        default_factory=dict
    )  # "metric", "design", "where"

    def chosen(self, metric: str, design: str) -> Panel:
        """The curves of one metric and one design, named by the metric."""
        own = tuple(c for c in self.curves if (c.metric, c.design) == (metric, design))
        named = METRICS.get(metric, metric)
        what = self.title.rpartition(": ")[0]
        whose = "" if design == TRUTH or len(self.choices["design"]) == 1 else f", {design}"
        title = f"{what}: {named.partition(' (')[0]}{whose}"
        return replace(self, title=title, axis=named, curves=own, choices={})


def run_effects(found: Sequence[tuple[str, Effect]], key: str, title: str) -> Panel:
    """The effect in each run, by the runs' names, and a line at 0."""
    known = [(name, e.value, e.interval) for name, e in found if e.value is not None]
    order = tuple(name for name, _, _ in known)
    drawn = []
    for name, value, interval in known:
        colour, _, symbol = look(name, order)
        drawn.append(Point(name, value, interval, colour, symbol))
    said = "Mean effect of each run with its 95 % interval, by the spread of replications"
    return Panel(key, title, said, "effect per visit", order, points=tuple(drawn), line=0.0)


def bias(found: Sequence[Bias], key: str, title: str) -> Panel:
    """Biases of a run, each with the interval that decides whether it is one."""
    known = [x for x in found if x.entry.bias is not None]
    said = f"Intervals take {MIN_REPLICATIONS} replications"
    if any(x.interval for x in known):
        said = INTERVAL_OF_BIAS.format(n=known[0].n_biases)
    drawn = [
        Point(x.entry.design, x.entry.bias or 0.0, x.interval, *JUDGED[x.judgement], name)
        for judgement, name in JUDGEMENTS.items()  # the legend's order
        for x in known
        if x.judgement == judgement
    ]
    return Panel(
        f"bias-{key}", f"{title}: bias", f"Mean distance from the truth. {said}. Green: no bias",
        "estimate − truth, per visit", tuple(x.entry.design for x in known), points=tuple(drawn),
        line=0.0, line_name="no bias",
    )  # fmt: skip


class Panels:
    """Everything there is to draw of a run: a method for each kind of panel.

    It takes the run's result and its tables, where there are some. What a run has nothing to show
    for is None, or no panel.
    """

    def __init__(
        self,
        result: RunResult,
        outcomes: pl.DataFrame | None = None,
        estimates: pl.DataFrame | None = None,
        metrics: pl.DataFrame | None = None,
    ) -> None:
        self.result = result
        self._order = result.designs
        self._outcomes, self._estimates, self._metrics = outcomes, estimates, metrics

    @classmethod
    def read(cls, run_dir: Path, result: RunResult, *, is_lenient: bool = False) -> Panels:
        """Those of a run folder; ``is_lenient`` leaves out what a missing table would show.

        Raises:
            InputError: a table is damaged, or missing.
        """
        reader: Callable[[Path, str], pl.DataFrame | None]
        reader = read_table_if_there if is_lenient else read_table
        return cls(result, *(reader(run_dir, x) for x in ("outcomes", "estimates", "metrics")))

    def all(self) -> Iterator[Panel]:
        """Every panel: of each label, then of what labels share."""
        kinds = (self.answers, self.bias, self.coverage, self.effects, self.totals, self.quality)
        for label in self.result.titles:
            yield from (panel for kind in kinds if (panel := kind(label)) is not None)
        yield from self.shared()
        if (ledger := self.ledger()) is not None:
            yield ledger

    def shared(self) -> list[Panel]:
        """The panels of no label."""
        left = self.data_left()
        return [*self.weights(), *([left] if left else [])]

    def _panel(
        self, kind: str, label: str, what: str, summary: str, axis: str, **drawn: Any
    ) -> Panel:
        """The panel of a kind and a label."""
        titles = self.result.titles
        key, title = f"{kind}-{list(titles).index(label)}", f"{titles[label]}: {what}"
        return Panel(key, title, summary, axis, label=label, **drawn)

    # --- what designs answer -----------------------------------------------------------------

    def answers(self, label: str) -> Panel | None:
        """Each design's estimates of single tests as a box, and the truth."""
        if self._estimates is None:
            return None
        is_own = (pl.col("label") == label) & (pl.col("se_method") == "welch")
        known = self._estimates.filter(is_own & pl.col("value").is_not_null())
        boxes = []
        for design in self._compared(label):
            values = known.filter(pl.col("design") == design)["value"].to_numpy()
            if len(values):
                cuts = np.quantile(values, (0.0, 0.25, 0.5, 0.75, 1.0)).tolist()
                colour, _, _ = look(design, self._order)
                boxes.append(Box(design, colour, tuple(cuts), float(values.mean())))
        if not boxes:
            return None
        truth = next((e for e in self.result.truths if e.label == label), None)
        return self._panel(
            "estimates", label, "estimates",
            "Estimates of single tests. Box: the middle half, whiskers: least and largest. Green: "
            "the true effect", "effect per visit", rows=tuple(box.row for box in boxes),
            boxes=tuple(boxes), line=truth.value if truth else None,
            line_name="true effect (GTE)", band=truth.interval if truth else None,
        )  # fmt: skip

    def _compared(self, label: str) -> list[str]:
        """Designs with a bias."""
        return [e.design for e in self.result.comparison if e.label == label and e.bias is not None]

    def bias(self, label: str) -> Panel | None:
        """Each design's bias."""
        if not self._compared(label):
            return None
        titles = self.result.titles
        key = str(list(titles).index(label))
        return replace(bias(biases(self.result, label), key, titles[label]), label=label)

    def coverage(self, label: str, methods: Sequence[str] | None = None) -> Panel | None:
        """How often intervals hold the truth, or, in an A/A test, err; of all methods if None."""
        if self.result.is_aa:
            what, of_what, claimed = "type-I error", "tests whose interval excludes 0", 5.0
            names = ("reject_share", "reject_low", "reject_high")
        else:
            what, of_what, claimed = "coverage", "95 % intervals that hold the truth", 95.0
            names = ("coverage", "coverage_low", "coverage_high")
        own = [
            e
            for e in self.result.inference
            if e.label == label and None not in [getattr(e, x) for x in names]
            if methods is None or e.se_method in methods
        ]
        if not own or not self._compared(label):
            return None
        run = list(dict.fromkeys(e.se_method for e in own))
        drawn = []
        for e in sorted(own, key=lambda e: run.index(e.se_method)):
            share, low, high = (100 * getattr(e, x) for x in names)
            m, is_off = run.index(e.se_method), e.trustworthy is False
            colour, name = f"d{m % len(COLOURS)}", e.se_method
            if len(run) == 1:
                colour = "treatment" if is_off else "control"
                name = "refuted" if is_off else "not refuted"
            symbol, above = "square" if is_off else "circle", 0.7 * ((m + 0.5) / len(run) - 0.5)
            drawn.append(Point(e.design, share, (low, high), colour, symbol, name, above, m >= 2))
        return self._panel(
            "coverage", label, what,
            f"Each interval method's {what}, with its exact binomial interval; squares: refuted. "
            "Green: what is claimed", f"% of {of_what}",
            rows=tuple(d for d in self._order if d in {e.design for e in own}),
            points=tuple(drawn), line=claimed, line_name="claimed", limits=(-2.0, 102.0),
        )  # fmt: skip

    # --- what happened over the steps --------------------------------------------------------

    def effects(self, label: str) -> Panel | None:
        """What each design would report after each step, on average."""
        order = [TRUTH, *self._order]
        own = _of(self._outcomes, label)
        table = own if own.is_empty() else effects(own).filter(pl.col("design").is_in(order))
        if table.is_empty():
            return None
        drawn = []
        for design in order:
            part = table.filter(pl.col("design") == design)
            if design != TRUTH:  # many bands hide each other
                part = part.with_columns(low=None, high=None)
            if part.height:
                drawn.append(Curve(shown(design), part, *look(design, self._order), design))
        said = f"Mean estimate so far, by design; {_BAND} of the truth"
        limits = settled_range(table)
        if limits is not None:
            said += f". The axis fits the steps after the first {100 * EARLY:.0f} %"
            if any(curve.beyond(limits) for curve in drawn):
                said += "; triangles at its ends: means beyond it"
        return self._panel(
            "effect", label, "the answer while the test runs", said, "effect per visit so far",
            curves=tuple(drawn), limits=limits,
        )  # fmt: skip

    def totals(self, label: str) -> Panel | None:
        """Cumulative outcome of each arm; of the truth's worlds where there are some."""
        table = _of(self._outcomes, label)
        if table.is_empty():
            return None
        designs = table["design"].unique(maintain_order=True).to_list()
        design = TRUTH if TRUTH in designs else designs[0]
        sums = _so_far(table.filter(pl.col("design") == design)).with_columns(value="sum")
        parts = bands(sums, ["arm"]).partition_by("arm", as_dict=True)
        drawn = []
        for arm, dash in (("T", "solid"), ("C", "dash")):
            name, colour, _ = _WHO[arm]
            name = f"everybody in {name}" if design == TRUTH else f"{name} arm"
            if (arm,) in parts:
                drawn.append(Curve(name, parts[(arm,)], colour, dash, "none"))
        whose = "" if design == TRUTH else f", {design}"
        return self._panel(
            "total", label, f"total so far{whose}", f"Mean over replications; {_BAND}",
            "per replication", curves=tuple(drawn), from_zero=True,
        )  # fmt: skip

    def quality(self, label: str) -> Panel | None:
        """Every metric of every design; the first of each choice is what matters most."""
        own = _of(self._metrics, label)
        table = own if own.is_empty() else looks(own)
        if table.is_empty():
            return None
        metrics = table["metric"].unique(maintain_order=True).to_list()
        main = next((x for x in METRICS if x in metrics), "loss")
        metrics.sort(key=lambda x: (x != main, x != "loss"))
        designs = table["design"].unique(maintain_order=True).to_list()
        designs.sort(key=lambda design: design != TRUTH)
        drawn = []
        keys = ["design", "metric", "split", "who"]
        for names, part in table.group_by(keys, maintain_order=True):
            design, metric, split, who = map(str, names)
            name, colour, symbol = _WHO.get(who, (who, "plain", "circle"))
            dash = "solid"
            if split == "train":
                dash, symbol = "dot", f"{symbol}-open"
            drawn.append(Curve(f"{name}, {split}", part, colour, dash, symbol, design, metric))
        return self._panel(
            "quality", label, "networks and rankings",
            f"Mean over replications, dotted on training data; {_BAND}", "",
            curves=tuple(drawn), choices={"metric": metrics, "design": designs},
        )  # fmt: skip

    def curves(
        self, label: str, metric: str | None = None, design: str | None = None
    ) -> list[Panel]:
        """One metric of one design's networks; None: of the first design, the first two metrics."""
        panel = self.quality(label)
        if panel is None:
            return []
        known = panel.choices["metric"]
        wanted = [metric] if metric else [x for x in known[:2] if x in METRICS]
        of = design or panel.choices["design"][0]
        return [panel.chosen(x, of) for x in wanted if x in known]

    def weights(self) -> list[Panel]:
        """How good the weight models of designs are."""
        if self._metrics is None:
            return []
        own = self._metrics.filter(pl.col("split") == "weights")
        parts = bands(own, ["design", "metric"]).partition_by("design", "metric", as_dict=True)
        designs = dict.fromkeys(str(design) for design, _ in parts)
        found = []
        for i, (title, metrics, note) in enumerate(_OF_G):
            drawn = []
            for design in designs:
                for metric, dash, symbol in zip(metrics, DASHES, SYMBOLS, strict=False):
                    name = metric.replace("_", " ").replace("auc", "AUC")
                    name = f"{design}: {name}" if len(designs) > 1 else name
                    if (design, metric) in parts:
                        colour, part = look(design, self._order)[0], parts[(design, metric)]
                        drawn.append(Curve(name, part, colour, dash, symbol, design))
            if drawn:
                said = f"Mean over replications; {_BAND}; {note}"
                key, title = f"weights-{i}", f"weight model: {title}"
                found.append(Panel(key, title, said, note, curves=tuple(drawn)))
        return found

    def ledger(self) -> Panel | None:
        """Which share of what each arm's model learned came from the other arm's visits."""
        if self._metrics is None:
            return None
        own = self._metrics.filter(
            (pl.col("split") == "ledger") & pl.col("design").is_in(self._order)
        )
        parts = bands(own, ["design", "model"]).partition_by("design", "model", as_dict=True)
        drawn = []
        for design in self._order:
            for arm, dash in (("T", "solid"), ("C", "dash")):
                if (part := parts.get((design, arm))) is not None:
                    table = part.with_columns(100 * pl.col("mean"), low=None, high=None)
                    colour, _, symbol = look(design, self._order)
                    name = f"{design}, model of the {_WHO[arm][0]}"
                    drawn.append(Curve(name, table, colour, dash, symbol, design))
        said = "Share of the training weight since the validation before; mean over replications"
        return Panel(
            "ledger", "what models learned from the other arm", said, "% of training weight",
            curves=tuple(drawn), limits=(-2.0, 102.0),
        ) if drawn else None  # fmt: skip

    def data_left(self) -> Panel | None:
        """How the data run out, where they do: users and slates with too few candidates."""
        if self._metrics is None:
            return None
        table = bands(self._metrics.filter(pl.col("split") == "data"), ["metric"])
        if not table["mean"].sum() > 0:
            return None
        percent = table.with_columns(100 * pl.col("mean"), low=None, high=None)
        drawn = [
            Curve(name, percent.filter(pl.col("metric") == metric), colour, dash, "none")
            for metric, name, colour, dash in _OF_DATA
        ]
        return Panel(
            "data-left", "data left: too little for a full slate",
            "Share with fewer candidates left than a full slate has", "%",
            curves=tuple(drawn), limits=(0.0, 102.0),
        )  # fmt: skip


# --- tables of curves ------------------------------------------------------------------------


def _of(table: pl.DataFrame | None, label: str) -> pl.DataFrame:
    """The rows of a label, where there is a table."""
    return pl.DataFrame() if table is None else table.filter(pl.col("label") == label)


def bands(table: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """For each of ``keys`` and each step, the mean of ``value`` over worlds, and its band.

    Returns:
        The keys, step, mean, low and high, in the order of the steps; low and high are null where
        there are fewer than three worlds.
    """
    value = pl.col("value")
    is_known = value.count() >= _MIN_BAND
    return (
        table.filter(pl.col("step").is_in(thinned(table["step"])))
        .group_by([*keys, "step"], maintain_order=True)
        .agg(
            mean=value.mean(),
            low=pl.when(is_known).then(value.quantile(LOW, "linear")),
            high=pl.when(is_known).then(value.quantile(HIGH, "linear")),
        )
        .sort("step", maintain_order=True)
    )


def thinned(steps: pl.Series) -> list[int]:
    """At most 200 of the steps, evenly spread, the first and the last among them."""
    known = steps.unique().sort().to_list()
    if len(known) <= MAX_POINTS:
        return known
    at = np.linspace(0, len(known) - 1, MAX_POINTS).round().astype(int)
    return [known[i] for i in at]


def effects(outcomes: pl.DataFrame) -> pl.DataFrame:
    """What each design would report after each step: design, label, step, mean, low, high."""
    table = _so_far(outcomes).with_columns(value=pl.col("sum") / pl.col("n"))
    keys = ["design", "label", "world", "step"]
    arm = {x: table.filter(pl.col("arm") == x).select(*keys, value="value") for x in "TC"}
    both = arm["T"].join(arm["C"], on=keys, suffix="_C", maintain_order="left")
    both = both.with_columns(value=pl.col("value") - pl.col("value_C"))
    return bands(both.filter(pl.col("value").is_finite()), ["design", "label"])


def _so_far(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Visits and sum of each world, label and arm up to each step; step counts what is done."""
    own = ["design", "world", "label", "arm"]
    return outcomes.sort("step", maintain_order=True).with_columns(
        step=pl.col("step") + 1,
        n=pl.col("n").cast(pl.Int64).cum_sum().over(own),
        sum=pl.col("sum").cum_sum().over(own),
    )


def settled_range(table: pl.DataFrame) -> tuple[float, float] | None:
    """The ends of an axis for curves that start with much noise; None where all of them fits it.

    It holds every mean after the first fifth of the steps, the band of the truth there, and a
    margin.
    """

    def values(part: pl.DataFrame) -> pl.Series:
        of_truth = part.filter(pl.col("design") == TRUTH)
        columns = (part["mean"], of_truth["low"], of_truth["high"])
        return pl.concat([x.cast(pl.Float64).rename("") for x in columns]).drop_nulls()

    late = values(table.filter(pl.col("step") > EARLY * pl.col("step").max())).to_numpy()
    if not len(late):
        return None
    margin = 0.08 * float(late.max() - late.min())
    low, high = float(late.min()) - margin, float(late.max()) + margin
    is_beyond = not values(table).is_between(low, high).all()
    return (low, high) if is_beyond and high > low else None


def looks(metrics: pl.DataFrame) -> pl.DataFrame:
    """What was measured of the loop's networks and rankings.

    Returns:
        design, label, metric, split, who (T, C or shared), step, mean, low, high. The truth's two
        worlds stand under the design "global"; who is then the arm that everybody is in.
    """
    arm_of_truth = pl.col("design").str.extract(r"^global_([TC])$")
    table = metrics.filter(
        (pl.col("phase") == "loop")
        & pl.col("split").is_in(["train", "validation"])
        & (pl.col("metric") != "n_nonfinite")
    ).with_columns(
        who=pl.coalesce(arm_of_truth, "model"),
        design=pl.when(arm_of_truth.is_null()).then("design").otherwise(pl.lit(TRUTH)),
    )
    return bands(table, ["design", "label", "metric", "split", "who"])
