"""The package from Python."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import shutil
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from matplotlib.figure import Figure

import realdataexp as rx
from realdataexp.errors import InputError
from realdataexp.options import Options

Settings = dict[str, Any]


def test_a_result_gives_the_tables_of_its_folder(small_run: Path):
    result = rx.Result(small_run)
    assert set(result.comparison["design"]) == {"pooling", "snapshot", "splitting"}
    assert result.comparison.height == 3 * 2
    assert result.estimates.equals(pl.read_parquet(small_run / "estimates.parquet"))
    assert result.outcomes.equals(pl.read_parquet(small_run / "outcomes.parquet"))
    assert result.metrics.equals(pl.read_parquet(small_run / "metrics.parquet"))


@pytest.fixture(scope="module")
def monitored(small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> rx.Result:
    """A run that was long enough for its monitor to have a table."""
    folder = Path(shutil.copytree(small_run, tmp_path_factory.mktemp("r") / "run"))
    pl.DataFrame({"seconds": [0.0], "phase": ["loop"]}).write_parquet(folder / "monitor.parquet")
    return rx.Result(folder)


PARTS = {  # of result.json
    "answers": "estimates", "comparison": "comparison", "inference": "inference",
    "family": "family", "regret": "regret", "power": "plan", "last_metrics": "metrics_summary",
    "prediction": "prediction",
    "detectors": "detectors",
}  # fmt: skip
FILES = ("outcomes", "units", "ledger", "estimates", "detections", "metrics", "monitor")


def without_nulls(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A frame has null where an entry has no such key."""
    return [{key: x for key, x in row.items() if x is not None} for row in rows]


def test_every_table_of_a_run_is_a_frame_and_one_of_pandas(monitored: rx.Result):
    found = monitored.to_pandas()
    assert set(found) == {*PARTS, *FILES}
    for name, key in PARTS.items():
        rows = monitored.summary[key]
        assert rows and without_nulls(getattr(monitored, name).to_dicts()) == without_nulls(rows)
    for name in FILES:
        whole = pl.read_parquet(monitored.folder / f"{name}.parquet")
        assert getattr(monitored, name).equals(whole)
    for name, frame in found.items():
        table = getattr(monitored, name)
        assert list(frame.columns) == table.columns and len(frame) == table.height
        assert monitored.to_pandas(name).equals(frame)
    text = (Path(__file__).parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    assert all(f"`Result.{name}`" in text for name in (*PARTS, *FILES))


def test_a_table_that_is_unknown_or_not_there_is_one_line(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = Path(shutil.copytree(small_run, tmp_path / "run"))
    (folder / "units.parquet").unlink()
    result = rx.Result(folder)
    with pytest.raises(InputError, match=r"units\.parquet: .*every visit is a new user"):
        _ = result.units
    assert "units" not in result.to_pandas()
    with pytest.raises(InputError, match="table = 'x': unknown; use one of answers, "):
        result.to_pandas("x")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pandas is not installed: pip install pandas"):
        result.to_pandas("comparison")


def titles(figure: Figure) -> list[str]:
    return [ax.get_title(loc="left") for ax in figure.axes]


FIGURES: dict[str, tuple[str, ...]] = {
    "answers": ("play_time (ms): estimates", "click: estimates"),
    "bias": ("play_time (ms): bias", "click: bias"),
    "coverage": ("play_time (ms): coverage", "click: coverage"),
    "effects": ("play_time (ms): the answer while the test runs",
                "click: the answer while the test runs"),
    "totals": ("play_time (ms): total so far", "click: total so far"),
    "curves": ("play_time (ms): relative error", "play_time (ms): loss", "click: AUC",
               "click: loss"),
    "data_left": ("data left: too little for a full slate",),
}  # fmt: skip


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_returned_and_nothing_is_written(name: str, small_run: Path):
    before = {path: path.stat().st_mtime_ns for path in small_run.rglob("*")}
    plot = rx.Result(small_run).plot
    figure = getattr(plot, name)()
    assert isinstance(figure, Figure) and titles(figure) == list(FIGURES[name])
    if name != "data_left":
        own = getattr(plot, name)(label="click")
        assert titles(own) == [x for x in FIGURES[name] if x.startswith("click")]
    assert {path: path.stat().st_mtime_ns for path in small_run.rglob("*")} == before


def test_a_figure_shows_itself_in_a_notebook(small_run: Path):
    figure = rx.Result(small_run).plot.bias("click")
    assert figure._repr_png_().startswith(b"\x89PNG")
    (biases,) = figure.axes
    assert [x.get_text() for x in biases.get_yticklabels()] == ["pooling", "snapshot", "splitting"]


def test_curves_are_those_of_the_metric_and_design_that_are_named(small_run: Path):
    plot = rx.Result(small_run).plot
    figure = plot.curves("auc", design="splitting")
    assert titles(figure) == ["click: AUC, splitting"]
    drawn = {line.get_label() for line in figure.axes[0].get_lines()}
    assert "treatment, validation" in drawn and "control, validation" in drawn


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda plot: plot.bias("clic"), "label = 'clic': unknown; use one of play_time, click"),
        (lambda plot: plot.curves("acu"), "metric = 'acu': unknown; use one of "),
        (lambda plot: plot.curves(design="x"), "design = 'x': unknown; use one of global"),
        (lambda plot: plot.weights(), r"has nothing for plot\.weights\(\): it takes a design"),
        (lambda plot: plot.coverage(methods=["x"]), r"has nothing for plot\.coverage\(\)"),
    ],
)
def test_a_figure_of_nothing_is_one_line(ask: Callable[[Any], Any], said: str, small_run: Path):
    with pytest.raises(InputError, match=said):
        ask(rx.Result(small_run).plot)


