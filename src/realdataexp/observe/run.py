"""The command observe: a run of the frozen arms, then what the log's own exposures say of them.

The folder is a run's (mode global, nothing learned before the last step), with observe.yaml, which
says what was asked for, and observe.json, which has what was found.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, ValidationError

from realdataexp.config import load_config
from realdataexp.config.yaml_text import parse_yaml, read_text, to_yaml
from realdataexp.data.schema import LABEL_COLUMNS
from realdataexp.errors import InputError
from realdataexp.files import write_json, write_text
from realdataexp.observe.base import Estimator
from realdataexp.observe.natural import natural_experiment
from realdataexp.observe.pool import pool_of, refuse_unknown_chances
from realdataexp.observe.support import support
from realdataexp.observe.values import off_policy
from realdataexp.options import construct, damaged
from realdataexp.registry import find, names
from realdataexp.runs.checkpoint import Checkpoint
from realdataexp.runs.experiment import Run, starts_of
from realdataexp.runs.folder import Folder
from realdataexp.runs.labels import Starts
from realdataexp.runs.life import new_run, resumed_run
from realdataexp.runs.machine import versions
from realdataexp.runs.networks import STARTS, write_networks
from realdataexp.worlds import world_of
from realdataexp.worlds.kuairand import KuaiRand
from realdataexp.worlds.logged import LoggedWorld
from realdataexp.worlds.replay import ReplayEnvironment

ASKED, FOUND = "observe.yaml", "observe.json"
SCHEMA_VERSION = 1
N_USERS = 2_000
Found = dict[str, Any]


class Asked(BaseModel):
    """observe.yaml: the estimators, at most how many users, and all logs that the config has."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    estimators: list[str | dict[str, Any]]
    users: int
    logs: list[str]

    @classmethod
    def of(cls, folder: Path) -> Asked:
        """That of a folder; InputError where it is none, or damaged."""
        path = folder / ASKED
        try:
            return cls.model_validate(parse_yaml(read_text(path, str(path)), str(path))[0])
        except ValidationError as error:
            raise damaged(path, error, "observe", "observe anew") from None

    def named(self) -> dict[str, Estimator]:
        """The estimators, by the names that tables have: with their options, if any are given."""
        found: dict[str, Estimator] = {}
        for text in self.estimators:
            given = {"name": text} if isinstance(text, str) else dict(text)
            name = given.pop("name", None)
            if not isinstance(name, str):
                raise InputError(f"--estimator {text}: must be a name, or {{name: ..., <options>}}")
            made = find("off-policy estimator", name, "--estimator")
            if not (isinstance(made, type) and issubclass(made, Estimator)):
                raise InputError(
                    f"--estimator {name}: is not a class of realdataexp.observe.Estimator"
                )
            said = ", ".join(f"{k} {v}" for k, v in given.items())
            shown = f"{name} ({said})" if said else name
            if shown in found:
                raise InputError(f"--estimator {shown}: stands twice; pass it once")
            found[shown] = construct(made, name, given, "--estimator")
        return found


