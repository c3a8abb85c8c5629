"""Makes the pictures of the README and the docs from runs: `python tools/pictures.py`.

Every picture of docs/pictures/ is a function here. ``made.json`` says of each by what command it
was made, and has the digest of what it shows: the function, and the files of the package that
decide what is on it. A picture whose digest still fits is left as it is (``--all`` makes all
again). A test compares digests, never pixels, which differ between machines. Pictures of pages
take Chromium.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import io
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "pictures"
MADE = FOLDER / "made.json"
PACKAGE = ROOT / "src" / "realdataexp"
MOST_BYTES = 200_000

DESIGNS = {  # of the first picture, from what most do to what only a simulator can do
    "pooling": "one model learns from both arms: what most do",
    "sharing": "two models, each learns half as much from the other arm",
    "snapshot": "models are frozen for the test",
    "switchback": "everybody changes arm by blocks of time",
    "codiverted": "users and items are both split",
    "weighting": "two models, weights from a learned classifier",
    "data_diverted": "a model for each arm, on its own arm's data",
    "splitting": "the same, weighted by 1 / P(arm)",
    "shadow": "two models, exact weights: both arms score each visit",
    "oracle": "two models, weights that only a simulator knows",
}
RUNS = {
    "platform": [
        "run", "si2023", "--set", "simulation.n_steps=400", "--set", "switchback.block_steps=20",
        "--set", "experiment.intervals=[welch]",
        "--set", f"experiment.designs=[{', '.join(DESIGNS)}]",
    ],
    "demo": ["run", "demo"],
    "sweep": [
        "sweep", "si2023", "--grid", "experiment.p_treatment=0.1,0.3,0.5",
        "--grid", "labels.finish.alpha_T=2,5,10", "--set", "simulation.n_steps=200",
        "--set", "experiment.replications=16",
        "--set", "experiment.designs=[pooling, weighting, shadow]",
    ],
}  # fmt: skip
PAGE = ("report/page.css", "report/page.html")
DEMO = (*PAGE, "configs/demo.yaml", "report/parts.html:answer,effects,glance")
SWEEP = (*PAGE, "configs/si2023.yaml", "report/parts.html:charts,filter")


@dataclass(frozen=True)
class Picture:
    """A file of docs/pictures/: what draws it, from which run, and what decides how it looks."""

    name: str
    draw: Callable[..., bytes]
    run: str = ""  # one of RUNS
    files: tuple[str, ...] = ()  # of the package; of a template those macros that are named
    options: tuple[str, ...] = ()  # what ``draw`` takes after the run's folder

    @property
    def command(self) -> str:
        """What makes the run that it shows."""
        words = (f"'{x}'" if " " in x or "[" in x else x for x in RUNS.get(self.run, ()))
        return " ".join(["realdataexp", *words]) if self.run else "python tools/pictures.py"

    def digest(self) -> str:
        """Of all that it shows: the command, the function that draws it, and the files."""
        texts = [self.command, *self.options, inspect.getsource(self.draw)]
        if self.draw in (clouds, architecture, loop):
            texts += [STYLE, repr(DESIGNS), *map(inspect.getsource, (text, svg, lanes, box, way))]
        if self.draw in (architecture, loop):
            texts.append(HEAD)
        texts += [x for name in self.files for x in content(*name.split(":"))]
        return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def content(name: str, macros: str = "") -> list[str]:
    """A file's text, or that of some of its macros."""
    whole = (PACKAGE / name).read_text(encoding="utf-8")
    found = {x[2]: x[1] for x in re.finditer(r"({% macro (\w+)\(.*?{% endmacro %})", whole, re.S)}
    return [found[macro] for macro in macros.split(",")] if macros else [whole]


# --- drawing -------------------------------------------------------------------------------------

STYLE = """
text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
text { fill: #1b1f24 }
.paper { fill: #ffffff; stroke: #d4d8de }
.line { stroke: #d4d8de; fill: none }
.soft { fill: #525a65; font-size: 12px }
.title { font-size: 19px; font-weight: 700 }
.name { font-weight: 600 }
.end { text-anchor: end }
.mid { text-anchor: middle }
.truth { fill: #00855f }
.truth-line { stroke: #00855f; stroke-width: 2.5 }
.biased, .T { fill: #c24f00 }
.unbiased, .C { fill: #0072b2 }
.unsure { fill: #6f6f6f }
.box { fill: #f5f6f8; stroke: #8a929d }
.ours { fill: #e2f3ec; stroke: #00855f; stroke-width: 2 }
.way { stroke: #525a65; fill: none; stroke-width: 1.6 }
.head { fill: #525a65 }
.code { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: 13px }
@media (prefers-color-scheme: dark) {
  text { fill: #e8eaed }
  .paper { fill: #14171c; stroke: #3a414c }
  .line { stroke: #3a414c }
  .soft { fill: #a9b1bc }
  .truth { fill: #2fc596 }
  .truth-line { stroke: #2fc596 }
  .biased, .T { fill: #ff8a3d }
  .unbiased, .C { fill: #56b4e9 }
  .unsure { fill: #a8a8a8 }
  .box { fill: #1d2128; stroke: #6b7480 }
  .ours { fill: #12352b; stroke: #2fc596 }
  .way { stroke: #a9b1bc }
  .head { fill: #a9b1bc }
}
"""


