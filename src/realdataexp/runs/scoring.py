"""The score card: a design, and the built-in ones, on a fixed panel of worlds.

score.yaml says what was asked; points/<i>/ are run folders: of each world one with the built-in
designs and one with the design asked for, each with its own truth, which is the same in both, as no
world's result depends on which others are run. They are run as a sweep's points are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from realdataexp.config import Config
from realdataexp.config.cluster import ClusterConfig
from realdataexp.config.experiment import DesignConfig
from realdataexp.config.yaml_text import parse_yaml, read_text, to_yaml
from realdataexp.designs import build_design
from realdataexp.device import own_arithmetic
from realdataexp.errors import InputError, Warnings
from realdataexp.files import write_json, write_text
from realdataexp.options import check, damaged, show
from realdataexp.report.files import IntervalQuality, RunResult, is_complete, read_run
from realdataexp.report.page import write_score
from realdataexp.report.scores import CARD
from realdataexp.report.verdicts import Bias
from realdataexp.runs.folder import check_place, finite, make_folder
from realdataexp.runs.life import differences
from realdataexp.runs.machine import versions
from realdataexp.runs.panel import Kind, Panel, World, digest
from realdataexp.runs.progress import PhaseProgress
from realdataexp.runs.setup import set_up
from realdataexp.runs.several import Points, executor_for, hushed
from realdataexp.stats.scores import ROW_SCHEMA, summary

SCHEMA_VERSION = 1
ASKED = "score.yaml"
_METHODS = ("user_cluster", "welch")  # of units where a design has some, else of visits
_ELSEWHERE = ("logging", "base_dir", "device")  # settings that say where, not what
_VISITS = 1e6  # whose seconds are told


class _Asked(BaseModel):
    """score.yaml: the design, and what was asked besides."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = 1
    panel: int
    panel_digest: str
    design: Any
    data: str | None = None
    worlds: dict[str, World] = {}
    quick: bool = False

    @classmethod
    def of(cls, folder: Path) -> _Asked:
        """That of a card's folder; InputError where it is none, or damaged."""
        path = folder / ASKED
        try:
            values, _ = parse_yaml(read_text(path, str(path)), str(path))
            return cls.model_validate(values)
        except ValidationError as error:
            raise damaged(path, error, "score", "choose another --out") from None


@dataclass(frozen=True)
class _Run:
    """A point: what a world is run for, with which designs (none: the truth alone)."""

    world: str
    kind: Kind
    designs: tuple[str, ...]
    config: Config

    @property
    def name(self) -> str:
        """What it is called."""
        who = ", ".join(self.designs) or "the truth"
        return f"{self.world}, {self.kind}: {who if len(self.designs) < 3 else 'built-in designs'}"


def run_score(
    name: str,
    options: Sequence[str] = (),
    *,
    out: Path | None = None,
    data: Path | None = None,
    worlds: Sequence[str] = (),
    executor: str | None = None,
    n_processes: int | None = None,
    is_quick: bool = False,
    is_detailed: bool = False,
) -> tuple[Path, int]:
    """Make the card of a design, or go on with it; returns its folder, and how many runs failed.

    Args:
        name: a design's name, ``package.module:Name``, or ``{name, label, <options>}`` in YAML.
        options: more of its options, ``key=value`` each.
        out: its folder, new or of the same card.
        data: a KuaiRand-Pure folder, for the world that replays it.
        worlds: configs of the user's own, each a further world.
        executor: who runs the points; None: one after another, in this process.
        n_processes: of each run, as ``simulation.processes``.
        is_quick: few worlds, steps and replications: whether it runs, not how good it is.
        is_detailed: shows the runs' own lines.

    Raises:
        InputError: something given is wrong, and nothing was run.
        RunError: the disk is full, or the executor failed; the same call goes on from there.
        KeyboardInterrupt: interrupted; as above.
    """
    panel = Panel.read()
    design = _design(name, options)
    own = {Path(x).stem: World(title=x, config=x, is_own=True) for x in worlds}
    for twice in own.keys() & panel.worlds.keys():
        raise InputError(f"--world {twice}: the panel has a world of that name; rename the file")
    asked = _Asked(
        panel=panel.version, panel_digest=panel.digest, design=_plain(design),
        data=None if data is None else str(data.absolute()), worlds=own, quick=is_quick,
    )  # fmt: skip
    if executor is not None:
        executor_for(executor, out or Path(), ClusterConfig())
    if out is not None and (out / ASKED).exists():
        _require_same(out, asked)
    else:
        check_place(out, Path("results"))
    card = _Card(panel, design, asked, n_processes)
    if out is None or not (out / ASKED).exists():
        out = make_folder(out, Path("results"), "score").path
        write_text(out / ASKED, to_yaml(asked.model_dump(mode="json")))
    return card.run(out, executor, is_detailed)


