"""What each picture of a run shows, once for all that draw it.

A panel is made from the run's tables and says what to draw: boxes and points of designs from top to
bottom, or curves over steps, with the truth, words, limits and units. ``plots`` draws it with
matplotlib (plot.svg, figures from Python), ``page`` with Plotly (report.html).

A colour is a role: "truth", "treatment", "control", "plain", or one of six for designs, "d0" to
"d5". A curve is a mean over worlds with the range of most of them, in few points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from realdataexp.report.files import (
    TRUTH,
    Effect,
    IntervalQuality,
    RunResult,
    read_table,
    read_table_if_there,
)
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
EARLY = 0.2  # share of the steps, in which estimates still scatter widely
_MIN_BAND = 3  # worlds
_ARM_OF_TRUTH = pl.col("design").str.extract(r"^global_([TC])$")
_BAND = "band: the middle 80 % of the replications"

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle", "cross", "star")
MARKED = 30  # points of a curve that still have a marker each
_N_COLOURS = 6
_JUDGED: dict[Judgement, tuple[str, str]] = {
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


@dataclass(frozen=True)
class Look:
    """How designs are told apart: by colour, line and symbol, in the order of a result."""

    order: tuple[str, ...]

    def colour(self, design: str) -> str:
        """The colour's role."""
        return "truth" if design == TRUTH else f"d{self._at(design) % _N_COLOURS}"

    def dash(self, design: str) -> str:
        """A line style."""
        return "solid" if design == TRUTH else DASHES[self._at(design) % len(DASHES)]

    def symbol(self, design: str) -> str:
        """A marker."""
        return SYMBOLS[self._at(design) % len(SYMBOLS)]

    def _at(self, design: str) -> int:
        return self.order.index(design) if design in self.order else 0


@dataclass(frozen=True)
class Box:
    """A design's estimates: least, quartiles and largest, and the mean."""

    row: str
    colour: str
    cuts: tuple[float, ...]
    mean: float


@dataclass(frozen=True)
class Point:
    """A figure of a row, with its interval where it has one.

    Attributes:
        name: what the legend calls it and all that are like it; "" for nothing.
        above: how far it stands from the middle of its row, in rows.
        is_extra: whether it is hidden until the reader asks for it.
    """

    row: str
    value: float
    interval: tuple[float, float] | None
    colour: str
    symbol: str
    name: str = ""
    above: float = 0.0
    is_extra: bool = False


@dataclass(frozen=True)
class Curve:
    """A curve over steps.

    Attributes:
        table: step, mean, and low and high of the band (null where there is none).
        design, metric: what it is of, where the reader can choose.
    """

    name: str
    table: pl.DataFrame
    colour: str
    dash: str = "solid"
    symbol: str = "circle"
    design: str = ""
    metric: str = ""

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
class Panel:
    """A picture.

    Attributes:
        key: of its element on the page. title: what it is. summary: what it shows, in words.
        axis: title of the axis of values: across for designs, upright for curves.
        rows: designs from top to bottom; none for curves.
        line: the truth, or what is claimed. line_name: what the legend calls it.
        band: the truth's interval. limits: ends of the axis of values.
        from_zero: whether the axis of values begins at 0. label: the outcome it is about, or "".
        choices: by "metric" and "design" what the reader chooses one of.
    """

    key: str
    title: str
    summary: str
    axis: str
    rows: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    points: tuple[Point, ...] = ()
    curves: tuple[Curve, ...] = ()
    line: float | None = None
    line_name: str = ""
    band: tuple[float, float] | None = None
    limits: tuple[float, float] | None = None
    from_zero: bool = False
    label: str = ""
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def main(self, design: str | None = None) -> list[Panel]:
        """The metric that says best how good predictions are, and the loss, of a design."""
        of = design or self.choices["design"][0]
        return [self.chosen(x, of) for x in self.choices["metric"][:2] if x in METRICS]

    def chosen(self, metric: str, design: str) -> Panel:
        """The curves of one metric and one design, named by the metric."""
        own = tuple(c for c in self.curves if (c.metric, c.design) == (metric, design))
        named = METRICS.get(metric, metric)
        what = self.title.rpartition(": ")[0]
        whose = "" if design == TRUTH or len(self.choices["design"]) == 1 else f", {design}"
        title = f"{what}: {named.partition(' (')[0]}{whose}"
        return replace(self, title=title, axis=named, curves=own, choices={})


def shown(design: str) -> str:
    """What a picture calls a design."""
    return "truth (GTE)" if design == TRUTH else design


def points(
    rows: Sequence[tuple[str, float, tuple[float, float] | None]],
    key: str,
    title: str,
    summary: str,
) -> Panel:
    """A value with an interval for each name, and a line at 0."""
    look = Look(tuple(name for name, _, _ in rows))
    drawn = [Point(name, x, ends, look.colour(name), look.symbol(name)) for name, x, ends in rows]
    return Panel(key, title, summary, "effect per visit", look.order, points=tuple(drawn), line=0.0)