def run_observation(
    source: str,
    overrides: Sequence[str] = (),
    *,
    estimators: Sequence[str] = (),
    n_users: int = N_USERS,
    data: Path | None = None,
    out: Path | None = None,
    seed: int | None = None,
    device: str | None = None,
) -> Path:
    """Run a config's arms as they are frozen, and evaluate them; returns the folder.

    Args:
        source: a config.
        overrides: of its settings.
        estimators: names, or ``{name: ..., <options>}`` in YAML; none: all registered ones.
        n_users: at most how many users are evaluated.
        data: folder of the data set's files.
        out: its folder; None: a new one.
        seed: of every random draw.
        device: where to compute.

    Raises:
        InputError: something given is wrong, or the world replays no log.
    """
    given = {"data": data, "seed": seed, "device": device}
    config = load_config(source, overrides, **given)  # type: ignore[arg-type]
    world = world_of(config)
    if not isinstance(world, LoggedWorld):
        raise InputError(
            f"dataset.name = {config.dataset.name!r}: has no log to observe: use KuaiRand, tables "
            "or synthetic"
        )
    if config.pretrain.enabled and config.pretrain.rows == "overlap":
        raise InputError(
            "pretrain.rows = 'overlap': the models have seen the answers of the rows that would "
            "evaluate them; use early or share"
        )
    if config.simulation.order == "time":
        raise InputError(
            "simulation.order = 'time': slates of a slice of the calendar are no draw from all of "
            "a user's rows, which observe evaluates: leave it out"
        )
    logs = _logs_of(world)
    own = [*overrides, "experiment.starts=1"]
    own.append(f"simulation.retrain_every={config.simulation.n_steps}")
    if "random" in logs and "standard_late" in logs:
        kept = [x for x in logs if x != "standard_late"]
        own.append(f"dataset.logs=[{', '.join(kept)}]")
    config = load_config(source, own, mode="global", **given)  # type: ignore[arg-type]
    asked = Asked(estimators=_parsed(estimators), users=n_users, logs=logs)
    asked.named()
    return new_run(partial(Observation, asked), config, out)


def _logs_of(dataset: object) -> list[str]:
    return [*dataset.logs] if isinstance(dataset, KuaiRand) else []


def _parsed(estimators: Sequence[str]) -> list[str | dict[str, Any]]:
    found: list[str | dict[str, Any]] = []
    for text in estimators or names("off-policy estimator"):
        value, faults = parse_yaml(text, "--estimator")
        if faults or not isinstance(value, str | dict):
            raise InputError(f"--estimator {text}: must be a name, or {{name: ..., <options>}}")
        found.append(value)
    return found


def resume_observation(folder: Path, data: Path | None = None) -> Path:
    """Go on with an interrupted one."""
    return resumed_run(partial(Observation, Asked.of(folder)), load_config, folder, data)


class Observation(Run):
    """A run whose arms are evaluated on the log's own exposures, too."""

    def __init__(self, asked: Asked, *given: Any) -> None:
        """What was asked for; the rest is a run's."""
        super().__init__(*given)
        refuse_unknown_chances(self.setup)
        features = [name for name, *_ in self.setup.environment.schema.video.fields]
        self._asked, self._estimators = asked, asked.named()
        for estimator in self._estimators.values():
            estimator.check(features)
        self._found: Found = {}

    def begin(self, made: Folder) -> None:
        """See AnyRun."""
        super().begin(made)
        write_text(self.folder / ASKED, to_yaml(self._asked.model_dump(mode="json")))

    def has_pretrained(self, starts: Starts) -> None:
        """Keep the starting models."""
        write_networks(self.folder / STARTS, self.setup, starts)

    def work(self, checkpoint: Checkpoint | None) -> None:
        """Run the arms, then observe."""
        super().work(checkpoint)
        with self.clock.timed("observation"):
            self._found = self._observed(starts_of(self.folder, self.setup))

    def write(self, status: str) -> None:
        """Write the run's files, and what was found, once it was."""
        super().write(status)
        if self._found:
            write_json(self.folder / FOUND, self._found)

    def _observed(self, starts: Starts) -> Found:
        setup, config = self.setup, self.config
        environment = setup.environment
        assert isinstance(environment, ReplayEnvironment)
        log, split = environment.logged(0)
        pool = pool_of(setup, starts, self._asked.users)
        rewards = {
            name: log.targets[target][pool.row_N].astype(np.float64)
            for name, target in setup.outcomes.items()
        }
        places = {target: i for i, target in reversed([*enumerate(setup.targets)])}
        label_of = {name: places[t] for name, t in setup.outcomes.items() if t in places}
        loop = _of_loop(self.recorder.outcomes(), [*setup.outcomes])
        ledger = self.recorder.ledger().select(pl.col("visits", "differ").sum()).row(0)
        values = off_policy(pool, self._estimators, rewards, label_of)
        natural = self._natural()
        return {
            "schema_version": SCHEMA_VERSION,
            "data": {"name": config.dataset.name, **environment.identity()},
            "logs": {
                "all": self._asked.logs,
                "evaluated": list(getattr(config.dataset, "logs", [])),
            },
            "n_candidates": config.simulation.n_candidate,
            "outcomes": {name: self._unit_of(name) for name in setup.outcomes},
            "off_policy": values,
            "loop": loop,
            "natural_experiment": natural,
            "beside": _beside(natural, values, loop, [*setup.outcomes]),
            "support": support(
                pool,
                label_of,
                n_candidates=config.simulation.n_candidate,
                n_visits=config.simulation.batch_size * self.n_steps_done,
                n_replayed_rows=split.replay.n_rows,
                share_differing=ledger[1] / max(1, ledger[0]),
                warnings=self.warnings.items,
                pretrain_rows=split.kind,
            ),
            "seed": config.seed,
            "versions": versions(),
        }

    def _unit_of(self, outcome: str) -> str:
        return "ms" if self.setup.outcomes[outcome].endswith("_ms") else ""

    def _natural(self) -> Found:
        """Of the logs that the config has, the standard ones too."""
        dataset = self.config.dataset
        if not isinstance(dataset, KuaiRand):
            reason = "only KuaiRand's logs tell random exposures from standard ones"
            return {k: {"cannot_tell": reason} for k in _CONTRASTS}
        whole = self.config.model_copy(
            update={"dataset": dataset.model_copy(update={"logs": tuple(self._asked.logs)})}
        )
        outcomes = {k: t for k, t in self.setup.outcomes.items() if t in LABEL_COLUMNS}
        world = world_of(whole)
        assert isinstance(world, KuaiRand)
        return natural_experiment(world.rows(whole), outcomes)