def _design(name: str, options: Sequence[str]) -> DesignConfig:
    """The design asked for; one with options gets a name of its own beside the built-in one."""
    values, faults = parse_yaml(name, "DESIGN")
    given = {"name": values} if isinstance(values, str) else values
    if faults or not isinstance(given, Mapping):
        raise InputError(f"DESIGN = {name!r}: must be a name, or {{name: ..., <options>}}")
    own = dict(given)
    for text in options:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise InputError(f"--option {text[:60]}: must be KEY=VALUE, such as length=5")
        own[key.strip()], faults = parse_yaml(value, f"--option {key.strip()}")
        if faults:
            raise InputError(*faults)
    found = check(DesignConfig, own, "DESIGN")
    build_design(found.name, found.options, "DESIGN")
    if found.options and not own.get("label"):
        said = ", ".join(f"{k} {v}" for k, v in found.options.items())
        found = check(DesignConfig, {**own, "label": f"{found.label} ({said})"}, "DESIGN")
    if found.label in Panel.read().designs and _plain(found) != found.label:
        raise InputError(
            f"DESIGN: label = {found.label!r}: stands for the built-in design of this name; pass "
            "--option label=NAME"
        )
    return found


def _plain(design: DesignConfig) -> Any:
    """As a config has it."""
    return cast(Any, design.model_dump(mode="json"))


def resume_score(folder: Path, *, is_detailed: bool = False) -> tuple[Path, int]:
    """Go on with a card that was interrupted, or of which runs failed; as ``run_score``."""
    asked = _Asked.of(folder)
    return run_score(
        json.dumps(asked.design),  # JSON is YAML
        out=folder,
        data=None if asked.data is None else Path(asked.data),
        worlds=[world.config for world in asked.worlds.values()],
        is_quick=asked.quick,
        is_detailed=is_detailed,
    )


def _require_same(out: Path, asked: _Asked) -> None:
    """InputError where a folder holds another card."""
    there = _Asked.of(out)
    if changes := differences(there.model_dump(mode="json"), asked.model_dump(mode="json")):
        where, was, now = changes[0]
        raise InputError(
            f"{out}: holds another card, with {where} = {show(was)}, not {show(now)}: choose "
            "another --out"
        )


# --- its runs ------------------------------------------------------------------------------------