def text(x: float, y: float, said: str, kind: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(said)}</text>'


def svg(width: int, height: int, about: str, body: Iterable[str], style: str = "") -> bytes:
    """A whole picture on its own paper, light or dark as the reader has it."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(about)}">',
        f"<title>{escape(about)}</title><style>{STYLE}{style}</style>",
        f'<rect class="paper" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8"/>',
        *body,
        "</svg>\n",
    ]
    return "\n".join(parts).encode()


def lanes(xs: list[float], gap: float) -> list[int]:
    """A lane for each of sorted places, where dots of one lane do not overlap: 0, 1, -1, 2, ..."""
    order = [0, 1, -1, 2, -2, 3, -3]
    last = dict.fromkeys(order, -math.inf)
    out = []
    for x in xs:
        lane = next((i for i in order if x - last[i] >= gap), 0)
        last[lane] = x
        out.append(lane)
    return out


def clouds(run: Path) -> bytes:
    """Each design's single tests as dots, in percent of the true effect of their own worlds."""
    import polars as pl

    from realdataexp.report.files import read_run
    from realdataexp.report.verdicts import biases

    label, result = "stay_time", read_run(run)
    table = pl.read_parquet(run / "estimates.parquet").filter(
        pl.col("label") == label, pl.col("se_method") == "welch"
    )
    truth = table.filter(pl.col("design") == "global").select("world", truth="value")
    both = table.join(truth, on="world").with_columns(x=100 * pl.col("value") / pl.col("truth"))
    left, right, row, top = 405, 850, 37, 92
    low, high = 70.0, 135.0
    place = lambda x: left + (right - left) * (x - low) / (high - low)  # noqa: E731
    bottom = top + row * len(DESIGNS)
    body = [
        text(24, 36, "Ten ways to run one A/B test, and what each would report", "title"),
        text(24, 58, "A dot is a test. All tests of a row compare the same two rankings.", "soft"),
    ]
    for x in range(70, 140, 10):
        body.append(f'<path class="line" d="M{place(x):.1f} {top - 8}V{bottom}"/>')
        body.append(text(place(x), bottom + 18, f"{x} %", "soft mid"))
    body.append(f'<path class="truth-line" d="M{place(100):.1f} {top - 14}V{bottom}"/>')
    body.append(text(place(100), top - 20, "the truth", "truth mid name"))
    body.append(text(940, top - 20, "bias", "soft end"))
    judged = {x.entry.design: x for x in biases(result, label)}
    for i, (design, what) in enumerate(DESIGNS.items()):
        y, bias = top + row * (i + 0.5), judged[design]
        own = sorted(both.filter(pl.col("design") == design)["x"].to_list())
        kind = {"biased": "biased", "unbiased": "unbiased"}.get(bias.judgement, "unsure")
        body.append(text(24, y - 2, design, "name"))
        body.append(text(24, y + 13, what, "soft"))
        xs = [min(max(place(x), left), right) for x in own]
        for x, lane in zip(xs, lanes(xs, 6.2), strict=True):
            at = f'cx="{x:.1f}" cy="{y + 4.6 * lane:.1f}"'
            body.append(f'<circle class="{kind}" {at} r="3.1" fill-opacity=".75"/>')
        share = bias.percent_of_effect or 0.0
        said = f"{share:+.0f} %" if abs(share) >= 0.5 else "0 %"
        body.append(text(940, y + 5, said.replace("-", "−"), f"{kind} end name"))
    n, steps = result.config.replications(), result.n_steps_done
    body.append(text(left, bottom + 40, "what the test reports, in % of the true effect", "soft"))
    body += [
        text(24, bottom + 66, "Time watched on the simulated platform of Si (arXiv 2310.17496): "
             f"{n}, {steps} steps, seed {result.seed}.", "soft"),
        text(24, bottom + 83, "Orange: statistically significant bias. Blue: none found. Grey: "
             "inconclusive. Made by python tools/pictures.py.", "soft"),
    ]  # fmt: skip
    about = "Single tests of ten designs beside the true effect: " + ", ".join(
        f"{design} {judged[design].percent_of_effect or 0:+.0f} %" for design in DESIGNS
    )
    return svg(964, bottom + 100, about, body)