_CONTRASTS = ("standard_against_random", "before_against_after")


def _of_loop(outcomes: pl.DataFrame, names: Sequence[str]) -> Found:
    """What the frozen arms got per visit in replay: means of worlds, with their standard errors."""
    worlds = (
        outcomes.group_by("label", "arm", "world")
        .agg(y=pl.col("sum").sum() / pl.col("n").sum())
        .pivot("arm", index=["label", "world"], values="y")
        .sort("label", "world")
        .with_columns(effect=pl.col("T") - pl.col("C"))
    )
    found: Found = {}
    for name in names:
        own = worlds.filter(pl.col("label") == name)
        n = own.height
        found[name] = {
            shown: {
                "value": float(own[column].mean()),  # type: ignore[arg-type]
                "se": float(own[column].std()) / n**0.5 if n > 1 else None,  # type: ignore[arg-type]
                "n_worlds": n,
            }
            for shown, column in (("control", "C"), ("treatment", "T"), ("effect", "effect"))
        }
    return found


def _beside(
    natural: Found, values: Found, loop: Found, outcomes: Sequence[str]
) -> dict[str, list[Found]]:
    """Who ranks, and what an exposure is then worth: the platform, the arms, and nobody."""
    found: dict[str, list[Found]] = {}
    of_platform = natural["standard_against_random"].get("effects", {})
    for name in outcomes:
        rows: list[Found] = []
        platform = of_platform.get(name, {})
        if "value" in platform:
            rows.append({"who": "the platform (standard exposures)", "value": platform["mean"]})
            rows.append({"who": "nobody (random exposures)", "value": platform["mean_other"]})
        for row in values.get("outcomes", {}).get(name, [])[:1]:
            rows.append(
                {"who": "nobody (a random row of replay)", "value": row["control"]["value"]}
            )
        for arm in ("control", "treatment"):
            rows.append({"who": f"the {arm} (replay)", "value": loop[name][arm]["value"]})
        found[name] = rows
    return found
