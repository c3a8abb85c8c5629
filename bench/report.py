"""A suite's results as JSON and as Markdown, and what became worse since a baseline.

A baseline holds ratios of figures to their floors and peers, never times: those drift with the
machine, and its floors drift with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from realdataexp.errors import InputError
from realdataexp.files import write_json, write_text
from realdataexp.report.numbers import number

SCHEMA_VERSION = 1
TOLERANCE = 1.2
"""A ratio that is worse by more than this factor is reported."""

KINDS = {"floor": "its floor", "peer": "what one would do otherwise"}


@dataclass(frozen=True)
class Baseline:
    """Ratios of an earlier suite.

    Attributes:
        processor: the CPU's model; a baseline says nothing of another's, whose products and memory
            differ in speed from each other in another way.
        machine: where it was measured, in a line.
        ratios: of each figure, as "measurement: name", to its floor and its peer.
    """

    processor: str
    machine: str
    ratios: dict[str, dict[str, float]]


def own_baselines() -> Path:
    """The package's own baselines."""
    return Path(__file__).with_name("baseline.json")


def read_baselines(path: Path, option: str) -> dict[str, Baseline]:
    """The baselines of a file, by workload; ``option`` is what names it.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        baselines = {
            name: Baseline(str(x["processor"]), str(x["machine"]), x["ratios"])
            for name, x in found.items()
        }
        for baseline in baselines.values():
            if not all(x[k] > 0 for x in baseline.ratios.values() for k in KINDS if k in x):
                raise ValueError
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = "holds no baselines; give a file that --save-baseline wrote"
        raise InputError(f"{option} {path}: {text}") from error
    return baselines


def save_baseline(path: Path, result: Mapping[str, Any]) -> None:
    """Put a suite's ratios into a file of baselines, in the place of those of its workload."""
    there = read_baselines(path, "--save-baseline") if path.exists() else {}
    machine, before = result["machine"], there.get(result["workload"])
    is_same = before is not None and before.processor == machine["processor"]
    ratios = before.ratios if before is not None and is_same else {}
    for figure in result["figures"]:
        found = {kind: figure[kind]["ratio"] for kind in KINDS if figure[kind]}
        if found:
            ratios[_name(figure)] = found
    there[result["workload"]] = Baseline(machine["processor"], machine_line(machine), ratios)
    write_json(path, {name: asdict(baseline) for name, baseline in there.items()})


def compare(
    figures: Sequence[Mapping[str, Any]], baseline: Baseline, processor: str
) -> dict[str, Any]:
    """Which ratios are worse than the baseline's by more than 20 %.

    Args:
        figures: the suite's.
        baseline: of an earlier suite.
        processor: the CPU's model; where it is not the baseline's, nothing is compared.

    Returns:
        ``machine`` and ``processor`` of the baseline, ``n_compared`` ratios, and ``regressions``:
        figure, kind ("floor" or "peer"), ratio, baseline, and ``factor``, how many times worse it
        is.
    """
    n_compared, regressions = 0, []
    for figure in figures if processor == baseline.processor else ():
        stored = baseline.ratios.get(_name(figure), {})
        for kind in KINDS:
            if kind not in stored or figure[kind] is None:
                continue
            n_compared += 1
            ratio, was = figure[kind]["ratio"], stored[kind]
            factor = was / ratio if figure["better"] == "higher" else ratio / was
            if factor > TOLERANCE:
                found = {"figure": _name(figure), "kind": kind, "better": figure["better"]}
                regressions.append({**found, "ratio": ratio, "baseline": was, "factor": factor})
    return {
        "machine": baseline.machine,
        "processor": baseline.processor,
        "n_compared": n_compared,
        "regressions": regressions,
    }


def write(folder: Path, result: Mapping[str, Any]) -> None:
    """Write bench.json and bench.md, each whole or not at all."""
    write_json(folder / "bench.json", result)
    write_text(folder / "bench.md", markdown(result))


