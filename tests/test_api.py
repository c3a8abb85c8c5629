"""The package from Python."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import realdataexp as rx
from realdataexp.errors import InputError

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