class _Card:
    """A card and its runs.

    Attributes:
        refused: why a design cannot run in a world, by both their names.
    """

    def __init__(
        self, panel: Panel, design: DesignConfig, asked: _Asked, n_processes: int | None
    ) -> None:
        self._panel, self._design, self._asked = panel, design, asked
        has_data = asked.data is not None
        known = panel.worlds | asked.worlds
        self._worlds = {
            k: x
            for k, x in known.items()
            if (has_data or not x.needs_data) and (not asked.quick or x.is_timed or x.is_own)
        }
        self._given: dict[str, Any] = {
            "data": Path(asked.data) if asked.data is not None else None,
            "is_quick": asked.quick,
            "n_processes": n_processes,
        }
        own = [] if design.label in panel.designs else [design.label]
        self.designs = [*panel.designs, *own]
        self.refused: dict[tuple[str, str], str] = {}
        self._check()
        self._runs = list(self._all_runs())

    def _config(self, world: str, kind: Kind, designs: Sequence[str]) -> Config:
        """That of a world, for designs by their labels."""
        own = self._design.label
        asked = [_plain(self._design) if x == own else x for x in designs]
        return self._panel.config(self._worlds[world], kind, asked, **self._given)

    @own_arithmetic()
    def _check(self) -> None:
        """Find who cannot run where.

        Raises:
            InputError: a world cannot be run at all, or the design in none.
        """
        own = self._design.label
        with PhaseProgress("check", len(self._worlds), "worlds") as progress:
            for world in self._worlds:
                if self._fault(world, self.designs):
                    if fault := self._fault(world, ()):
                        raise InputError(f"world {world}: {fault}")
                    for design in self.designs:
                        if fault := self._fault(world, [design]):
                            self.refused[world, design] = fault
                progress.advance(1)
        causes = [self.refused.get((world, own)) for world in self._worlds]
        if all(causes):
            raise InputError(f"{own}: runs in no world of the panel: {causes[0]}")

    def _fault(self, world: str, designs: Sequence[str]) -> str:
        """Why these designs cannot run in a world, or nothing."""
        try:
            with hushed():
                set_up(self._config(world, "effect", designs), Warnings())
        except InputError as error:
            return "; ".join(error.faults)
        return ""

    def _all_runs(self) -> Iterator[_Run]:
        """Every run: of the built-in designs, and of the design asked for where it is another."""
        for world, known in self._worlds.items():
            able = [x for x in self.designs if (world, x) not in self.refused]
            built_in = [x for x in able if x in self._panel.designs]
            others = [x for x in able if x not in self._panel.designs]
            kinds: tuple[Kind, ...] = ("effect", "aa")
            for kind in kinds:
                for designs in (built_in, others):
                    if designs:
                        yield self._run(world, kind, designs)
            if known.is_timed and not self._asked.quick:
                yield self._run(world, "timing", [])
                for design in able:
                    yield self._run(world, "timing", [design])

    def _run(self, world: str, kind: Kind, designs: Sequence[str]) -> _Run:
        return _Run(world, kind, tuple(designs), self._config(world, kind, designs))

    def run(self, folder: Path, executor: str | None, is_detailed: bool) -> tuple[Path, int]:
        """Run what is left, and write the card where all has been run."""
        names, configs = [x.name for x in self._runs], [x.config for x in self._runs]
        points = Points(folder, "score", configs, names)
        points.run(
            lambda: self._write(points), executor=executor, keep_going=True,
            is_detailed=is_detailed,
        )  # fmt: skip
        return folder, len(points.faults)

    # --- what they say ---------------------------------------------------------------------------

    def _write(self, points: Points) -> None:
        """Write score.json, its page and its picture, unless runs are left."""
        done = {i: read_run(x) for i, x in enumerate(points.places) if is_complete(x)}
        if len(done) + len(points.faults) < len(self._runs):
            return
        failed = {
            (run.world, run.kind, design): points.faults[i]
            for i, run in enumerate(self._runs)
            for design in run.designs
            if i in points.faults
        }
        found = {
            (run.world, run.kind, design): done[i]
            for i, run in enumerate(self._runs)
            for design in run.designs or ("",)
            if i in done
        }
        answers = (x for world in self._worlds for x in self._rows(world, found, failed))
        rows = pl.DataFrame([*answers], schema=ROW_SCHEMA)
        costs = [*self._costs(found)]
        warnings = Warnings()
        nulls = [
            {"world": world, "design": design, "kind": "", "cause": cause}
            for (world, design), cause in self.refused.items()
        ] + [{"world": w, "design": d, "kind": k, "cause": x} for (w, k, d), x in failed.items()]
        document = {
            "schema_version": SCHEMA_VERSION,
            "panel": {"version": self._panel.version, "digest": self._panel.digest},
            "design": self._design.label,
            "asked": self._asked.model_dump(mode="json"),
            "worlds": {k: x.title for k, x in self._worlds.items()},
            "summary": summary(rows, pl.DataFrame(costs)),
            "rows": rows.to_dicts(),
            "costs": costs,
            "nulls": nulls,
            "digests": {run.name: digest(_what(run.config)) for run in self._runs},
            "data": {
                world: result.raw["dataset_stats"]["identity"]
                for (world, kind, _), result in found.items()
                if kind == "effect"
            },
            "versions": versions(),
            "seconds": sum(x.timing.get("total_seconds") or 0.0 for x in done.values()),
        }
        write_json(points.folder / CARD, finite(document, warnings))
        write_score(points.folder)

    def _rows(
        self,
        world: str,
        found: Mapping[tuple[str, Kind, str], RunResult],
        failed: Mapping[tuple[str, Kind, str], str],
    ) -> Iterator[dict[str, Any]]:
        """A world's rows: of each label and design."""
        one = next((x for (w, kind, _), x in found.items() if (w, kind) == (world, "effect")), None)
        labels = self._worlds[world].labels or (list(one.titles) if one else [])
        n_biases = len(labels) * len(self.designs)
        for label in labels:
            for design in self.designs:
                key = {"world": world, "label": label, "design": design}
                effect = found.get((world, "effect", design))
                aa = found.get((world, "aa", design))
                cause = self.refused.get((world, design)) or failed.get((world, "effect", design))
                own = _answer(effect, label, design, n_biases) if effect else {}
                yield {**key, **own, **(_false_alarms(aa, label, design) if aa else {}),
                       "cause": cause}  # fmt: skip

    def _costs(self, found: Mapping[tuple[str, Kind, str], RunResult]) -> Iterator[dict[str, Any]]:
        """The seconds of a million visits, by the world, beyond those of the truth."""
        n_models = {
            d.label: build_design(d.name, d.options, d.name).n_models
            for d in (*map(DesignConfig.model_validate, self._panel.designs), self._design)
        }
        for (world, kind, design), result in found.items():
            truth = found.get((world, "timing", ""))
            if kind == "timing" and design and truth:
                loop = result.raw["config"]["simulation"]
                n = loop["batch_size"] * result.n_steps_done
                n *= result.raw["config"]["experiment"]["replications"]
                seconds = [x.timing.get("loop_seconds") or 0.0 for x in (result, truth)]
                more = seconds[0] - seconds[1]
                yield {
                    "design": design,
                    "world": world,
                    "seconds": more * _VISITS / n if more > 0 else None,  # too busy a machine
                    "models": n_models[design],
                }