def machine_line(machine: Mapping[str, Any]) -> str:
    """A machine in a line."""
    return (
        f"{machine['processor']}, {machine['n_cpus']} CPUs, "
        f"{machine['memory_gb']:.0f} GB, Python {machine['python']}, PyTorch {machine['torch']}"
    )


def markdown(result: Mapping[str, Any]) -> str:
    """The page of a suite."""
    machine = result["machine"]
    lines = [
        "# Benchmark",
        "",
        f"{result['workload']}; seed {result['seed']}; {machine_line(machine)}. In this run sgemm "
        f"did {number(machine['gflops'])} GFLOP/s, and a copy moved {number(machine['gb_s'])} "
        "GB/s.",
        "",
        "*floor*: the best that this machine could do. *otherwise*: what one would write or do "
        "without the package. × is the figure over it: higher is better for figures marked ↑, "
        "lower for those marked ↓.",
    ]
    if result["status"] != "complete":
        lines += ["", f"**{result['status']}**: not all that was asked for was measured."]
    for name, title in result["measurements"].items():
        figures = [figure for figure in result["figures"] if figure["measurement"] == name]
        if figures:
            lines += ["", f"## {name}: {title}", "", *_table(figures)]
    lines += ["", *_comparison(result["comparison"], machine["processor"])]
    return "\n".join(lines) + "\n"


def _table(figures: Sequence[Mapping[str, Any]]) -> list[str]:
    """A measurement's figures, without the columns that none of them has."""
    columns = {"floor": "floor | ×", "peer": "otherwise | ×", "limit": "limit", "note": "note"}
    used = [name for name in columns if any(figure[name] for figure in figures)]
    heads = ["figure", "measured", *(columns[name] for name in used)]
    ruler = "|---|---:|" + "".join(
        {"limit": "---:|", "note": "---|"}.get(x, "---|---:|") for x in used
    )
    return [f"| {' | '.join(heads)} |", ruler, *(_row(figure, used) for figure in figures)]


def _row(figure: Mapping[str, Any], columns: Sequence[str]) -> str:
    arrow = {"higher": "↑", "lower": "↓"}[figure["better"]]
    cells = [f"{figure['name']} {arrow}", f"{number(figure['value'])} {figure['unit']}"]
    for column in columns:
        value = figure[column]
        if column in KINDS:
            cells += (
                [f"{number(value['value'])}: {value['what']}", number(value["ratio"])]
                if value
                else ["", ""]
            )
        elif column == "limit":
            verdict = "" if value is None else "within" if figure["value"] <= value else "**over**"
            cells.append("" if value is None else f"{number(value)}: {verdict}")
        else:
            n = figure["n_repeats"]
            cells.append("; ".join([*[f"median of {n}"] * (n > 1), *[value] * bool(value)]))
    return f"| {' | '.join(cells)} |"


def _comparison(found: Mapping[str, Any] | None, processor: str) -> list[str]:
    lines = ["## Against the baseline", ""]
    if found is not None and found["processor"] != processor:
        return [
            *lines,
            f"The baseline is of another CPU, {found['processor']}, and this is {processor}: "
            "nothing was compared. --save-baseline makes one of this CPU.",
        ]
    if found is None or not found["n_compared"]:
        return [*lines, "No baseline of this workload and these figures: nothing was compared."]
    where = f"the baseline of {found['machine']}"
    if not found["regressions"]:
        text = f"None of {found['n_compared']} ratios is more than 20 % worse than in {where}."
        return [*lines, text]
    lines += [
        f"**{len(found['regressions'])} of {found['n_compared']} ratios are more than 20 % worse** "
        f"than in {where}:",
        "",
        "| figure | over | ratio | was | times worse |",
        "|---|---|---:|---:|---:|",
    ]
    for x in found["regressions"]:
        cells = [x["figure"], KINDS[x["kind"]], *(number(x[k]) for k in ("ratio", "baseline"))]
        lines.append(f"| {' | '.join(cells)} | {x['factor']:.2f} |")
    return lines


def _name(figure: Mapping[str, Any]) -> str:
    return f"{figure['measurement']}: {figure['name']}"
