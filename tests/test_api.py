"""The package from Python."""

from __future__ import annotations

import inspect
import json
import logging
import shutil
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

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


# --- what is public ---------------------------------------------------------------------------

CALLABLE = ["load_config", "plan", "run"]
OF_RESULT = [name for name in vars(rx.Result) if not name.startswith("__")]


def test_all_names_what_is_there_and_nothing_else():
    assert sorted(rx.__all__) == rx.__all__
    assert all(hasattr(rx, name) for name in rx.__all__)
    assert set(rx.__all__) == {
        *CALLABLE,
        "Config",
        "InputError",
        "Result",
        "RunError",
        "__version__",
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
    if name in ("comparison", "estimates", "outcomes", "metrics"):
        assert "A row per" in (inspect.getdoc(function) or "")


@pytest.mark.parametrize("name", ["Config", "InputError", "Result", "RunError"])
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
