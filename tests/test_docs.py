"""README and docs show only commands that work: every one of them is run here."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BIN = Path(sys.executable).parent


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL):
            found.append((page.name, block))
    return found


def commands() -> list[tuple[str, str]]:
    lines = [(page, line) for page, block in blocks("sh") for line in block.splitlines()]
    return [(page, line) for page, line in lines if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data/KuaiRand-Pure in it, as a reader of the README has."""
    folder = tmp_path_factory.mktemp("reader")
    run(
        [
            "realdataexp",
            "synth",
            "data/KuaiRand-Pure",
            "--users",
            "300",
            "--videos",
            "200",
            "--rows",
            "9000",
        ],
        folder,
    )
    return folder


def run(words: list[str], folder: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "REALDATAEXP_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_command_of_readme_and_docs_runs(workplace: Path) -> None:
    n_run = 0
    for page, line in commands():
        words = shlex.split(line)
        if words[0] == "make":  # what they run is tested; here only that the targets are there
            makefile = (ROOT / "Makefile").read_text()
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"{page}: {line}"
            continue
        if words[0] == "python":
            assert (ROOT / words[1]).is_file(), f"{page}: {line}"
            small = ["--data", "data/KuaiRand-Pure", "--steps", "2", "--replications", "1"]
            run([sys.executable, str(ROOT / words[1]), *small], workplace)
            continue
        assert words[0] == "realdataexp", f"{page}: {line}"
        if words[1] == "run":
            # the same command, at a size that suits a test
            words += ["--set", "simulation.n_steps=3", "--set", "experiment.replications=2"]
        if words[1] == "plan":
            words[words.index("--steps") + 1] = "3"
            words[words.index("--retrain-every") + 1] = "1,3"
            words += ["--set", "experiment.replications=2"]
        run(words, workplace)
        n_run += 1
    assert n_run >= 9


def test_python_of_the_readme_runs(workplace: Path) -> None:
    ran = 0
    for page, block in blocks("python"):
        if page == "README.md":
            run([sys.executable, "-c", block], workplace)
            ran += 1
    assert ran == 1


def test_the_outside_design_of_the_architecture_page_runs(workplace: Path) -> None:
    code = next(b for p, b in blocks("python") if p == "architecture.md" and "(Design)" in b)
    listed = next(b for p, b in blocks("yaml") if p == "architecture.md")
    (workplace / "my_designs.py").write_text(code)
    designs = yaml.safe_load(listed)["experiment"]["designs"]
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "import realdataexp as rx\n"
        "result = rx.run('demo', ['simulation.n_steps=12', 'experiment.replications=2', "
        f"{'experiment.designs=' + str(designs)!r}])\n"
        "print(result.comparison['design'].unique().sort().to_list())\n"
    )
    assert run([sys.executable, "-c", script], workplace).strip() == "['Alternating', 'pooling']"


def test_the_chinese_readme_shows_the_same_blocks_files_and_links() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
    for pattern in (r"```.*?```", r"^\| `.*?` \|", r"\]\((docs/[^)]*)\)"):
        found = [re.findall(pattern, x, re.DOTALL | re.MULTILINE) for x in (english, chinese)]
        assert found[0] == found[1] and found[0], pattern
