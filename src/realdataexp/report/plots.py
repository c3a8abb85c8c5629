"""Figures by matplotlib: plot.svg, and what `Result.plot` returns."""

from __future__ import annotations

import os
import sys
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

# figures here are files or returned, so MPLBACKEND may name what it will
_backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)

import matplotlib  # noqa: E402 (which does not load where MPLBACKEND names no backend)
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure as _Figure  # noqa: E402
from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: E402

if _backend is not None:  # others in this process, and its children, get what they asked for
    os.environ["MPLBACKEND"] = _backend
    with suppress(ValueError):
        matplotlib.rcParams["backend"] = _backend

from realdataexp.errors import InputError  # noqa: E402
from realdataexp.files import write_atomically  # noqa: E402
from realdataexp.report.files import REMEDY, RunResult, read_run  # noqa: E402
from realdataexp.report.numbers import number  # noqa: E402
from realdataexp.report.panels import MARKED, Curve, Panel, Panels, shown  # noqa: E402
from realdataexp.report.verdicts import INTERVAL_OF_BIAS  # noqa: E402

_COLUMNS, _WIDTH, _ROW_INCHES = 3, 11.5, 2.75
_NOTE = "Lines: means over replications. Bands: the middle 80 % of the replications."
# Okabe and Ito's, told apart by colour-blind readers; grey for the orange that is hard to see
COLOURS = {
    "truth": "#009E73", "treatment": "#D55E00", "control": "#0072B2", "plain": "#595959",
    "d0": "#0072B2", "d1": "#D55E00", "d2": "#A84F86", "d3": "#B58900", "d4": "#595959",
    "d5": "#56B4E9",
}  # fmt: skip
_LINES: dict[str, Any] = {
    "solid": "-", "dash": "--", "dot": ":", "dashdot": "-.", "longdash": (0, (8, 3)),
    "longdashdot": (0, (8, 3, 1, 3)),
}  # fmt: skip
_MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle": "^",
    "cross": "x", "star": "*", "none": "",
}  # fmt: skip
_NEEDS = {  # what a kind of figure takes
    "answers": "mode compare",
    "bias": "mode compare",
    "coverage": "mode compare, and these methods",
    "effects": "a step",
    "totals": "a step",
    "curves": "a validation of its networks",
    "weights": "a design with a weight model",
    "data_left": "data that run out",
    "ledger": "a network of a design that learned",
}


class Figure(_Figure):
    """A figure that a notebook shows by itself, without pyplot."""

    def _repr_png_(self) -> bytes:
        from io import BytesIO

        file = BytesIO()
        self.savefig(file, format="png", dpi=110)
        return file.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """The look of all figures, for as long as they are made and drawn."""
    with (
        matplotlib.rc_context(fname=Path(__file__).with_name("style.mplstyle")),
        warnings.catch_warnings(),
    ):
        # an SVG's texts are drawn by its viewer, who may have the signs that no font here has
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield


def write_plot(run_dir: Path, *, png: bool = False) -> Path:
    """Draw plot.svg of a run folder from its tables, and plot.png where asked; returns the SVG.

    Raises:
        InputError: the folder's files are missing or damaged.
    """
    result = read_run(run_dir)
    with style():
        figure = _whole(run_dir, result)
        metadata = {"Date": None, "Title": f"realdataexp: {_title(result)}"}
        svg = partial(figure.savefig, format="svg", metadata=metadata)
        path = write_atomically(run_dir / "plot.svg", svg, REMEDY)
        if png:
            write_atomically(run_dir / "plot.png", partial(figure.savefig, format="png"), REMEDY)
    return path


def write_panel(path: Path, panel: Panel, title: str) -> Path:
    """Draw one panel as an SVG."""
    with style():
        metadata = {"Date": None, "Title": f"realdataexp: {title}"}
        svg = partial(grid([[panel]]).savefig, format="svg", metadata=metadata)
        return write_atomically(path, svg, REMEDY)