def bias(found: Sequence[Bias], key: str, title: str) -> Panel:
    """Biases of a run, each with the interval that decides whether it is one."""
    known = [x for x in found if x.entry.bias is not None]
    said = f"Intervals take {MIN_REPLICATIONS} replications"
    if any(x.interval for x in known):
        said = INTERVAL_OF_BIAS.format(n=known[0].n_biases)
    drawn = [
        Point(x.entry.design, x.entry.bias or 0.0, x.interval, *_JUDGED[x.judgement], name)
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

    What a run has nothing to show for is None, or no panel.

    Args:
        result: of the run.
        outcomes, estimates, metrics: its tables, where there are some.
    """

    def __init__(
        self,
        result: RunResult,
        outcomes: pl.DataFrame | None = None,
        estimates: pl.DataFrame | None = None,
        metrics: pl.DataFrame | None = None,
    ) -> None:
        self.result = result
        self._look = Look(tuple(result.designs))
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

    def shared(self) -> list[Panel]:
        """The panels of no label."""
        left = self.data_left()
        return [*self.weights(), *([left] if left else [])]

    def _names(self, label: str) -> tuple[str, str]:
        """The number of a label, for keys, and its title."""
        return str(list(self.result.titles).index(label)), self.result.titles[label]

    # --- what designs answer -----------------------------------------------------------------

    def answers(self, label: str) -> Panel | None:
        """Each design's estimates of single tests as a box, and the truth."""
        if self._estimates is None or not self._compared(label):
            return None
        is_own = (pl.col("label") == label) & (pl.col("se_method") == "welch")
        known = self._estimates.filter(is_own & pl.col("value").is_not_null())
        boxes = []
        for design in self._compared(label):
            values = known.filter(pl.col("design") == design)["value"].to_numpy()
            if len(values):
                cuts = np.quantile(values, (0.0, 0.25, 0.5, 0.75, 1.0)).tolist()
                colour, mean = self._look.colour(design), float(values.mean())
                boxes.append(Box(design, colour, tuple(cuts), mean))
        if not boxes:
            return None
        key, title = self._names(label)
        truth = next(
            (e for e in self.result.truths if e.label == label), Effect(design="", label="")
        )
        said = (
            "Estimates of single tests. Box: the middle half, whiskers: least and largest. Green: "
            "the true effect"
        )
        return Panel(
            f"estimates-{key}", f"{title}: estimates", said, "effect per visit",
            tuple(box.row for box in boxes), tuple(boxes), line=truth.value,
            line_name="true effect (GTE)", band=truth.interval, label=label,
        )  # fmt: skip

    def _compared(self, label: str) -> list[str]:
        """Designs with a bias."""
        return [e.design for e in self.result.comparison if e.label == label and e.bias is not None]

    def bias(self, label: str) -> Panel | None:
        """Each design's bias."""
        if not self._compared(label):
            return None
        return replace(bias(biases(self.result, label), *self._names(label)), label=label)

    def coverage(self, label: str, methods: Sequence[str] | None = None) -> Panel | None:
        """How often intervals hold the truth, or, in an A/A test, err; of all methods if None."""
        share = "reject" if self.result.is_aa else "coverage"
        known = [
            (e, ends)
            for e in self.result.inference
            if e.label == label and (ends := _share(e, share)) is not None
            if methods is None or e.se_method in methods
        ]
        if not known or not self._compared(label):
            return None
        run = list(dict.fromkeys(e.se_method for e, _ in known))
        designs = [d for d in self._look.order if d in {e.design for e, _ in known}]
        drawn = []
        for m, method in enumerate(run):
            above = 0.7 * ((m + 0.5) / len(run) - 0.5)
            for e, (x, low, high) in (item for item in known if item[0].se_method == method):
                is_off = e.trustworthy is False
                colour, name = f"d{m % _N_COLOURS}", method
                if len(run) == 1:
                    colour = "treatment" if is_off else "control"
                    name = "refuted" if is_off else "not refuted"
                symbol = "square" if is_off else "circle"
                drawn.append(
                    Point(e.design, x, (low, high), colour, symbol, name, above, m >= 2)
                )  # fmt: skip
        key, title = self._names(label)
        what = "type-I error" if self.result.is_aa else "coverage"
        of_what = "tests whose interval excludes 0" if self.result.is_aa else (
            "95 % intervals that hold the truth")  # fmt: skip
        said = (
            f"Each interval method's {what}, with its exact binomial interval; squares: refuted. "
            "Green: what is claimed"
        )
        return Panel(
            f"coverage-{key}", f"{title}: {what}", said, f"% of {of_what}", tuple(designs),
            points=tuple(drawn), line=5.0 if self.result.is_aa else 95.0, line_name="claimed",
            limits=(-2.0, 102.0), label=label,
        )  # fmt: skip

    # --- what happened over the steps --------------------------------------------------------

    @cached_property
    def _totals(self) -> pl.DataFrame:
        return pl.DataFrame() if self._outcomes is None else totals(self._outcomes)

    @cached_property
    def _effects(self) -> pl.DataFrame:
        return pl.DataFrame() if self._outcomes is None else effects(self._outcomes)

    @cached_property
    def _looks(self) -> pl.DataFrame:
        return pl.DataFrame() if self._metrics is None else looks(self._metrics)

    def effects(self, label: str) -> Panel | None:
        """What each design would report after each step, on average."""
        order = [TRUTH, *self._look.order]
        table = _of(self._effects, label, design=order)
        if table.is_empty():
            return None
        key, title = self._names(label)
        drawn = []
        for design in order:
            part = table.filter(pl.col("design") == design)
            if part.height:
                if design != TRUTH:  # many bands hide each other
                    part = part.with_columns(low=None, high=None)
                look = self._look
                drawn.append(
                    Curve(shown(design), part, look.colour(design), look.dash(design),
                          look.symbol(design), design)
                )  # fmt: skip
        said = f"Mean estimate so far, by design; {_BAND} of the truth"
        limits = settled_range(table)
        if limits is not None:
            said += f". The axis fits the steps after the first {100 * EARLY:.0f} %"
            if any(curve.beyond(limits) for curve in drawn):
                said += "; triangles at its ends: means beyond it"
        return Panel(
            f"effect-{key}", f"{title}: the answer while the test runs", said,
            "effect per visit so far", curves=tuple(drawn), limits=limits, label=label,
        )  # fmt: skip

    def totals(self, label: str) -> Panel | None:
        """Cumulative outcome of each arm; of the truth's worlds where there are some."""
        table = _of(self._totals, label)
        if table.is_empty():
            return None
        key, title = self._names(label)
        design = table["design"][0]
        drawn = []
        for arm, dash in (("T", "solid"), ("C", "dash")):
            name, colour, _ = _WHO[arm]
            name = f"everybody in {name}" if design == TRUTH else f"{name} arm"
            part = table.filter(pl.col("arm") == arm)
            if part.height:
                drawn.append(Curve(name, part, colour, dash, "none"))
        whose = "" if design == TRUTH else f", {design}"
        return Panel(
            f"total-{key}", f"{title}: total so far{whose}",
            f"Mean over replications; {_BAND}", "per replication", curves=tuple(drawn),
            from_zero=True, label=label,
        )  # fmt: skip

    def quality(self, label: str) -> Panel | None:
        """Every metric of every design; the first of each choice is what matters most."""
        table = _of(self._looks, label)
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
            name = f"{name}, {split}"
            drawn.append(Curve(name, part, colour, dash, symbol, design, metric))
        key, title = self._names(label)
        choices = {"metric": metrics, "design": designs}
        return Panel(
            f"quality-{key}", f"{title}: networks and rankings",
            f"Mean over replications, dotted on training data; {_BAND}", "",
            curves=tuple(drawn), label=label, choices=choices,
        )  # fmt: skip

    def weights(self) -> list[Panel]:
        """How good the weight models of designs are."""
        if self._metrics is None:
            return []
        table = weight_figures(self._metrics)
        designs = table["design"].unique(maintain_order=True).to_list()
        found = []
        for i, (title, metrics, note) in enumerate(_OF_G):
            drawn = []
            for design in designs:
                for metric, dash, symbol in zip(metrics, DASHES, SYMBOLS, strict=False):
                    part = table.filter((pl.col("design") == design) & (pl.col("metric") == metric))
                    name = metric.replace("_", " ").replace("auc", "AUC")
                    if len(designs) > 1:
                        name = f"{design}: {name}"
                    if part.height:
                        colour = self._look.colour(design)
                        drawn.append(Curve(name, part, colour, dash, symbol, design))
            if drawn:
                said = f"Mean over replications; {_BAND}; {note}"
                key, title = f"weights-{i}", f"weight model: {title}"
                found.append(Panel(key, title, said, note, curves=tuple(drawn)))
        return found

    def data_left(self) -> Panel | None:
        """How the data run out, where they do."""
        table = None if self._metrics is None else data_left(self._metrics)
        if table is None or not table["mean"].sum() > 0:
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


def _share(e: IntervalQuality, kind: str) -> tuple[float, float, float] | None:
    """A share of intervals in percent, and its interval."""
    if kind == "reject":
        known = e.reject_share, e.reject_low, e.reject_high
    else:
        known = e.coverage, e.coverage_low, e.coverage_high
    value, low, high = known
    if value is None or low is None or high is None:
        return None
    return 100 * value, 100 * low, 100 * high


def _of(table: pl.DataFrame, label: str, design: Sequence[str] | None = None) -> pl.DataFrame:
    """The rows of a label, and of designs."""
    if table.is_empty():
        return table
    own = table.filter(pl.col("label") == label)
    return own if design is None else own.filter(pl.col("design").is_in(design))


# --- tables of curves ------------------------------------------------------------------------


def bands(table: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """For each of ``keys`` and each step, the mean of ``value`` over worlds, and its band.

    Returns:
        The keys, step, mean, low and high, in the order of the steps; low and high are null where
        there are fewer than three worlds.
    """
    value, by_step = pl.col("value"), [*keys, "step"]
    table = table.filter(pl.col("step").is_in(thinned(table["step"])))
    is_known = value.count() >= _MIN_BAND
    return (
        table.group_by(by_step, maintain_order=True)
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


def totals(outcomes: pl.DataFrame) -> pl.DataFrame:
    """The sum of outcomes so far: design, label, arm, step, mean, low, high.

    Of the truth where there is one, else of the first design.
    """
    designs = outcomes["design"].unique(maintain_order=True).to_list()
    shown = "global" if "global" in designs else (designs or [""])[0]
    table = _so_far(outcomes.filter(pl.col("design") == shown))
    return bands(table.with_columns(value=pl.col("sum")), ["design", "label", "arm"])


def effects(outcomes: pl.DataFrame) -> pl.DataFrame:
    """The effect per visit that each design would report after each step.

    Returns:
        design, label, step, mean, low, high.
    """
    table = _so_far(outcomes).with_columns(value=pl.col("sum") / pl.col("n"))
    keys = ["design", "label", "world", "step"]
    arm = {x: table.filter(pl.col("arm") == x).select(*keys, value="value") for x in "TC"}
    both = arm["T"].join(arm["C"], on=keys, suffix="_C", maintain_order="left")
    both = both.with_columns(value=pl.col("value") - pl.col("value_C"))
    return bands(both.filter(pl.col("value").is_finite()), ["design", "label"])


def settled_range(table: pl.DataFrame) -> tuple[float, float] | None:
    """The ends of an axis for curves that start with much noise; None where all of them fits it.

    It holds every mean after the first fifth of the steps, the band of the truth there, and a
    margin.

    Args:
        table: design, step, mean, low, high.
    """
    late = _shown(table.filter(pl.col("step") > EARLY * pl.col("step").max()))
    if late.is_empty():
        return None
    margin = 0.08 * float(late.max() - late.min())  # type: ignore[operator, arg-type]
    low, high = float(late.min()) - margin, float(late.max()) + margin  # type: ignore[arg-type]
    is_beyond = not _shown(table).is_between(low, high).all()
    return (low, high) if is_beyond and high > low else None


def _shown(table: pl.DataFrame) -> pl.Series:
    """Every mean, and the ends of the truth's band."""
    of_truth = table.filter(pl.col("design") == "global")
    parts = [table["mean"], of_truth["low"], of_truth["high"]]
    return pl.concat([x.cast(pl.Float64).rename("") for x in parts]).drop_nulls()


def _so_far(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Visits and sum of each world, label and arm up to each step; step counts what is done."""
    own = ["design", "world", "label", "arm"]
    return outcomes.sort("step", maintain_order=True).with_columns(
        step=pl.col("step") + 1,
        n=pl.col("n").cast(pl.Int64).cum_sum().over(own),
        sum=pl.col("sum").cum_sum().over(own),
    )


def looks(metrics: pl.DataFrame) -> pl.DataFrame:
    """What was measured of the loop's networks and rankings.

    Returns:
        design, label, metric, split, who (T, C or shared), step, mean, low, high. The truth's two
        worlds stand under the design "global"; who is then the arm that everybody is in.
    """
    table = metrics.filter(
        (pl.col("phase") == "loop")
        & pl.col("split").is_in(["train", "validation"])
        & (pl.col("metric") != "n_nonfinite")
    )
    table = table.with_columns(who=pl.coalesce(_ARM_OF_TRUTH, "model"))
    in_truth = _ARM_OF_TRUTH.is_not_null()
    table = table.with_columns(
        design=pl.when(in_truth).then(pl.lit("global")).otherwise(pl.col("design"))
    )
    return bands(table, ["design", "label", "metric", "split", "who"])


def weight_figures(metrics: pl.DataFrame) -> pl.DataFrame:
    """How good the weight models are: design, metric, step, mean, low, high."""
    return bands(metrics.filter(pl.col("split") == "weights"), ["design", "metric"])


def data_left(metrics: pl.DataFrame) -> pl.DataFrame:
    """Shares of users and slates with fewer candidates than a full slate: metric, step, mean."""
    return bands(metrics.filter(pl.col("split") == "data"), ["metric"])
