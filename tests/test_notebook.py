"""The notebook of docs/ runs, and what it says in words is what its numbers say."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from tools import notebooks

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "first_look.ipynb"


def test_the_stored_outputs_are_those_of_the_cells():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata[notebooks.KEY] == notebooks.digest(notebook), "run tools/notebooks.py"
    assert NOTEBOOK.stat().st_size < 250_000
    text = NOTEBOOK.read_text()
    assert "Biased: snapshot, pooling." in text and "image/png" in text
    assert "Traceback" not in text and "/tmp/" not in text


def test_every_cell_runs_and_the_answer_is_the_one_it_explains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("REALDATAEXP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = notebooks.run(NOTEBOOK, tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output.data for output in outputs if "data" in output]
    html = next(x["text/html"] for x in shown if "realdataexp" in x.get("text/html", ""))
    assert "Biased: snapshot, pooling." in html
    assert "Unbiased as far as these replications can tell: shadow." in html
    assert 'href="results/' in html  # the links work from where the notebook is
    assert sum("image/png" in x for x in shown) == 2  # the answers, and the biases
    (pooling,) = re.findall(r'data-design="pooling">.*?</tr>', html)[:1]
    assert "overstates the effect" in pooling  # the text says overstated