def box(x: float, y: float, width: float, lines: list[str], kind: str = "box") -> str:
    """A box with lines of text in its middle."""
    height = 20 + 18 * len(lines)
    said = [
        text(x + width / 2, y + 23 + 18 * i, line, f"mid {'name' if i == 0 else 'soft'}")
        for i, line in enumerate(lines)
    ]
    return (
        f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height}" rx="6"/>'
        + ("".join(said))
    )


def way(path: str) -> str:
    """An arrow along a path."""
    return f'<path class="way" d="{path}" marker-end="url(#head)"/>'


HEAD = (  # its tip is where the path ends, and its size does not depend on the path's width
    '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
    'markerUnits="userSpaceOnUse" orient="auto"><path class="head" d="M0 0L8 4L0 8z"/></marker>'
    "</defs>"
)


def architecture() -> bytes:
    """A step of the loop, with the two functions that are a design."""
    y, width, gap = 92, 120, 17
    steps = [
        ("visits", "who comes"),
        ("assign", "arm of each visit"),
        ("slate", "candidates"),
        ("score, pick", "by both arms"),
        ("answers", "log, simulator"),
        ("weights", "of each outcome"),
        ("learn", "all networks"),
    ]
    body = [HEAD, text(24, 38, "A step of the loop: a design is two functions", "title")]
    body.append(
        text(24, 60, "Every design, in every replication, takes this step at once.", "soft")
    )
    for i, (name, what) in enumerate(steps):
        x = 24 + i * (width + gap)
        body.append(
            box(x, y, width, [name, what], "ours" if name in ("assign", "weights") else "box")
        )
        if i:
            body.append(way(f"M{x - gap + 2} {y + 28}H{x - 2}"))
    start, end = (24 + i * (width + gap) + width / 2 for i in (3, 6))
    body.append(way(f"M{end} {y + 58}V{y + 92}H{start}V{y + 58}"))
    body.append(text((end + start) / 2, y + 86, "the models of the next step", "soft mid"))
    code = [
        "class MyDesign(Design):",
        "    n_models = 2",
        "    def assign(self, visits, p): ...        # -> is_treated_RB",
        "    def weights(self, outcome): ...         # -> weight_RMB",
    ]
    body += [text(24, y + 128 + 20 * i, line, "code") for i, line in enumerate(code)]
    body.append(text(590, y + 128, "The truth is the same loop, run twice:", "name"))
    body.append(text(590, y + 148, "once with everybody treated, once with nobody.", ""))
    body.append(text(590, y + 172, "Same users, same slates, same random numbers.", "soft"))
    return svg(990, y + 212, "A step of the loop: visits, assign, slate, score and pick, answers, "
               "weights, learn. A design is assign and weights.", body).replace(
        b'class="code">    ', b'class="code" xml:space="preserve">    ')  # fmt: skip


def loop() -> bytes:
    """Two loops at work: a test whose arms share their data, and the two worlds of the truth."""
    body, ways, moving = [], [HEAD], []

    def ring(x: float, y: float, dots: list[str], learn: str) -> None:
        """A loop of models, users and data; the dots go round it."""
        body.append(box(x, y, 120, ["models", "rank"]))
        body.append(box(x + 190, y, 120, ["users", "watch"]))
        body.append(box(x + 95, y + 104, 120, ["data", learn]))
        ways.append(way(f"M{x + 122} {y + 28}H{x + 187}"))
        ways.append(way(f"M{x + 250} {y + 58}V{y + 132}H{x + 218}"))
        ways.append(way(f"M{x + 93} {y + 132}H{x + 60}V{y + 60}"))
        track = f"M{x + 60} {y + 28}H{x + 250}V{y + 132}H{x + 60}Z"
        for i, kind in enumerate(dots):
            moving.append(
                f'<circle class="{kind} go" r="6" style="offset-path:path(\'{track}\');'
                f'animation-delay:-{8 * i / len(dots):.2f}s"/>'
            )

    body.append(text(24, 38, "Why an A/B test of a recommender can be biased", "title"))
    body.append(text(24, 72, "The test: both arms' data train the models of both", "name"))
    ring(60, 92, ["T", "C"] * 4, "of both arms")
    body.append(text(500, 72, "The truth: two worlds, each with a loop of its own", "name"))
    for x, kind, who in ((500, "T", "everybody treated"), (740, "C", "nobody treated")):
        body.append(box(x, 100, 84, ["models"]))
        body.append(box(x + 116, 100, 84, ["users"]))
        body.append(box(x + 58, 186, 84, ["data"]))
        ways.append(way(f"M{x + 85} 119H{x + 114}"))
        ways.append(way(f"M{x + 158} 139V205H{x + 144}"))
        ways.append(way(f"M{x + 57} 205H{x + 42}V141"))
        body.append(text(x + 100, 252, who, f"{kind} mid name"))
        track = f"M{x + 42} 119H{x + 158}V205H{x + 42}Z"
        for i in range(5):
            moving.append(
                f'<circle class="{kind} go" r="5" style="offset-path:path(\'{track}\');'
                f'animation-delay:-{8 * i / 5:.2f}s"/>'
            )
    told = (
        "The GTE is the difference between the two worlds. The test reports another number; "
        "realdataexp measures how far off it is."
    )
    body.append(text(24, 292, told, "soft"))
    style = (
        ".go { animation: round 8s linear infinite; offset-rotate: 0deg }"
        "@keyframes round { to { offset-distance: 100% } }"
        "@media (prefers-reduced-motion: reduce) { .go { animation-play-state: paused } }"
    )
    about = (
        "Outcomes of both arms flow into the training data of both models; in the truth they do not"
    )
    return svg(964, 312, about, [*ways, *moving, *body], style)