def _what(config: Config) -> dict[str, Any]:
    """A config without what says where and how it is run."""
    values = {k: v for k, v in config.decisive().items() if k not in _ELSEWHERE}
    values["dataset"] = {
        k: v for k, v in values["dataset"].items() if k not in ("path", "cache_path")
    }
    return values


def _answer(result: RunResult, label: str, design: str, n_biases: int) -> dict[str, Any]:
    """What a design answers to a question."""
    e = next((e for e in result.comparison if (e.design, e.label) == (design, label)), None)
    if e is None:
        return {}
    bias = Bias(e, n_biases)
    quality = _quality(result, label, design, "coverage")
    regret = next(
        (
            x["regret"]
            for x in result.raw["regret"]
            if quality and (x["design"], x["label"]) == (design, label)
            if x["se_method"] == quality.se_method
        ),
        None,
    )

    def percent(value: float | None) -> float | None:
        return None if value is None or not e.gte else 100.0 * value / abs(e.gte)

    return {
        "gte": e.gte, "estimate": e.estimate, "bias": e.bias, "bias_mc_se": e.bias_mc_se,
        "bias_percent": bias.percent_of_effect, "bias_mc_se_percent": percent(e.bias_mc_se),
        "verdict": bias.judgement, "sd": e.sd, "sd_percent": percent(e.sd),
        "rmse_percent": percent(e.rmse), "sign_error_rate": e.sign_error_rate, "regret": regret,
        "regret_percent": percent(regret), "n_worlds": e.n_worlds,
        **({"interval": quality.se_method, "coverage": quality.coverage,
            "coverage_low": quality.coverage_low, "coverage_high": quality.coverage_high}
           if quality else {}),
    }  # fmt: skip


def _false_alarms(result: RunResult, label: str, design: str) -> dict[str, Any]:
    """How often a design's interval excludes 0 where there is no effect."""
    quality = _quality(result, label, design, "reject_share")
    if quality is None:
        return {}
    return {
        "aa_interval": quality.se_method, "type_1": quality.reject_share,
        "type_1_low": quality.reject_low, "type_1_high": quality.reject_high,
    }  # fmt: skip


def _quality(result: RunResult, label: str, design: str, figure: str) -> IntervalQuality | None:
    """A design's interval: by its units where it has some."""
    own = {
        e.se_method: e
        for e in result.inference
        if (e.design, e.label) == (design, label) and getattr(e, figure) is not None
    }
    return next((own[x] for x in _METHODS if x in own), None)
