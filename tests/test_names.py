"""A name of one's own works everywhere, or the config is refused in one line."""

from __future__ import annotations

import json
import re
import unicodedata
import warnings
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from realdataexp.api import run
from realdataexp.config import load_config
from realdataexp.errors import InputError
from realdataexp.report.charts import chart
from realdataexp.report.files import Effect
from realdataexp.report.panels import run_effects

Settings = Callable[..., dict[str, Any]]

# of designs: formulas, markup, paths, numbers, dates, columns, other scripts
DESIGNS = [
    "a $x_1$ b", "$", "$\\frac{1}{0}$", "{x}", "%d 50%", "<b>bold</b><script>alert(1)</script>",
    "&amp;", "\"double\" and 'single'", "../../etc", "a/b:c", "1", "1e5", "2024-01-01", "n",
    "design", "value", "global effect", "T", "null", "true", "שלום", "日本語",
    "a\U0001f469", "x" * 64,
]  # fmt: skip
# of labels, which are identifiers
LABELS = ["n", "seed"]
OTHER_LABELS = ["GTE", "global"]


def with_names(settings: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    own = [x | {"name": name} for x, name in zip(settings["labels"], labels, strict=True)]
    return settings | {"labels": own}


@pytest.fixture(scope="module")
def named(small_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a plain snapshot and as many again as there are names."""
    designs = ["snapshot", *({"name": "snapshot", "label": name} for name in DESIGNS)]
    settings = with_names(
        small_settings(
            experiment={"replications": 2, "designs": designs},
            pretrain={"enabled": False},
            simulation={"n_steps": 4, "batch_size": 8, "processes": 1},
            logging={"pictures": True},
        ),
        LABELS,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # such as a sign that a font lacks
        return run(settings, out=tmp_path_factory.mktemp("names") / "run").folder


def test_a_design_answers_the_same_under_any_name(named: Path) -> None:
    estimates = pl.read_parquet(named / "estimates.parquet")
    estimates = estimates.filter(pl.col("se_method") == "welch")  # others draw by the name
    of = {name: rows.drop("design") for (name,), rows in estimates.group_by(["design"])}
    assert set(of) == {"global", "snapshot", *DESIGNS}
    key = ["world", "label"]
    plain = of["snapshot"].sort(key)
    assert plain.height and all(of[name].sort(key).equals(plain) for name in DESIGNS)
    assert set(plain["label"]) == set(LABELS)


def test_the_result_has_every_name(named: Path) -> None:
    result = json.loads((named / "result.json").read_text())
    assert result["status"] == "complete"
    assert {e["design"] for e in result["comparison"]} == {"snapshot", *DESIGNS}
    assert {f"GTE_{x}" for x in LABELS} <= set(result["gte_results"])


def test_the_plot_shows_names_as_they_are(named: Path) -> None:
    svg = (named / "plot.svg").read_text(encoding="utf-8")
    shown = {unescape(x) for x in re.findall(r"<text[^>]*>([^<]*)</text>", svg)}
    for name in ("$", "{x}", "%d 50%", "&amp;", "1e5", "2024-01-01", "../../etc"):
        assert name in shown
    assert "<script>alert" not in svg


def test_the_page_holds_names_as_text(named: Path) -> None:
    page = (named / "report.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in page and "<b>bold" not in page
    assert "&lt;b&gt;bold&lt;/b&gt;&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_names_of_a_chart_are_categories_never_numbers_or_dates() -> None:
    effects = [(name, Effect(design="d", label="y", value=0.1)) for name in ("1", "2024-01-01")]
    drawn = chart(run_effects(effects, "k", "title"))
    assert drawn["layout"]["yaxis"]["type"] == "category"
    assert [trace["y"] for trace in drawn["data"]] == [["1"], ["2024-01-01"]]


@pytest.mark.parametrize("labels", [OTHER_LABELS, ["_click", "x" * 64], ["T", "C"]])
def test_labels_may_be_called_like_what_a_result_is_made_of(
    labels: list[str], small_settings: Settings, tmp_path: Path
) -> None:
    settings = small_settings(
        mode="pooling", pretrain={"enabled": False}, logging={"pictures": True}
    )
    settings["simulation"] |= {"n_steps": 2, "processes": 1}
    settings["experiment"] = {"replications": 2}
    folder = run(with_names(settings, labels), out=tmp_path / "r").folder
    result = json.loads((folder / "result.json").read_text())
    assert [e["label"] for e in result["estimates"]] == labels
    assert all(isinstance(e["value"], float) for e in result["estimates"])
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in labels)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *((x, "stands for the truth") for x in ("global", "Global", "global_T", "GLOBAL_c")),
        *(
            (x, "characters that print")
            for x in (
                "a\nb",
                "a\tb",
                " a",
                "a ",
                "a\u202eb",
                "a\x1b[2Jb",
                "a\xa0b",
                "\u200bb",
                "_a",
            )
        ),
        ("x" * 65, "at most 64 characters, not 65"),
    ],
)
def test_a_design_that_results_cannot_name_is_refused(
    name: str, said: str, small_settings: Settings
) -> None:
    designs = ["pooling", {"name": "pooling", "label": name}]
    with pytest.raises(InputError) as caught:
        load_config(small_settings(experiment={"designs": designs}))
    (line,) = str(caught.value).splitlines()
    assert "experiment.designs.1.label" in line and said in line


@pytest.mark.parametrize("name", ["global", "global_T"])
def test_the_class_of_a_mode_must_not_be_called_like_the_truth(
    name: str, small_settings: Settings
) -> None:
    with pytest.raises(InputError, match=r"^config: mode = .*: stands for the truth"):
        load_config(small_settings(mode=f"my_designs:{name}"))


@pytest.mark.parametrize(
    "names",
    [("Pooling", "pooling"), ("straße", "STRASSE"), ("é", unicodedata.normalize("NFD", "é"))],
)
def test_designs_that_differ_in_case_or_form_alone_are_refused(
    names: tuple[str, str], small_settings: Settings
) -> None:
    designs = [{"name": "pooling", "label": name} for name in names]
    with pytest.raises(InputError, match=r"experiment\.designs: .*stands more than once"):
        load_config(small_settings(experiment={"designs": designs}))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["Click", "click"], "labels: the name Click, click stands more than once"),
        (["x", "x_relative"], "labels: x_relative: results call the relative effect on x so"),
        (["x_relative", "x"], "labels: x_relative: results call the relative effect on x so"),
        (["a" * 65, "b"], "labels.0.name"),
        (["a$b", "b"], "labels.0.name"),
        (["", "b"], "labels.0.name"),
    ],
)
def test_labels_that_results_cannot_tell_apart_are_refused(
    names: list[str], said: str, small_settings: Settings
) -> None:
    with pytest.raises(InputError) as caught:
        load_config(with_names(small_settings(), names))
    (line,) = str(caught.value).splitlines()
    assert said in line
