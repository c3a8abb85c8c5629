"""Runs the notebooks of docs/notebooks/ and stores their outputs: `python tools/notebooks.py`.

A notebook keeps the digest of the cells that its outputs are of; a test compares it, and runs the
cells again.
"""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
KEY = "outputs_of"


def digest(notebook: Any) -> str:
    """Of the code of a notebook's cells."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def run(path: Path, folder: Path) -> Any:
    """A notebook after its cells ran in a folder."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": folder}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    return notebook


def store(path: Path) -> None:
    """Run a notebook in an empty folder and write it with its outputs."""
    import nbformat

    with tempfile.TemporaryDirectory() as folder:
        notebook = run(path, Path(folder))
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":  # the log is not what a reader looks for
            cell.outputs = [x for x in cell.outputs if x.get("name") != "stderr"]
    notebook.metadata[KEY] = digest(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for notebook_path in sorted(FOLDER.glob("*.ipynb")):
        store(notebook_path)
        print(f"wrote {notebook_path.relative_to(FOLDER.parents[1])}")
