"""The notebook of docs/ runs, and what it says in words is what its numbers say."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "first_look.ipynb"


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert NOTEBOOK.stat().st_size < 20_000
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_every_cell_runs_and_the_answer_is_the_one_it_explains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("REALDATAEXP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    shown = [output.data for output in outputs if "data" in output]
    html = next(x["text/html"] for x in shown if "realdataexp" in x.get("text/html", ""))
    assert "Biased: snapshot, pooling." in html
    assert "Unbiased as far as these replications can tell: shadow." in html
    assert 'href="results/' in html  # the links work from where the notebook is
    assert sum("image/png" in x for x in shown) == 2  # the answers, and the biases
    (pooling,) = re.findall(r'data-design="pooling">.*?</tr>', html)[:1]
    assert "overstates the effect" in pooling  # the text says overstated