def page(folder: Path, name: str, scheme: str, top: str, bottom: str) -> bytes:
    """A part of a page as a browser shows it, from pixel ``top`` to ``bottom``, in 128 colours."""
    from PIL import Image

    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        sys.exit("pictures of pages take Chromium, which is not on the path")
    with tempfile.TemporaryDirectory() as home:
        subprocess.run(
            [
                browser, "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
                *(["--no-sandbox"] if os.geteuid() == 0 else []), f"--user-data-dir={home}/user",
                f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
                "--virtual-time-budget=10000", f"--window-size=1100,{bottom}",
                f"--screenshot={home}/page.png", (folder / name).as_uri(),
            ],
            check=True, capture_output=True,
        )  # fmt: skip
        out = io.BytesIO()
        shot = Image.open(f"{home}/page.png").convert("RGB")
        part = shot.crop((0, int(top), shot.width, shot.height))
        part.quantize(128, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    return out.getvalue()


def plot(folder: Path) -> bytes:
    """The figure of a label's answers, which Result.plot.answers() returns."""
    from realdataexp.report.plots import Plots

    out = io.BytesIO()
    figure = Plots(folder).answers()
    figure.savefig(out, format="svg", metadata={"Date": None, "Title": "realdataexp: answers"})
    return out.getvalue()


PICTURES = [
    Picture("designs.svg", clouds, "platform", ("configs/si2023.yaml", "worlds/si2023.py")),
    Picture("architecture.svg", architecture),
    Picture("loop.svg", loop),
    Picture("report-light.png", page, "demo", DEMO,
            ("report.html", "light", "0", "1000")),
    Picture("report-dark.png", page, "demo", DEMO,
            ("report.html", "dark", "0", "1000")),
    Picture("plot.svg", plot, "demo", ("configs/demo.yaml", "report/style.mplstyle")),
    Picture("sweep.png", page, "sweep", SWEEP,
            ("sweep.html", "light", "1080", "2080")),
]  # fmt: skip


def make(pictures: Iterable[Picture], runs: Path) -> dict[str, dict[str, str]]:
    """Make pictures from runs, which are made where they are not there; what is said of each."""
    from realdataexp import __version__, cli

    said = {}
    for picture in pictures:
        given = [runs / picture.run] if picture.run else []
        for folder in given:  # a run that is there is drawn again, as its pages may have changed
            words = [*RUNS[picture.run], "--quiet", "--out"] if not folder.is_dir() else ["report"]
            if cli.main([*words, str(folder)]):
                sys.exit(f"{picture.command}: failed")
        content = picture.draw(*given, *picture.options)
        if len(content) > MOST_BYTES:
            sys.exit(f"{picture.name}: has {len(content):,} bytes, at most {MOST_BYTES:,}")
        (FOLDER / picture.name).write_bytes(content)
        said[picture.name] = {
            "command": picture.command,
            "version": __version__,
            "shows": picture.digest(),
            "file": hashlib.sha256(content).hexdigest(),
        }
    return said


def known() -> dict[str, dict[str, str]]:
    """What made.json says of each picture."""
    return json.loads(MADE.read_text(encoding="utf-8")) if MADE.is_file() else {}


def main() -> None:
    """Make the pictures that are not there, or show what has changed since."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="make those too that are up to date")
    parser.add_argument(
        "--runs", type=Path, help="keep the runs in this folder, or take them from it"
    )
    args = parser.parse_args()
    made = known()
    stale = [
        x for x in PICTURES if args.all or made.get(x.name, {}).get("shows") != x.digest()
        or not (FOLDER / x.name).is_file()
    ]  # fmt: skip
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        made |= make(stale, args.runs or Path(folder))
    names = {x.name for x in PICTURES}
    kept = {name: made[name] for name in sorted(made) if name in names}
    MADE.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"made {', '.join(x.name for x in stale) or 'nothing: all are up to date'}")


if __name__ == "__main__":
    main()
