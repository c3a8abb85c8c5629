"""What is shown of a training says what its result.json and metrics.parquet say."""

from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from statistics import mean
from typing import Any

import polars as pl
import pytest
from browser import needs_browser, opened
from page_reader import Element, charts_of, copy_run, read_page
from rich.console import Console
from test_browser import found_by
from test_docs_reference import DOCS, keys_of, rows_of
from test_page import section

from realdataexp import api, cli
from realdataexp.errors import InputError
from realdataexp.report.page import write_comparison, write_report
from realdataexp.report.perf import advise, read_perf
from realdataexp.report.plots import write_plot
from realdataexp.report.tables import print_result
from realdataexp.train.config import load_train
from realdataexp.train.results import RANKS, TABLE
from realdataexp.train.run import train

SETTINGS: dict[str, Any] = {
    "mode": "train",
    "dataset": {"name": "sequences", "synthetic": {"users": 300, "items": 60, "clusters": 5}},
    "model": {"name": "SASRec", "width": 16, "n_layers": 1, "n_heads": 2, "longest": 8},
    "baselines": ["Popularity", "Markov"],
    "training": {"epochs": 3, "users_per_batch": 40, "learning_rate": 0.003},
    "evaluation": {"k": [5, 10, 20]},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(load_train(SETTINGS), tmp_path_factory.mktemp("train") / "run")


@pytest.fixture(scope="module")
def result(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "result.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def page(run: Path) -> Element:
    return read_page(run / "report.html")


def printed(run: Path) -> str:
    console = Console(width=100, file=StringIO())
    print_result(run, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


# --- numbers -------------------------------------------------------------------------------------


def test_the_page_has_every_score_and_difference_of_the_result(
    page: Element, result: dict[str, Any]
):
    test, validation, differences = section(page, "reached").all("table")
    for table, split in ((test, "test"), (validation, "validation")):
        assert numbers(table) == {
            model: {
                x["value"] for x in result["results"] if (x["model"], x["split"]) == (model, split)
            }
            for model in ("SASRec", "Popularity", "Markov")
        }
        assert {"NDCG@10", "hit@20", "MRR", "coverage@10", "Gini@10"} <= heads(table)
    assert numbers(differences) == {
        f"SASRec − {other}": {x["difference"] for x in result["compared"] if x["against"] == other}
        for other in ("Popularity", "Markov")
    }
    for x in (x for x in result["results"] if x["se"] is not None):
        assert f"{x['value']:.4f} ± {x['se']:.4f}" in test.text + validation.text
    for x in result["compared"]:
        assert f"{x['difference']:+.4f} [{x['ci_low']:+.4f}, {x['ci_high']:+.4f}]" in (
            differences.text
        )


def numbers(table: Element) -> dict[str, set[float]]:
    """What each row sorts by, by its name."""
    return {
        row.all("th")[0].text: {float(str(x.attributes["data-sort"])) for x in row.all("td")}
        for row in table.all("tbody")[0].all("tr")
    }


def heads(table: Element) -> set[str]:
    return {x.text for x in table.all("thead")[0].all("th")}


VERDICTS = [
    ((0.01, 0.03), "SASRec ranks better than Markov"),
    ((-0.03, -0.01), "SASRec ranks worse than Markov"),
    ((-0.01, 0.01), "SASRec and Markov cannot be told apart"),
    ((0.0, 0.02), "SASRec and Markov cannot be told apart"),
]


@pytest.mark.parametrize(("interval", "said"), VERDICTS)
def test_the_verdict_follows_from_the_interval(
    interval: tuple[float, float], said: str, run: Path, tmp_path: Path
):
    low, high = interval

    def change(result: dict[str, Any]) -> None:
        for x in result["compared"]:
            is_main = (x["against"], x["metric"], x["k"]) == ("Markov", "ndcg", 10)
            found = (low, high) if is_main else (-9.0, 9.0)
            x.update(ci_low=found[0], ci_high=found[1], difference=sum(found) / 2)

    folder = copy_run(run, tmp_path / "r", change)
    told = f"{said}: test NDCG@10 {(low + high) / 2:+.4f} [{low:+.4f}, {high:+.4f}]"
    assert told in section(read_page(write_report(folder)), "answer").text
    assert told in printed(folder).replace("\n  ", " ")
    assert told in repr(api.Result(folder))
    (row,) = [x for x in printed(folder).splitlines() if x.startswith("SASRec − Markov")]
    assert row.endswith("*") == ("told apart" not in said)


def test_a_model_without_baselines_is_answered_by_what_it_reaches(run: Path, tmp_path: Path):
    def change(result: dict[str, Any]) -> None:
        result["compared"] = []
        result["results"] = [x for x in result["results"] if x["model"] == "SASRec"]

    folder = copy_run(run, tmp_path / "r", change)
    (x,) = [
        x
        for x in json.loads((folder / "result.json").read_text())["results"]
        if (x["split"], x["metric"], x["k"]) == ("test", "ndcg", 10)
    ]
    page = read_page(write_report(folder))
    told = f"SASRec: test NDCG@10 {x['value']:.4f} ± {x['se']:.4f}"
    assert told in section(page, "answer").text
    assert "compared" not in [chart["key"] for chart in charts_of(page)]


# --- pictures ------------------------------------------------------------------------------------


def test_the_learning_curves_are_those_of_the_table_and_baselines_are_level(
    page: Element, run: Path, result: dict[str, Any]
):
    charts = {chart["key"]: chart for chart in charts_of(page)}
    assert [*charts] == [
        "validation",
        "training-loss",
        "gradient-norm",
        "learning-rate",
        "compared",
    ]
    table = pl.read_parquet(run / "metrics.parquet")
    drawn = {(t["name"], t["meta"].get("metric")): t for t in charts["validation"]["data"]}
    own = table.filter((pl.col("metric") == "ndcg") & (pl.col("k") == 10))
    assert drawn["SASRec", "NDCG@10"]["x"] == own["epoch"].to_list() == [1, 2, 3]
    assert drawn["SASRec", "NDCG@10"]["y"] == pytest.approx(own["value"].to_list(), rel=1e-6)
    for x in result["results"]:
        if (x["split"], x["model"], x["metric"]) == ("validation", "Markov", "mrr"):
            assert drawn["Markov", "MRR"]["y"] == pytest.approx([x["value"]] * 3, rel=1e-6)
    loss = table.filter(pl.col("metric") == "loss")["value"].to_list()
    assert charts["training-loss"]["data"][0]["y"] == pytest.approx(loss, rel=1e-6)
    select = page.all("select")[0]
    assert select.content[0].text == "NDCG@10"  # type: ignore[union-attr]


def test_the_plot_shows_the_same_panels(run: Path, tmp_path: Path):
    folder = copy_run(run, tmp_path / "r")
    svg = write_plot(folder, png=True).read_text(encoding="utf-8")
    for title in (
        "Validation: NDCG@10", "Training loss", "Gradient norm", "Learning rate",
        "Differences in test NDCG@10", "epoch",
    ):  # fmt: skip
        assert f">{title}</text>" in svg
    assert (folder / "plot.png").stat().st_size > 10_000
    figure = api.Result(folder).plot.all()
    assert figure.axes[0].get_title(loc="left") == "Validation: NDCG@10"
    with pytest.raises(InputError, match=r"a training, which has plot\.all\(\) only"):
        api.Result(folder).plot.bias()


@needs_browser
def test_a_browser_draws_the_charts_and_chooses_a_metric(run: Path, tmp_path: Path):
    dom, console = opened(run / "report.html", tmp_path / "home")
    found = found_by(dom)
    assert console == []
    assert found["drawn"] == found["charts"] == 5
    assert found["metrics"] == ["hit@5"]  # the second choice


# --- as of other runs ----------------------------------------------------------------------------


def test_report_makes_the_files_of_the_run_again(run: Path, capsys: pytest.CaptureFixture[str]):
    before = (run / "report.html").read_bytes(), (run / "plot.svg").read_bytes()
    assert cli.main(["report", str(run)]) == 0
    assert capsys.readouterr().out.count("Wrote") == 2
    assert ((run / "report.html").read_bytes(), (run / "plot.svg").read_bytes()) == before


def test_a_counted_model_and_a_training_without_an_epoch_have_a_page(tmp_path: Path):
    counted = {**SETTINGS, "model": "Markov", "baselines": ["Popularity"], "training": {}}
    run = train(load_train(counted), tmp_path / "counted")
    assert [chart["key"] for chart in charts_of(read_page(run / "report.html"))] == ["compared"]

    def stop(result: dict[str, Any]) -> None:
        result.update(status="partial", results=[], compared=[])

    folder = copy_run(run, tmp_path / "r", stop)
    page = read_page(write_report(folder))
    assert "Partial" in section(page, "answer").text
    assert charts_of(page) == []
    assert "No epoch ended" in write_plot(folder).read_text(encoding="utf-8")


def test_a_missing_table_costs_its_charts_only_and_a_damaged_one_is_named(
    run: Path, tmp_path: Path
):
    folder = copy_run(run, tmp_path / "r")
    (folder / "metrics.parquet").unlink()
    assert [x["key"] for x in charts_of(read_page(write_report(folder)))] == ["compared"]
    (folder / "metrics.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match=r"metrics\.parquet: cannot be read"):
        write_report(folder)


def test_several_trainings_are_one_page(run: Path, result: dict[str, Any], tmp_path: Path):
    def change(result: dict[str, Any]) -> None:
        result["config"]["training"]["learning_rate"] = 0.25
        for x in result["results"]:
            x["value"] /= 2

    runs = [copy_run(run, tmp_path / "one"), copy_run(run, tmp_path / "two", change)]
    better = pl.read_parquet(runs[1] / "ranks.parquet").with_columns(pl.col("rank") // 2)
    better.write_parquet(runs[1] / "ranks.parquet")
    page = read_page(write_comparison(runs))
    (overview,) = section(page, "runs").all("table")
    verdicts = [x.text for x in section(read_page(run / "report.html"), "answer").all("p")]
    assert all(x.removesuffix(".") in overview.text for x in verdicts)
    test, validation, differences = section(page, "reached").all("table")
    own = better.filter(split="test", model="SASRec")["rank"]
    gain = [1 / (rank + 1) for rank in own]
    (mrr,) = [x["value"] for x in result["results"] if reached(x) == ("SASRec", "test", "mrr")]
    assert pytest.approx(mean(gain) - mrr) in [*numbers(differences)["two − one"]]
    assert "two ranks better than one: test NDCG@10 +" in section(page, "answer").text
    for table, split in ((test, "test"), (validation, "validation")):
        assert numbers(table) == {
            f"{name}: {model}": {
                x["value"] / by
                for x in result["results"]
                if (x["model"], x["split"]) == (model, split)
            }
            for name, by in (("one", 1), ("two", 2))
            for model in ("Popularity", "Markov", "SASRec")
        }
    assert "0.25" in section(page, "settings").text
    charts = {x["key"]: [t["name"] for t in x["data"]] for x in charts_of(page)}
    assert charts == {"ndcg": ["one", "two"], "loss": ["one", "two"], "compared": ["two − one"]}


def reached(x: dict[str, Any]) -> tuple[str, str, str]:
    return x["model"], x["split"], x["metric"]


def test_trainings_on_other_data_are_not_compared_in_pairs(run: Path, tmp_path: Path):
    def change(result: dict[str, Any]) -> None:
        result["dataset_stats"]["identity"] = "other"

    page = read_page(
        write_comparison([run, copy_run(run, tmp_path / "two", change)], tmp_path / "x")
    )
    assert "the same questions" in section(page, "answer").text
    assert len(section(page, "reached").all("table")) == 2


def test_a_mixture_is_compared_too(tmp_path: Path):
    settings = {**SETTINGS, "mixture": "Markov", "baselines": ["Popularity"]}
    page = read_page(train(load_train(settings), tmp_path / "run") / "report.html")
    (_, _, differences) = section(page, "reached").all("table")
    assert {*numbers(differences)} == {
        "SASRec − Popularity", "SASRec+Markov − Popularity", "SASRec+Markov − SASRec",
    }  # fmt: skip
    assert section(page, "answer").text.count("NDCG@10") == 3


def test_trainings_and_experiments_do_not_share_a_page(run: Path, tmp_path: Path):
    other = copy_run(run, tmp_path / "r", lambda result: result.update(mode="compare"))
    with pytest.raises(InputError, match=r"is no training, and .* is a training: leave it out"):
        write_comparison([run, other])


def test_validate_lists_every_fault_of_a_training_and_of_its_data(
    capsys: pytest.CaptureFixture[str],
):
    assert cli.main(["validate", "sequences-demo"]) == 0
    assert "sequences-demo: ok" in capsys.readouterr().out
    assert cli.main(["validate", "beauty-sasrec"]) == 0
    assert "not checked: pass --data" in capsys.readouterr().out
    wrong = ["training.epochs=0", "model.widht=3", "evaluation.k=[5000]"]
    assert cli.main(["validate", "sequences-demo", *(f"--set={x}" for x in wrong)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    for text in ("epochs = 0", "did you mean width", "there are 400 items"):
        assert sum(text in line for line in said) == 1


def test_the_schema_of_a_training_describes_every_setting(capsys: pytest.CaptureFixture[str]):
    assert cli.main(["schema", "--train"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert set(SETTINGS) <= {*schema["properties"]}
    for block in (schema, *schema["$defs"].values()):
        for name, setting in block.get("properties", {}).items():
            assert setting.get("description"), (block["title"], name)


def test_the_docs_list_the_keys_and_columns_of_a_training(result: dict[str, Any]):
    for heading, schema in (
        ("### metrics.parquet of a training", TABLE), ("### ranks.parquet", RANKS),
    ):  # fmt: skip
        listed = [(x[0].strip("`"), x[1]) for x in rows_of("results.md", heading)]
        assert listed == [(name, str(kind)) for name, kind in schema.items()]
    said = (DOCS / "results.md").read_text(encoding="utf-8")
    shared = said.split("### result.json of a training\n")[1].split(" as above")[0]
    own = {k for k in keys_of("### result.json of a training") if k in result}
    assert own | {*re.findall(r"`(\w+)`", shared)} == {*result}
    assert keys_of("### results") == [*result["results"][0]]
    assert keys_of("### compared") == [*result["compared"][0]]
    metrics = " ".join(rows_of("results.md", "### results")[2])
    assert all(f"`{x['metric']}`" in metrics for x in result["results"])


def test_perf_says_where_the_time_of_a_training_went(run: Path, result: dict[str, Any]):
    perf = read_perf(run)
    seconds = {name.removesuffix("_seconds"): x for name, x in result["timing"].items()}
    assert sum(perf.phases.values()) == pytest.approx(seconds["total"])
    assert perf.phases["training: validation"] == seconds["validation"] > 0
    assert perf.phases["training: updates"] == seconds["training"] - seconds["validation"] > 0
    for advice in advise(perf):
        assert not re.search("experiment|simulation|replications", advice.change)


def test_a_training_is_imported_into_tensorboard_once(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("tensorboard")
    folder = copy_run(run, tmp_path / "r")
    for again in (False, True):
        assert cli.main(["track", str(folder), "--to", "tensorboard"]) == 0
        assert ("sent 0 points" in capsys.readouterr().out) == again


def test_a_training_has_nothing_to_export_and_says_where_its_network_is(run: Path):
    with pytest.raises(
        InputError, match=r"is a training: .*checkpoints/(best/\w+\.safetensors)"
    ) as e:
        api.load_model(run)
    (found,) = re.findall(r"checkpoints/\S+", str(e.value))
    assert (run / found).is_file()