def _whole(run_dir: Path, result: RunResult) -> Figure:
    """The figure of plot.svg."""
    if result.trained:
        return _draw_training(run_dir, result)
    return draw(Panels.read(run_dir, result))


def draw(panels: Panels) -> Figure:
    """The whole figure: for each label a row of answers and a row of curves, and what all share."""
    answers, curves = [], []
    for label in panels.result.titles:
        if estimates := panels.answers(label):
            row = [estimates, panels.bias(label), panels.coverage(label, ["welch"])]
            answers.append([panel for panel in row if panel])
        curves.append([x for x in (panels.totals(label), *panels.curves(label)) if x])
    rows = [*answers, *_filled([*(row for row in curves if row), panels.shared()])]
    figure = grid(rows)
    if not rows:
        figure.text(0.5, 0.4, "The run ended before its first step.", ha="center")
    figure.suptitle(_title(panels.result), x=0.01, ha="left")
    n_biases = len(panels.result.comparison)
    note = f"{_NOTE} {INTERVAL_OF_BIAS.format(n=n_biases)}." if n_biases else _NOTE
    figure.supxlabel(note, x=0.01, ha="left", fontsize=8)
    return figure


def _draw_training(run_dir: Path, result: RunResult) -> Figure:
    """The panels of a training, two in a row."""
    from realdataexp.report import trained

    panels = [trained.first_choice(x) for x in trained.panels(run_dir, result)]
    figure = grid([panels[i : i + 2] for i in range(0, len(panels), 2)])
    if not panels:
        figure.text(0.5, 0.4, "No epoch ended, and nothing was compared.", ha="center")
    figure.suptitle(_title(result), x=0.01, ha="left")
    return figure


def _title(result: RunResult) -> str:
    if result.trained:
        note = "" if result.is_complete else f"; partial: {result.n_steps_done:,} updates"
        return f"mode train, {result.trained}: seed {result.seed}{note}"
    note = "" if result.is_complete else f"; partial: {result.n_steps_done} steps"
    kind = "A/A test, " if result.is_aa else ""
    worlds = result.config.replications()
    return f"{kind}mode {result.mode}: seed {result.seed}, {worlds}{note}"