def test_a_result_draws_its_plot_again(small_run: Path, tmp_path: Path):
    folder = Path(shutil.copytree(small_run, tmp_path / "run"))
    (folder / "plot.svg").unlink()
    assert rx.Result(folder).plot() == folder / "plot.svg"
    assert (folder / "plot.svg").read_bytes() == (small_run / "plot.svg").read_bytes()


def test_a_result_writes_its_page_again(small_run: Path, tmp_path: Path):
    folder = Path(shutil.copytree(small_run, tmp_path / small_run.name))
    (folder / "report.html").unlink()
    assert rx.Result(folder).report() == folder / "report.html"
    assert (folder / "report.html").read_bytes() == (small_run / "report.html").read_bytes()


def test_a_single_designs_run_has_an_empty_comparison(
    small_settings: Callable[..., Settings], tmp_path: Path
):
    result = rx.run(small_settings(mode="snapshot"), ["simulation.n_steps=1"], out=tmp_path / "r")
    assert result.comparison.is_empty()
    assert result.summary["n_steps_done"] == 1
    assert result.summary["gte_results"] == {}


def test_overrides_of_a_loaded_config_are_refused_for_they_would_do_nothing(
    small_settings: Callable[..., Settings], tmp_path: Path
):
    config = rx.load_config(small_settings())
    with pytest.raises(InputError, match=r"overrides = \['seed=1'\].*load_config"):
        rx.run(config, ["seed=1"], out=tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_logging_as_it_was(small_settings: Callable[..., Settings], tmp_path: Path):
    logger = logging.getLogger("realdataexp")
    before = (logger.level, list(logger.handlers))
    rx.run(small_settings(mode="snapshot", logging={"level": "DEBUG"}), out=tmp_path / "r")
    assert (logger.level, logger.handlers) == before


def test_a_run_outside_the_main_thread_works(
    small_settings: Callable[..., Settings], tmp_path: Path
):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(rx.run, small_settings(mode="snapshot"), out=tmp_path / "r").result()
    assert result.summary["status"] == "complete"


# --- designs as objects -----------------------------------------------------------------------

MINE = """
from realdataexp.designs import Design
from realdataexp.designs.base import ones

class Alternating(Design):
    length: int = 10

    def assign(self, visits, p):
        return visits.is_visit_RB & ((visits.step // self.length) % 2 == 0)

    def weights(self, outcome):
        return ones(outcome, self.n_models)
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "designs_of_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("designs_of_mine")


def test_designs_run_as_their_names_and_options_would_and_are_recorded_so(
    small_settings: Callable[..., Settings], tmp_path: Path, mine: Any
):
    settings = small_settings(
        pretrain={"enabled": False}, simulation={"n_steps": 4, "processes": 1},
        switchback={"block_steps": 3},
    )  # fmt: skip
    objects = {"mine": mine.Alternating(length=2), "blocks": rx.designs.Switchback(block_steps=2)}
    result = rx.run(settings, designs=objects, out=tmp_path / "objects")
    names = [
        {"name": "designs_of_mine:Alternating", "label": "mine", "length": 2},
        {"name": "switchback", "label": "blocks", "block_steps": 2},
    ]
    settings["experiment"]["designs"] = names
    named = rx.run(settings, out=tmp_path / "named")
    assert result.outcomes.equals(named.outcomes) and result.outcomes.height
    written = [x.resolved() if hasattr(x, "resolved") else x.model_dump() for x in
               rx.load_config(result.folder / "config.yaml").experiment.designs]  # fmt: skip
    assert written == [names[0], {**names[1], "washout_steps": 0}]


def test_a_list_of_designs_may_hold_names_settings_and_objects(
    small_settings: Callable[..., Settings], tmp_path: Path
):
    designs = ["pooling", {"name": "snapshot", "label": "frozen"}, rx.designs.Shadow()]
    settings = small_settings(pretrain={"enabled": False}, simulation={"n_steps": 1})
    result = rx.run(rx.load_config(settings), designs=designs, out=tmp_path / "r")
    assert list(dict.fromkeys(result.comparison["design"])) == ["pooling", "frozen", "shadow"]
    settings["experiment"]["designs"] = designs  # a dictionary may hold them too
    same = rx.run(settings, out=tmp_path / "s")
    assert same.comparison.equals(result.comparison)


def test_designs_that_a_config_cannot_name_are_refused_at_once(
    small_settings: Callable[..., Settings], tmp_path: Path, mine: Any
):
    class Local(mine.Alternating):  # type: ignore[misc, name-defined]
        pass

    class Main(mine.Alternating):  # type: ignore[misc, name-defined]
        __module__ = "__main__"
        __qualname__ = "Main"

    cases = [
        (Local(), "designs.0 = test_api:.*Local: .*write it to a file, such as my_designs.py"),
        (Main(), "designs.0 = __main__:Main: .*write it to a file"),
        (rx.designs.Shadow, "is no design; call it"),
        (lambda visits: visits, "is no design; pass a realdataexp.designs.Design"),
        ("shadw", "shadw"),
    ]
    for design, said in cases:
        with pytest.raises(InputError, match=said) as caught:
            rx.run(small_settings(), designs=[design], out=tmp_path / "r")
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(InputError, match="designs: have no effect in mode 'snapshot'"):
        rx.run(small_settings(mode="snapshot"), designs=["pooling"], out=tmp_path / "r")
    assert not (tmp_path / "r").exists()


# --- what is public ---------------------------------------------------------------------------

CALLABLE = ["load_config", "plan", "run", "sweep"]
OF_RESULT = [name for name in vars(rx.Result) if not name.startswith("__")]
TABLES = (*PARTS, *FILES)


def test_all_names_what_is_there_and_nothing_else():
    assert sorted(rx.__all__) == rx.__all__
    assert all(hasattr(rx, name) for name in rx.__all__)
    assert set(rx.__all__) == {
        *CALLABLE,
        "Config",
        "InputError",
        "Result",
        "RunError",
        "Sweep",
        "__version__",
        "designs",
        "load_model",
    }
    with pytest.raises(AttributeError, match="has no attribute 'runn'"):
        _ = rx.runn


@pytest.mark.parametrize("name", CALLABLE)
def test_a_public_function_is_typed_and_says_what_it_takes_gives_and_raises(name: str):
    function = getattr(rx, name)
    signature, text = inspect.signature(function), inspect.getdoc(function)
    hints = typing.get_type_hints(function)
    assert set(hints) == {*signature.parameters, "return"}
    assert text is not None
    for argument in signature.parameters:
        assert f"    {argument}: " in text, argument
    for part in ("Returns:", "Raises:", "InputError", "Examples:"):
        assert part in text, part


@pytest.mark.parametrize("name", OF_RESULT)
def test_what_a_result_has_is_typed_and_documented(name: str):
    found = inspect.getattr_static(rx.Result, name)
    function = getattr(found, "fget", None) or getattr(found, "func", None) or found
    assert inspect.getdoc(function)
    assert "return" in typing.get_type_hints(function)
    if name in TABLES:
        assert "A row per" in (inspect.getdoc(function) or "")


@pytest.mark.parametrize("name", ["Config", "InputError", "Result", "RunError", "Sweep"])
def test_public_classes_are_documented(name: str):
    found = getattr(rx, name)
    text = inspect.getdoc(found)
    assert text and text != inspect.getdoc(Options)


# --- in a notebook ----------------------------------------------------------------------------


def changed(run_dir: Path, to: Path, **values: Any) -> rx.Result:
    """A copy of a run folder with some of its result replaced."""
    folder = Path(shutil.copytree(run_dir, to))
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps({**result, **values}))
    return rx.Result(folder)


def test_a_result_shows_the_answer_first_then_tables_warnings_and_links(small_run: Path):
    html = rx.Result(small_run)._repr_html_()
    places = [
        html.index(text)
        for text in (
            "mode compare, complete, 10 steps, 3 replications given this starting model, seed 0",
            "Treating everybody",
            "Is the estimate biased?",
            "Which intervals can be believed?",
            "The truth: everybody treated minus everybody in control (GTE), 3 replications",
            "play_time (ms): effect per visit",
            "click: effect per visit",
            "bias: estimate minus truth",
            "</summary><ul><li><strong>",
            "report.html</a>",
        )
    ]
    assert places == sorted(places)
    assert "duplicate_rows" in html
    assert f'href="{(small_run / "report.html").as_uri()}"' in html


def test_a_shown_result_is_self_contained_small_and_in_the_notebooks_colours(small_run: Path):
    html = rx.Result(small_run)._repr_html_()
    assert len(html) < 30_000
    for word in ("<script", "<button", "http:", "https:", "url(", "@import", "A click on a header"):
        assert word not in html
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert "#" not in style and "rgb" not in style
    rules = [line for line in style.strip().splitlines() if line]
    assert all(line.startswith(".realdataexp") for line in rules)  # nothing else gets restyled


def test_a_shown_result_links_to_files_below_the_notebook(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = shutil.copytree(small_run, tmp_path / "results" / "a run")
    monkeypatch.chdir(tmp_path)
    html = rx.Result(folder)._repr_html_()
    assert 'href="results/a%20run/report.html"' in html
    (folder / "plot.svg").unlink()
    assert "plot.svg" not in rx.Result(folder)._repr_html_()


def test_a_shown_result_escapes_what_others_wrote(small_run: Path, tmp_path: Path):
    evil = [{"code": "<b>x", "message": "<script>alert(1)</script>"}]
    html = changed(small_run, tmp_path / "<i>run", warnings=evil)._repr_html_()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "&lt;b&gt;x" in html
    assert "<script" not in html and "<i>" not in html


def test_a_result_is_one_line_that_tells_the_effects(small_run: Path):
    result = rx.Result(small_run)
    gte = result.summary["gte_results"]
    text = repr(result)
    assert text.startswith(f"Result({small_run}: mode compare, complete, 10 steps")
    assert f"; click {gte['GTE_click_relative']:+.3g} %" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("settings", "told", "line"),
    [
        ({"mode": "global"}, "Treating everybody", "; click "),
        (
            {"mode": "pooling"},
            "This is what the design pooling answers, not the truth",
            "per visit",
        ),
        ({"experiment": {"aa": True}}, "type-I error by interval method", "+0 %"),
    ],
)
def test_every_mode_shows_itself(
    small_settings: Callable[..., Settings],
    tmp_path: Path,
    settings: Settings,
    told: str,
    line: str,
):
    result = rx.run(small_settings(**settings), ["simulation.n_steps=3"], out=tmp_path / "r")
    assert told in result._repr_html_()
    assert line in repr(result)


def test_a_partial_result_says_so(small_run: Path, tmp_path: Path):
    empty = {"estimates": [], "comparison": [], "gte_results": {}, "inference": []}
    part = {"status": "partial", "n_steps_done": 0}
    result = changed(small_run, tmp_path / "run", **part, **empty)
    assert "Partial: the run stopped after 0 steps." in result._repr_html_()
    assert "there is no answer" in result._repr_html_()
    assert "partial, 0 steps" in repr(result)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not there; pass a run folder made by run"),
        ("{", "cannot be read as JSON"),
        ("[]", "is not a result of realdataexp"),
        ('{"schema_version": 1}', "config: not what a run writes (Field required)"),
        ('{"schema_version": 1, "config": 3}', "config: not what a run writes ("),
    ],
)
def test_a_damaged_folder_shows_what_is_wrong(tmp_path: Path, content: str | None, message: str):
    if content is not None:
        (tmp_path / "result.json").write_text(content)
    result = rx.Result(tmp_path)
    assert message in repr(result) and "\n" not in repr(result)
    assert message in html_text(result._repr_html_())


def html_text(html: str) -> str:
    from html import unescape

    return unescape(html)
