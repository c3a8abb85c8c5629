"""Runs the notebooks of docs/notebooks/ and stores their outputs: `python tools/notebooks.py`.

A notebook keeps the digest of the cells that its outputs are of; one whose digest still fits is
left as it is (``--all`` runs all again). A test compares digests, and runs the cells again.

For the site this file is a hook of MkDocs, which makes a page of each notebook.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tempfile
from html import escape
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


# --- a notebook as a page of the site -------------------------------------------------------------


def page(path: Path) -> str:
    """A notebook with its outputs as Markdown."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    (title, *parts) = [part for cell in cells for part in _cell(cell)]
    head, _, rest = title.partition("\n")
    link = f'<p><a href="{path.name}" download>Download this notebook</a> to run it yourself.</p>'
    return "\n\n".join([head, link, rest.strip(), *parts]) + "\n"


def _cell(cell: dict[str, Any]) -> list[str]:
    """A cell and its outputs."""
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return [source]
    made_by = source.strip().splitlines()[-1]
    return [f"```python\n{source}\n```", *(_output(x, made_by) for x in cell["outputs"])]


def _output(output: dict[str, Any], made_by: str) -> str:
    """An output: a figure, what a browser shows, or text."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        content = "".join(data["image/png"]).replace("\n", "")
        named = "(" in made_by
        about = escape(f"The figure that {made_by} returns" if named else "The figure drawn above")
        return f'<p><img alt="{about}" src="data:image/png;base64,{content}"></p>'
    if "text/html" in data:  # its links lead to files of the folder in which it ran
        html = re.sub(r"<a href=\"[^\"]*\">(.*?)</a>", r"\1", "".join(data["text/html"]))
        return f'<div class="output">{html}</div>'
    return f"```text\n{''.join(data['text/plain'])}\n```"


def on_files(files: Any, config: Any) -> Any:
    """MkDocs: a page for each notebook, beside the notebook itself."""
    from mkdocs.structure.files import File

    for path in sorted(FOLDER.glob("*.ipynb")):
        name = path.with_suffix(".md").relative_to(config.docs_dir).as_posix()
        files.append(File.generated(config, name, content=page(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs: a link to a notebook, which a repository's website shows, leads to its page."""
    return re.sub(r"(\]\([\w/.-]+)\.ipynb\)", r"\1.md)", markdown)


def main() -> None:
    """Run the notebooks whose cells have changed."""
    import nbformat

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--all", action="store_true", help="run those too that are up to date")
    args = parser.parse_args()
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        if args.all or notebook.metadata.get(KEY) != digest(notebook):
            store(path)
            print(f"wrote {path.relative_to(FOLDER.parents[1])}")


if __name__ == "__main__":
    main()
