"""README and docs show only commands that work: every one of them is run here."""

import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import processes
import pytest
import yaml

import realdataexp as rx
from bench.suite import MEASUREMENTS
from realdataexp import cli
from realdataexp.config import load_config
from realdataexp.config.load import read_draft
from realdataexp.config.points import Asked, load_points
from realdataexp.diagnose.claims import claims_of
from realdataexp.runs.panel import Panel

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


def files() -> list[tuple[str, str, str]]:
    """Page, name and content of the blocks that begin with the name of a file, to be saved."""
    shown = [(page, block) for kind in ("python", "yaml") for page, block in blocks(kind)]
    named = [(page, re.match(r"# (\w+\.(?:py|yaml))\n", block), block) for page, block in shown]
    return [(page, name[1], block) for page, name, block in named if name]


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
    # as a download leaves it: the same command then finds that all is there
    data = folder / "data" / "KuaiRand-Pure"
    sizes = {x.relative_to(data).as_posix(): x.stat().st_size for x in data.glob("data/*.csv")}
    marker = {"name": "KuaiRand-Pure", "files": sizes}
    (data / ".download.json").write_text(json.dumps(marker))
    return folder


def run(words: list[str], folder: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "REALDATAEXP_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    done = processes.run(words, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def reader(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The workplace as the current folder of this process, for commands that run in it."""
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(str(workplace))
    monkeypatch.setenv("REALDATAEXP_CACHE", str(workplace / "cache"))
    return workplace


DRAWN_LATER = ["--set", "logging.pictures=false"]
# the same command, at a size that suits a test
SMALL = [
    "--set", "simulation.n_steps=3", "--set", "experiment.replications=2",
    "--set", "pretrain.epochs=1", "--set", "pretrain.max_rows=256", *DRAWN_LATER,
]  # fmt: skip


def shorten(words: list[str]) -> None:
    """Make a command small, in place: fewer steps, and fewer points of what it varies."""
    if words[1] in ("run", "plan", "sweep", "observe"):
        words += SMALL
    if words[1] == "sweep":  # two points of a grid
        options = [i for i, word in enumerate(words[:-1]) if word == "--grid"]
        for i, n in zip(options, (2, 1), strict=False):
            words[i + 1] = ",".join(words[i + 1].split(",")[:n])
        words += ["--set", "experiment.designs=[pooling]"]
    if words[1] == "score" and "--compare" not in words:
        words += ["--quick"]
    if "--shards" in words:
        words += ["--set", "experiment.replications=4"]
    if words[1] == "train":
        words += ["--set", "training.epochs=1", *DRAWN_LATER]
        if "--diagnose" not in words:  # checks tell sound trainings of too few users from none
            words += ["--set", "dataset.synthetic.users=300"]
    if words[1] == "plan":
        words[words.index("--steps") + 1] = "3"
        words[words.index("--p") + 1] = words[words.index("--p") + 1].split(",")[-1]
        if "--retrain-every" in words:
            words[words.index("--retrain-every") + 1] = "1,3"


@pytest.fixture
def few_designs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A score card of two designs and two steps; tests/runs/test_scoring.py has whole ones."""
    real = Panel.read()
    few = {"simulation.n_steps": 2, "pretrain.max_rows": 256, "pretrain.epochs": 1}
    small = {"designs": real.designs[:2], "quick": {**real.quick, **few}}
    monkeypatch.setattr(Panel, "read", classmethod(lambda cls: real.model_copy(update=small)))


@pytest.mark.usefixtures("few_designs")
def test_every_command_of_readme_and_docs_runs(
    reader: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _, name, block in files():
        (reader / name).write_text(block)
    n_run = 0
    for page, line in commands():
        words = shlex.split(line.removeprefix("PYTHONPATH=. "))
        if words[0] == "make":  # what they run is tested; here only that the targets are there
            makefile = (ROOT / "Makefile").read_text()
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE), f"{page}: {line}"
            names = [word.removeprefix("BENCH=").split()[0] for word in words[2:]]
            assert MEASUREMENTS.keys() >= {*names}, f"{page}: {line}"
            continue
        if words[0] == "python" and (reader / words[1]).is_file():
            run([sys.executable, *words[1:]], reader)
            continue
        if words[0] == "python":
            assert (ROOT / words[1]).is_file(), f"{page}: {line}"
            small = ["--data", "data/KuaiRand-Pure", "--steps", "2", "--replications", "1"]
            run([sys.executable, str(ROOT / words[1]), *small], reader)
            continue
        assert words[0] == "realdataexp", f"{page}: {line}"
        shorten(words)
        code = cli.main(words[1:])
        said = capsys.readouterr()
        assert code == 0, f"{page}: {line}\n{said.out}\n{said.err}"
        n_run += 1
    assert n_run >= 30


# Run by tests of their own: below, and in tests/data/test_ready_data.py.
RUN_ELSEWHERE = ("architecture.md", "ready-data.md")


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python runs is as small as the commands are."""
    few = SMALL[1::2]
    for name in ("load_config", "run", "sweep"):
        real = getattr(rx, name)

        def small(config: Any, overrides: Any = (), *, real: Any = real, **more: Any) -> Any:
            own = [x for x in few if x.split("=")[0] not in more.get("grid", ())]
            given = [*overrides, *own] if isinstance(config, str) else overrides
            return real(config, given, **more)

        monkeypatch.setattr(rx, name, small)


@pytest.mark.usefixtures("small_runs")
def test_python_of_readme_and_docs_runs(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = [block for _, _, block in files()]
    ran = []
    for page, block in blocks("python"):
        code = compile(block, page, "exec")
        if page not in RUN_ELSEWHERE and block not in saved:
            exec(code, {"__name__": page})
            ran.append((page, capsys.readouterr().out))
    assert {"README.md", "api.md"} <= {page for page, _ in ran}
    (said,) = [said for page, said in ran if page == "README.md"]
    (shown,) = re.findall(r"```\n(┌.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    table = said[said.index("┌") :].splitlines()
    for i in (1, 2, 3):  # the columns and their types; the numbers are those of the whole demo
        assert table[i].replace(" ", "") == shown.splitlines()[i].replace(" ", "")


def test_every_config_shown_is_one_that_the_schema_takes(reader: Path) -> None:
    """Whole configs, and blocks of one, which stand in for those of the demo."""
    demo = read_draft("demo").values
    for _, name, content in files():
        (reader / name).write_text(content)
    shown = blocks("yaml")
    for page, block in shown:
        values = yaml.safe_load(block)
        assert isinstance(values, dict), f"{page}: {block}"
        if "claims" in values:
            claims_of(values, page)
            continue
        if values.keys() <= {"grid", "zip", "points"}:
            asked = Asked()
            asked.add_file(reader / re.match(r"# (\w+\.yaml)\n", block)[1])
            load_points("demo", asked.points())
            continue
        is_whole = re.match(r"# \w+\.yaml\n", block)
        load_config(values if is_whole else {**demo, **values})
    assert len(shown) >= 5


@pytest.mark.usefixtures("small_runs")
def test_the_outside_design_of_the_architecture_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = next(b for p, b in blocks("python") if p == "architecture.md" and "(Design)" in b)
    listed = next(b for p, b in blocks("yaml") if p == "architecture.md")
    (tmp_path / "my_designs.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_designs", raising=False)  # another page's
    designs = yaml.safe_load(listed)["experiment"]["designs"]
    result = rx.run("demo", [f"experiment.designs={designs}"])
    monkeypatch.delitem(sys.modules, "my_designs")
    assert result.comparison["design"].unique().sort().to_list() == ["Alternating", "pooling"]


def test_the_chinese_readme_shows_the_same_blocks_files_and_links() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
    for pattern in (r"```.*?```", r"^\| `.*?` \|", r"\]\((docs/[^)]*)\)"):
        found = [re.findall(pattern, x, re.DOTALL | re.MULTILINE) for x in (english, chinese)]
        assert found[0] == found[1] and found[0], pattern


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", head.lower()) for head in heads)
    return {head.strip().replace(" ", "-") for head in plain}


@pytest.mark.parametrize("page", sorted(ROOT.glob("*.md")), ids=lambda page: page.name)
def test_links_of_the_pages_outside_docs_lead_somewhere(page: Path) -> None:
    """Those within docs/ are checked by the build of the site."""
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not re.match(r"https?://|mailto:", link):
            name, _, anchor = link.partition("#")
            target = ROOT / name if name else page
            assert target.exists(), f"{page.name}: {link}"
            assert not anchor or anchor in slugs(target), f"{page.name}: {link}"
