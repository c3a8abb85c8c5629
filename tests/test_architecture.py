"""How much of the package takes part in what: what a newcomer has to read, and what loads."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from realdataexp.registry import find

SRC = Path(__file__).parents[1] / "src" / "realdataexp"
MODULES = "sorted(name for name in sys.modules if name.split('.')[0] in {})"


def loaded(code: str, *packages: str, folder: Path) -> set[str]:
    """The modules of some packages that a program loads, in a process of its own."""
    names = MODULES.format(packages or ("realdataexp",))
    program = f"import sys\n{code}\nprint('LOADED', *{names})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    return set(line.split()[1:])


def test_the_config_passes_through_few_files():
    taking = re.compile(r"realdataexp\.config\b|\bconfig: Config\b")
    all_files = [(path, path.relative_to(SRC).with_suffix("").parts) for path in SRC.rglob("*.py")]
    files = [path for path, parts in all_files if "config" not in parts]
    known = [path for path in files if taking.search(path.read_text(encoding="utf-8"))]
    assert len(known) <= 31, sorted(map(str, known))


def test_a_run_of_the_demo_loads_few_of_the_package_s_modules(tmp_path: Path):
    code = """
from realdataexp.cli import main
small = ["simulation.n_steps=2", "experiment.replications=2", "pretrain.max_rows=200"]
assert main(["run", "demo", "--quiet", *(x for s in small for x in ("--set", s))]) == 0
"""
    modules = loaded(code, "realdataexp", "torch", folder=tmp_path)
    assert 40 < sum(name.startswith("realdataexp") for name in modules) <= 129
    assert "torch" in modules and "torch._dynamo" not in modules  # it takes seconds


def test_help_loads_nothing_that_computes(tmp_path: Path):
    heavy = ("torch", "numpy", "polars", "scipy", "matplotlib")
    assert not loaded("import realdataexp", *heavy, folder=tmp_path)
    asked = [[], ["run"], ["validate"], ["report"]]
    code = f"from realdataexp.cli import main\nfor x in {asked}: assert main([*x, '--help']) == 0"
    assert not loaded(code, *heavy, folder=tmp_path)


def test_loading_a_config_loads_what_it_names_and_nothing_that_runs(tmp_path: Path):
    code = "from realdataexp.config import load_config\nload_config('demo')"
    assert not loaded(code, "scipy", "sklearn", "matplotlib", "rich", folder=tmp_path)
    ours = loaded(code, folder=tmp_path)
    for kind, named, other in (("model", "MLP", "DCNv2"), ("world", "synthetic", "si2023")):
        assert find(kind, named, named).__module__ in ours
        assert find(kind, other, other).__module__ not in ours
    for other in ("loop", "runs", "report"):
        assert f"realdataexp.{other}" not in ours


def test_files_of_tests_have_names_of_their_own():
    """Or pytest finds only one of two, in whichever process takes both."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted(x for x in set(names) if names.count(x) > 1) == []
