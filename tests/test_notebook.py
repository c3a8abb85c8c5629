"""The notebooks of docs/ run, and what they say in words is what their numbers say."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import nbformat
import pytest

from tools import notebooks

PATHS = sorted(notebooks.FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", PATHS, ids=lambda x: x.stem)
def test_the_stored_outputs_are_those_of_the_cells(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata[notebooks.KEY] == notebooks.digest(notebook), "run tools/notebooks.py"
    assert path.stat().st_size < 250_000
    assert len(notebook.cells) <= 11
    text = path.read_text()
    assert "Traceback" not in text and "/tmp/" not in text
    assert all(x.outputs or "config" in x.source for x in notebook.cells if x.cell_type == "code")


def test_every_cell_runs_in_a_kernel_and_the_answer_is_the_one_it_explains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("REALDATAEXP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = notebooks.run(notebooks.FOLDER / "first_look.ipynb", tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output.data for output in outputs if "data" in output]
    html = next(x["text/html"] for x in shown if "realdataexp" in x.get("text/html", ""))
    assert "Biased: snapshot, pooling." in html
    assert "Unbiased as far as these replications can tell: shadow." in html
    assert 'href="results/' in html  # the links work from where the notebook is
    assert sum("image/png" in x for x in shown) == 2  # the answers, and the biases
    (pooling,) = re.findall(r'data-design="pooling">.*?</tr>', html)[:1]
    assert "overstates the effect" in pooling  # the text says overstated


def near(value: float, expected: float, share: float = 0.35) -> bool:
    return abs(value - expected) <= share * abs(expected)


def truth(n: Any, label: str) -> Any:
    """The row of a label's true effect."""
    return n["result"].answers.filter(design="global", label=label).row(0, named=True)


def one(table: Any, column: str, **where: Any) -> Any:
    """The value of a column in the only row of which all this is true."""
    return table.filter(**where)[column].item()


def found(n: Any) -> Any:
    """The demo's tests whose interval excludes 0."""
    return n["tests"].filter((n["pl"].col("ci_low") > 0) | (n["pl"].col("ci_high") < 0))


def auc(n: Any, label: str) -> float:
    return one(n["result"].last_metrics, "value", phase="pretrain", metric="auc", label=label)


def share(row: Any) -> float:
    """The bias of a row of comparison, in percent of the effect."""
    return 100 * row["bias"].item() / row["gte"].item()


def shares(n: Any, design: str) -> list[float]:
    """The bias of a design at each size of the change, in percent of the effect."""
    return n["finish"].filter(design=design)["bias_percent"].to_list()


# what a notebook says, and whether its numbers do: on any machine, so with some play
CLAIMS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "demo": {
        "Play time (in milliseconds) rises by about a sixth, and clicks fall by about a tenth": (
            lambda n: (
                near(truth(n, "play_time")["percent"], 100 / 6)
                and near(truth(n, "click")["percent"], -10)
            )
        ),
        "neither interval holds 0": lambda n: all(
            x["ci_low"] * x["ci_high"] > 0 for x in n["truth"].iter_rows(named=True)
        ),
        "**Most of the 16 tests miss the effect**": lambda n: (
            n["tests"].height == 16 and found(n).height < 8
        ),
        "the few tests that find it overstate it, by about half on average": lambda n: near(
            found(n)["value"].mean() / truth(n, "play_time")["value"], 1.5
        ),
        "for play time about twice what the launch brings": lambda n: near(
            one(n["result"].power, "mde_honest", label="play_time"),
            2 * truth(n, "play_time")["value"],
        ),
    },
    "new_model": {
        "the new model has the higher AUC, if not by much": lambda n: (
            0 < auc(n, "new") - auc(n, "old") < 0.05
        ),
        "the interval of the effect lies above 0": lambda n: truth(n, "finish")["ci_low"] > 0,
        "On average both designs come within a third of the truth": lambda n: all(
            abs(x["bias"]) < x["gte"] / 3 for x in n["result"].comparison.iter_rows(named=True)
        ),
        "(*inconclusive*)": lambda n: "Inconclusive" in n["result"]._repr_html_(),
        "the SD of a single test is nearly as large as the effect": lambda n: near(
            one(n["result"].comparison, "sd", design="pooling") / truth(n, "finish")["value"], 0.8
        ),
        "The true effect is exactly 0.": lambda n: (
            one(n["same"].answers, "value", design="global") == 0
        ),
        "not 0 but the same small number for both designs": lambda n: (
            one(n["same"].answers, "value", design="pooling")
            == one(n["same"].answers, "value", design="shadow")
            != 0
        ),
    },
    "own_data": {
        "It would double the minutes per visit and more than halve the saves.": lambda n: (
            near(truth(n, "minutes")["percent"], 100, 0.2) and truth(n, "saved")["percent"] < -50
        ),
        "both designs' answers are close to the truth": lambda n: all(
            near(x["estimate"], x["gte"], 0.15)
            for x in n["result"].comparison.iter_rows(named=True)
        ),
        "`pooling`, the usual test, overstates the loss of saves by a few percent": lambda n: (
            1 < share(n["result"].comparison.filter(design="pooling", label="saved")) < 15
        ),
        "a fifth of the users only validate": lambda n: near(
            n["counts"]["n_held_out_users"] / n["n_users"], 0.2
        ),
    },
    "sweep": {
        "the subtle change (2) about twice as large as it is": lambda n: near(
            shares(n, "pooling")[0], 100
        ),
        "the drastic one (10) only a few percent too large": lambda n: (
            0 < shares(n, "pooling")[2] < 10
        ),
        "**The smaller the change, the worse.**": lambda n: (
            shares(n, "pooling") == sorted(shares(n, "pooling"), reverse=True)
        ),
        "Its bias does not grow with the effect": lambda n: (
            n["finish"].filter(design="pooling")["bias"].max() < 0.1 < n["finish"]["gte"].max()
        ),
        "`shadow` stays within a fifth of the truth at every size": lambda n: all(
            abs(x) < 20 for x in shares(n, "shadow")
        ),
    },
}


@pytest.mark.parametrize("name", CLAIMS)
def test_what_a_notebook_says_is_what_its_numbers_say(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its cells run in this process, which spares a kernel."""
    monkeypatch.setenv("REALDATAEXP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    cells = nbformat.read(notebooks.FOLDER / f"{name}.ipynb", as_version=4).cells
    names: dict[str, Any] = {"__name__": name}
    for cell in cells:
        if cell.cell_type == "code":
            exec(compile(ast.parse(cell.source), name, "exec"), names)
    words = " ".join(" ".join(x.source for x in cells if x.cell_type == "markdown").split())
    for sentence, holds in CLAIMS[name].items():
        assert sentence in words, sentence
        assert holds(names), sentence


def test_every_notebook_has_claims_and_stands_in_the_gallery():
    assert {x.stem for x in PATHS} == {"first_look", *CLAIMS}
    gallery = (notebooks.FOLDER.parent / "gallery.md").read_text()
    assert all(f"notebooks/{x.name}" in gallery for x in PATHS)