def _filled(rows: list[list[Panel]]) -> list[list[Panel]]:
    """Full rows as they are; the panels of the others together, shared out evenly."""
    loose = [panel for row in rows if len(row) != _COLUMNS for panel in row]
    n_rows = -(-len(loose) // _COLUMNS)
    cuts = [round(i * len(loose) / max(1, n_rows)) for i in range(n_rows + 1)]
    full = [row for row in rows if len(row) == _COLUMNS]
    return full + [loose[a:b] for a, b in pairwise(cuts)]


def grid(rows: Sequence[Sequence[Panel]]) -> Figure:
    """Panels row by row; of those in a row that show the same designs only the first names them."""
    heights = [max(2.4, 1.2 + 0.28 * len(row[0].rows)) if row[0].rows else _ROW_INCHES
               for row in rows]  # fmt: skip
    width = _WIDTH if max(map(len, rows), default=_COLUMNS) > 1 else 0.6 * _WIDTH
    figure = Figure(figsize=(width, 0.5 + (sum(heights) or 1)), layout="constrained")
    cells = figure.add_gridspec(max(1, len(rows)), 1, height_ratios=heights or [1])
    for i, row in enumerate(rows):
        columns = cells[i].subgridspec(1, len(row))
        for j, panel in enumerate(row):
            has_names = j == 0 or len(rows) == 1 or panel.rows != row[0].rows
            room = 18 if len(row) > 1 else 45
            _draw(figure.add_subplot(columns[j]), panel, room if has_names else 0)
    return figure


class Plots:
    """Figures of a run, a method for each kind.

    A method draws and returns a matplotlib ``Figure``, which a notebook shows and ``savefig``
    writes; nothing is written to the run folder. Without ``label`` there is a panel for each
    label. Called itself, it draws plot.svg of the run folder again and returns the file.

    Args:
        folder: the run folder.

    Raises:
        InputError: by each method, where a file of the folder is missing or damaged, something
            passed is unknown, or the run has nothing of the kind to show.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, *, png: bool = False) -> Path:
        """Draw plot.svg again, and plot.png where asked; returns the SVG."""
        return write_plot(self._folder, png=png)

    def all(self) -> Figure:
        """Everything that plot.svg shows."""
        with style():
            return _whole(self._folder, read_run(self._folder))

    def answers(self, label: str | None = None) -> Figure:
        """Each design's estimates of single tests, with the truth."""
        return self._each("answers", label)

    def bias(self, label: str | None = None) -> Figure:
        """Each design's bias, with the interval that decides whether it is one."""
        return self._each("bias", label)

    def coverage(
        self, label: str | None = None, methods: Sequence[str] | None = ("welch",)
    ) -> Figure:
        """How often intervals hold the truth (in an A/A test: exclude 0); None: all methods."""
        return self._each("coverage", label, methods)

    def effects(self, label: str | None = None) -> Figure:
        """What each design would report after each step, on average."""
        return self._each("effects", label)

    def totals(self, label: str | None = None) -> Figure:
        """Each arm's outcome so far."""
        return self._each("totals", label)

    def curves(
        self, metric: str | None = None, label: str | None = None, design: str | None = None
    ) -> Figure:
        """Metrics of networks and rankings over steps.

        Args:
            metric: such as "auc"; None: the one that says best how good predictions are, and the
                loss.
            label: one label; None: all.
            design: whose networks; None: the truth's, or those of the run's one design.
        """
        panels = self._panels()
        found = [p.choices for x in panels.result.titles if (p := panels.quality(x))]
        for what, value in (("metric", metric), ("design", design)):
            if found:
                _check(what, value, list(dict.fromkeys(x for own in found for x in own[what])))
        return self._each("curves", label, metric, design)

    def weights(self) -> Figure:
        """How good the weight models of designs are."""
        return self._figure("weights", [self._panels().weights()])

    def ledger(self) -> Figure:
        """Which share of what each arm's model learned came from the other arm's visits."""
        found = self._panels().ledger()
        return self._figure("ledger", [[found] if found else []])

    def data_left(self) -> Figure:
        """How the data run out."""
        found = self._panels().data_left()
        return self._figure("data_left", [[found] if found else []])

    def _panels(self) -> Panels:
        result = read_run(self._folder)
        if result.trained:
            raise InputError(f"{self._folder}: is a training, which has plot.all() only")
        return Panels.read(self._folder, result)

    def _each(self, kind: str, label: str | None, *args: Any) -> Figure:
        """The panels of a kind, of one label or of each."""
        panels = self._panels()
        labels = list(panels.result.titles)
        _check("label", label, labels)
        found = [getattr(panels, kind)(x, *args) for x in labels if label in (None, x)]
        return self._figure(kind, [x if isinstance(x, list) else [x] for x in found if x])

    def _figure(self, kind: str, rows: Sequence[Sequence[Panel]]) -> Figure:
        """A row for each label; those with one panel side by side."""
        rows = [row for row in rows if row]
        if not rows:
            needs = _NEEDS[kind]
            raise InputError(f"{self._folder}: has nothing for plot.{kind}(): it takes {needs}")
        if max(map(len, rows)) == 1:
            flat = [row[0] for row in rows]
            rows = [flat[i : i + 2] for i in range(0, len(flat), 2)]
        with style():
            return grid(rows)


def _check(what: str, value: str | None, known: Sequence[str]) -> None:
    if value not in (None, *known):
        raise InputError(f"{what} = {value!r}: unknown; use one of {', '.join(known)}")


# --- a panel -----------------------------------------------------------------------------------


def _draw(ax: Axes, panel: Panel, room: int) -> None:
    """Draw a panel, its names ``room`` letters wide; the legend is below, and hides nothing."""
    legend: dict[str, Any] = {}
    if panel.line is not None:
        line = ax.axvline(
            panel.line, color=COLOURS["truth"], linewidth=2, label=panel.line_name or "_"
        )
        legend |= {panel.line_name: line} if panel.line_name else {}
    if panel.band is not None:
        ax.axvspan(*panel.band, color=COLOURS["truth"], alpha=0.2, linewidth=0)
    if panel.rows:
        legend |= _boxes(ax, panel) | _points(ax, panel)
        _rows(ax, panel, room)
    else:
        legend |= {curve.name: _curve(ax, curve, panel) for curve in panel.curves}
        ax.set(xlabel=panel.over, ylabel=panel.axis, ylim=panel.limits)
        if panel.from_zero:
            ax.set_ylim(bottom=min(0.0, ax.get_ylim()[0]))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _short_ticks(ax.yaxis)
    ax.set_title(panel.title)
    if legend:
        columns = 3 if panel.points else 2
        ax.legend(
            list(legend.values()), list(legend), loc="upper center", bbox_to_anchor=(0.5, -0.22),
            ncols=columns,
        )  # fmt: skip


def _rows(ax: Axes, panel: Panel, room: int) -> None:
    """Designs from top to bottom, each in one place."""
    names = ["\n".join(textwrap.wrap(shown(x), room)) if room else "" for x in panel.rows]
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.grid(visible=False, axis="y")
    ax.set(xlabel=panel.axis, xlim=panel.limits)
    _short_ticks(ax.xaxis)


def _boxes(ax: Axes, panel: Panel) -> dict[str, Any]:
    for box in panel.boxes:
        cuts = dict(zip(("whislo", "q1", "med", "q3", "whishi"), box.cuts, strict=True))
        colour = COLOURS[box.colour]
        ax.bxp(
            [{**cuts, "fliers": []}], positions=[panel.rows.index(box.row)], widths=0.55,
            orientation="horizontal",
            patch_artist=True, boxprops={"facecolor": colour + "40", "edgecolor": colour},
            medianprops={"color": colour, "linewidth": 1.5}, whiskerprops={"color": colour},
            capprops={"color": colour}, manage_ticks=False,
        )  # fmt: skip
    if not panel.boxes:
        return {}
    places = [panel.rows.index(box.row) for box in panel.boxes]
    means = [box.mean for box in panel.boxes]
    (line,) = ax.plot(means, places, "D", color="black", markersize=4)
    return {"mean of estimates": line}


def _points(ax: Axes, panel: Panel) -> dict[str, Any]:
    handles = {}
    for point in panel.points:
        x, y = point.value, panel.rows.index(point.row) + point.above
        low, high = point.interval or (x, x)
        handles[point.name] = ax.errorbar(
            x, y, xerr=[[x - low], [high - x]], color=COLOURS[point.colour],
            marker=_MARKERS[point.symbol], markersize=5, capsize=3, linestyle="",
        )[0]  # fmt: skip
    handles.pop("", None)
    return handles


def _curve(ax: Axes, curve: Curve, panel: Panel) -> Any:
    colour, band = COLOURS[curve.colour], curve.band
    symbol, _, is_open = curve.symbol.partition("-")
    steps, means = curve.table["step"].to_numpy(), curve.table["mean"].to_numpy()
    (line,) = ax.plot(
        steps, means, label=curve.name, linestyle=_LINES[curve.dash], color=colour,
        marker=_MARKERS[symbol] if len(steps) <= MARKED else "",
        markerfacecolor="white" if is_open else colour,
    )  # fmt: skip
    if band.height:
        ax.fill_between(band["step"], band["low"], band["high"], color=colour, alpha=0.16,
                        linewidth=0)  # fmt: skip
    for step, is_above in curve.beyond(panel.limits):
        end = panel.limits[is_above]  # type: ignore[index]
        ax.plot(step, end, "^" if is_above else "v", color=colour, clip_on=False)
    return line


def _short_ticks(axis: Any) -> None:
    """A few ticks, written as in the result table: 30 M instead of 3.0 and 1e7 elsewhere."""
    axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(round(value, 12))))
