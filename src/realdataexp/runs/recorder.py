"""Turns what the loop yields into the tables of a run folder.

Axes: W worlds (block x replication), R replications, A arms, B visits of a step, X visits of
a whole run, L labels, S stacked networks, T steps kept until the
next flush.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file

from realdataexp.data.parquet import read_parquet
from realdataexp.errors import RunError
from realdataexp.files import disk_faults, sync_names
from realdataexp.loop import Block, Step
from realdataexp.metrics import Figures, figures_of, for_metrics, label_metrics
from realdataexp.models.base import restore
from realdataexp.runs.checkpoint import file_digest
from realdataexp.runs.folder import write_parquet, write_tensors
from realdataexp.stats.aggregates import (
    OUTCOME_SCHEMA,
    TOTALS_SCHEMA,
    arm_sums,
    outcome_table,
    unit_table,
    units_by_arm,
    world_totals,
)
from realdataexp.worlds.base import start_of

METRIC_SCHEMA = {
    "phase": pl.String,
    "step": pl.Int32,
    "design": pl.String,
    "world": pl.Int32,
    "model": pl.String,
    "label": pl.String,
    "split": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "n": pl.Int64,
}
CURVE_SCHEMA = {
    "step": pl.Int64,
    "visits": pl.Int64,
    "users_short": pl.Float64,
    "slates_short": pl.Float64,
}
_NOBODY = np.int32(-1)  # the unit of what is no visit
# of the visits whose units come more than once, and of the counters of the diagnostics
_VISIT_ARRAYS = ("unit", "user", "is_treated", "y")
_MAX_TRAINING_ROWS = 2048  # of a network, in a look at its training
# what each save adds, in this order
_FILES = ("outcomes.parquet", "metrics.parquet", "curve.parquet", "visits.safetensors")
_COUNTS = ("n_drawn_R", "n_differ_W", "n_visits_W", "share_sum_WAL", "share_n_WAL")


@dataclass
class Recorder:
    """Collects steps on the device, and reads them out only when asked.

    Attributes:
        blocks: the designs. replications: the worlds' numbers. labels: names of the outcomes.
        learned: those of the labels with a model, which come first; kinds: their types.
        n_candidate: C, a full slate.
        has_users: whether users come back, so that their visits belong together.
        training: each label's metrics on what was learned from, as of the last flush.
    """

    blocks: tuple[Block, ...]
    replications: tuple[int, ...]
    labels: tuple[str, ...]
    learned: tuple[str, ...]
    kinds: tuple[str, ...]
    n_candidate: int
    has_users: bool
    training: dict[str, Figures] = field(default_factory=dict)
    _pending: list[Step] = field(default_factory=list)
    _learned: deque[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=deque)
    _losses: list[tuple[int, torch.Tensor]] = field(default_factory=list)
    _outcomes: list[pl.DataFrame] = field(default_factory=list)
    _totals: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=TOTALS_SCHEMA))
    _n_summed: int = 0
    _metrics: list[pl.DataFrame] = field(default_factory=list)
    _curve: list[dict[str, Any]] = field(default_factory=list)
    _propensities: list[tuple[np.ndarray, ...]] = field(default_factory=list)
    _visits: list[list[tuple[np.ndarray, ...]]] = field(init=False)
    _files: list[dict[str, str]] = field(default_factory=list)
    _written: tuple[int, int, int, int] = (0, 0, 0, 0)
    _n_drawn_R: np.ndarray = field(init=False)
    _n_differ_W: np.ndarray = field(init=False)
    _n_visits_W: np.ndarray = field(init=False)
    _share_sum_WAL: np.ndarray = field(init=False)
    _share_n_WAL: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.worlds = [(b.label, r) for b in self.blocks for r in self.replications]
        self.networks = network_names(self.blocks, self.replications)
        self._visits = [[] for _ in self.blocks]
        self._n_drawn_R = np.zeros(len(self.replications), dtype=int)
        n, shape = len(self.worlds), (len(self.worlds), 2, len(self.learned))
        self._n_differ_W, self._n_visits_W = np.zeros(n, dtype=int), np.zeros(n, dtype=int)
        self._share_sum_WAL, self._share_n_WAL = np.zeros(shape), np.zeros(shape)

    def add(self, step: Step) -> None:
        """Keep a step for the next flush; of what was learned, the latest rows only."""
        nothing = step.prediction_SBL[:, :0]
        self._pending.append(replace(step, prediction_SBL=nothing, target_SBL=nothing))
        self._learned.append((step.prediction_SBL, step.target_SBL))
        batch_size = step.prediction_SBL.shape[1]
        while len(self._learned) > max(1, _MAX_TRAINING_ROWS // batch_size):
            self._learned.popleft()

    def flush(self) -> None:
        """Read the kept steps from the device into the tables, and look at what was learned."""
        self.read_out()
        if self._propensities:
            self._propensity_figures()
        if self._losses:
            self._training_figures()

    def read_out(self) -> None:
        """Read the kept steps from the device; changes no table, however often it is called."""
        steps, self._pending = self._pending, []
        if not steps:
            return
        sums = []
        for s in steps:
            is_visit = s.is_visit_WB.cpu().numpy()
            is_treated, y = s.is_treated_WB.cpu().numpy(), s.y_WBL.cpu().numpy()
            sums.append(arm_sums(is_treated, y))
            self._keep_units(s, is_treated, y)
            self._n_drawn_R += s.visits.is_visit_RB.sum(1).cpu().numpy()
            n_visits = is_visit.sum(1)
            n_short = (s.n_candidates_WB.cpu().numpy() < self.n_candidate) & is_visit
            if s.propensity_WB is not None:
                self._see_propensities(s.propensity_WB.cpu().numpy(), is_treated, is_visit)
            self._n_differ_W += s.differs_WB.sum(1).cpu().numpy()
            self._n_visits_W += n_visits
            if s.score_share_WAL is not None:
                share = s.score_share_WAL.cpu().numpy()
                self._share_sum_WAL += np.nan_to_num(share)
                self._share_n_WAL += np.isfinite(share)
            self._curve.append(
                {
                    "step": s.visits.step,
                    "visits": int(n_visits.sum()),
                    "users_short": float(s.visits.share_short_R.mean()),
                    "slates_short": float(n_short.sum() / max(1, n_visits.sum())),
                }
            )
        table = outcome_table(
            np.stack(sums), [s.visits.step for s in steps], self.worlds, list(self.labels)
        )
        self._outcomes.append(table)
        self._losses += [(s.visits.step, s.loss_SL) for s in steps]

    def _keep_units(self, step: Step, is_treated_WB: np.ndarray, y_WBL: np.ndarray) -> None:
        """Keep the visits of each block whose units come more than once."""
        R = len(self.replications)
        user_RB = step.visits.user_RB.cpu().numpy().astype(np.int32)
        for i, unit in enumerate(step.unit_XRB):
            if unit is not None or self.has_users:
                unit_RB = user_RB if unit is None else _units(unit, self.blocks[i].label)
                unit_RB = np.where(step.visits.is_visit_RB.cpu().numpy(), unit_RB, _NOBODY)
                w = slice(i * R, (i + 1) * R)
                self._visits[i].append((unit_RB, user_RB, is_treated_WB[w], y_WBL[w]))

    def _see_propensities(
        self, propensity_WB: np.ndarray, is_treated_WB: np.ndarray, is_visit_WB: np.ndarray
    ) -> None:
        """Count, sum and least of each arm's propensities in a step: W, A each."""
        is_known_WB = is_visit_WB & np.isfinite(propensity_WB)
        is_arm_WAB = np.stack([~is_treated_WB, is_treated_WB], axis=1)
        is_own_WAB = is_arm_WAB & is_known_WB[:, None]
        own_WAB = np.where(is_own_WAB, propensity_WB[:, None], 0.0)
        least_WA = np.where(is_own_WAB, propensity_WB[:, None], np.inf).min(-1)
        self._propensities.append((is_own_WAB.sum(-1), own_WAB.sum(-1), least_WA))

    def _propensity_figures(self) -> None:
        """Mean and least propensity of what each arm showed since the last flush."""
        at = self._losses[-1][0] + 1
        n, total, least = (np.stack(x) for x in zip(*self._propensities, strict=True))
        self._propensities.clear()
        n_WA, least_WA = n.sum(0), least.min(0)
        for w, (i, r) in enumerate(
            (i, r) for i in range(len(self.blocks)) for r in self.replications
        ):
            for a, arm in enumerate("CT"):
                if n_WA[w, a]:
                    mean = total.sum(0)[w, a] / n_WA[w, a]
                    row = ("loop", at, block_name(self.blocks, i), r, arm, "", "picks")
                    self.metric(*row, "propensity_mean", float(mean), int(n_WA[w, a]))
                    self.metric(*row, "propensity_least", float(least_WA[w, a]), int(n_WA[w, a]))

    def _training_figures(self) -> None:
        """Each network's metrics on the latest of what it learned from since the last flush."""
        at = self._losses[-1][0] + 1
        loss_TSL = torch.stack([loss_SL for _, loss_SL in self._losses]).cpu().double()
        self._losses.clear()
        prediction_SNL, target_SNL = (
            for_metrics(torch.cat(x, dim=1)) for x in zip(*self._learned, strict=True)
        )
        self._learned.clear()
        for j, (label, kind) in enumerate(zip(self.learned, self.kinds, strict=True)):
            found = label_metrics(kind, prediction_SNL[..., j], target_SNL[..., j])
            figures = figures_of(label, found, loss_TSL[..., j].nanmean(0))
            self.figures("loop", at, self.networks, "train", figures)
            self.training[label] = figures

    def figures(
        self,
        phase: str,
        step: int,
        names: Sequence[tuple[str, int | None, str]],
        split: str,
        found: Figures,
    ) -> None:
        """Add a row to metrics.parquet for each metric and network where it is defined.

        Args:
            phase: pretrain or loop.
            step: steps, or batches, done.
            names: design, world and model (or arm) of each.
            split: train or validation.
            found: the metrics.
        """
        counted = {**found.values, "n_nonfinite": found.n_nonfinite.double()}
        n = [found.count(metric).numpy() for metric in counted]
        frame = pl.DataFrame(
            {
                "design": [design for design, _, _ in names] * len(counted),
                "world": [world for _, world, _ in names] * len(counted),
                "model": [model for _, _, model in names] * len(counted),
                "metric": np.repeat(list(counted), len(names)),
                "value": np.concatenate([value_S.numpy() for value_S in counted.values()]),
                "n": np.concatenate(n),
            }
        )
        self._metrics.append(
            frame.filter(pl.col("value").is_finite() & (pl.col("n") > 0)).select(
                phase=pl.lit(phase), step=pl.lit(step), design="design", world="world",
                model="model", label=pl.lit(found.label), split=pl.lit(split),
                metric="metric", value="value", n="n",
            ).cast(METRIC_SCHEMA)  # type: ignore[arg-type]
        )  # fmt: skip

    def metric(
        self,
        phase: str,
        step: int,
        design: str,
        world: int | None,
        model: str,
        label: str,
        split: str,
        metric: str,
        value: float,
        n: int,
    ) -> None:
        """Add a row to metrics.parquet; ``n`` counts what the value rests on."""
        row = (phase, step, design, world, model, label, split, metric, float(value), n)
        row_of = {name: [x] for name, x in zip(METRIC_SCHEMA, row, strict=True)}
        self._metrics.append(pl.DataFrame(row_of, schema=METRIC_SCHEMA))

    # --- to go on after an interruption ------------------------------------------------------

    def write_rows(self, folder: Path) -> list[dict[str, str]]:
        """Write what came since the last call into files of their own; returns all files so far.

        Returns:
            Name and SHA-256 of each file, in the order in which they were written.
        """
        self.flush()
        n_outcomes, n_metrics, n_curve, n_visits = self._written
        stem = f"{len(self._files):06d}"
        visits = [steps[n_visits:] for steps in self._visits]
        self._written = (
            len(self._outcomes), len(self._metrics), len(self._curve),
            max(map(len, self._visits)),
        )  # fmt: skip
        tables = {
            "outcomes": pl.concat(
                [pl.DataFrame(schema=OUTCOME_SCHEMA), *self._outcomes[n_outcomes:]]
            ),
            "metrics": pl.concat([pl.DataFrame(schema=METRIC_SCHEMA), *self._metrics[n_metrics:]]),
            "curve": pl.DataFrame(self._curve[n_curve:], schema=CURVE_SCHEMA),
        }
        with disk_faults(folder):
            for path in (folder.parent, folder):  # but not the run folder, should that be gone
                path.mkdir(exist_ok=True)
        paths = []
        for name, table in tables.items():
            paths.append(folder / f"{stem}-{name}.parquet")
            write_parquet(paths[-1], table)
        arrays = {
            f"{i}.{name}": torch.from_numpy(np.stack([step[j] for step in steps]))
            for i, steps in enumerate(visits)
            if steps
            for j, name in enumerate(_VISIT_ARRAYS)
        }
        paths.append(folder / f"{stem}-visits.safetensors")
        write_tensors(paths[-1], arrays)
        sync_names(folder)
        self._files = [*self._files, *({"name": p.name, "sha256": file_digest(p)} for p in paths)]
        return self._files

    def load_rows(self, folder: Path, files: Sequence[Mapping[str, str]]) -> None:
        """Take in the files of ``write_rows``, which are intact; ValueError for other files."""
        names = [file["name"] for file in files]
        n_saves = len(files) // len(_FILES)
        firsts = range(0, n_saves * len(_FILES), len(_FILES))
        if names != [f"{first:06d}-{file}" for first in firsts for file in _FILES]:
            raise ValueError("rows: are not the files of each save, in order")
        for name in names:
            path = folder / name
            kind = path.stem.partition("-")[2]
            if kind == "visits":
                self._load_visits(load_file(path))
            elif kind == "curve":
                self._curve += _read(path, CURVE_SCHEMA).to_dicts()
            elif kind == "outcomes":
                self._outcomes.append(_read(path, OUTCOME_SCHEMA))
            else:
                self._metrics.append(_read(path, METRIC_SCHEMA))
        self._files = [dict(file) for file in files]
        self._written = (
            len(self._outcomes), len(self._metrics), len(self._curve),
            max(map(len, self._visits)),
        )  # fmt: skip

    def _load_visits(self, arrays: Mapping[str, torch.Tensor]) -> None:
        for i, steps in enumerate(self._visits):
            own = [arrays[f"{i}.{name}"].numpy() for name in _VISIT_ARRAYS if f"{i}.unit" in arrays]
            steps += zip(*own, strict=True)

    def state(self) -> dict[str, torch.Tensor]:
        """What is not in rows, and how many of these there are."""
        counts = {name: torch.from_numpy(getattr(self, f"_{name}")) for name in _COUNTS}
        return {**counts, "n_rows": torch.tensor(self._n_rows())}

    def _n_rows(self) -> list[int]:
        """Rows of outcomes, of metrics and of the curve, and steps of each block's visits."""
        tables = [sum(frame.height for frame in x) for x in (self._outcomes, self._metrics)]
        return [*tables, len(self._curve), *map(len, self._visits)]

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from a state."""
        restore(self.state(), tensors)
        if tensors["n_rows"].tolist() != self._n_rows():
            raise ValueError("rows: are not as many as were saved")

    def check(self, n_steps: int) -> None:
        """Make sure that what was loaded is what so many steps leave; else ValueError."""
        outcomes, worlds, R = self.outcomes(), self.worlds, len(self.replications)
        n_visits = sum(point["visits"] for point in self._curve)
        keys = ["design", "world", "step", "arm", "label"]
        names = set(outcomes.select("design", "world").unique().iter_rows())
        visited = outcomes.group_by("step", "label").agg(pl.col("n").cast(pl.Int64).sum())
        most = {point["step"]: point["visits"] for point in self._curve}
        faults = {
            "steps": [point["step"] for point in self._curve] != [*range(n_steps)],
            "steps of visits": any(len(steps) not in (0, n_steps) for steps in self._visits),
            "worlds": not names <= set(worlds),
            "labels": not set(outcomes["label"].unique()) <= set(self.labels),
            # the two worlds of the truth share a name, as they do not share an arm
            "outcomes twice": outcomes.select(keys).is_duplicated().any(),
            "sums": not all(
                outcomes[x].is_finite().all() and outcomes[x].is_not_null().all()
                for x in ("sum", "sum_sq")
            ),
            "outcomes": any(
                not 0 < n <= most.get(step, 0) for step, _, n in visited.iter_rows()
            ),
            "visits": n_visits != int(self._n_visits_W.sum())
            or bool((self._n_visits_W > np.tile(self._n_drawn_R, len(worlds) // R)).any()),
            "differences": bool((self._n_differ_W > self._n_visits_W).any()),
            "shapes of visits": any(
                step[0].shape[0] != R or step[3].shape != (*step[0].shape, len(self.labels))
                or {x.shape for x in step[:3]} != {step[0].shape}
                for steps in self._visits
                for step in steps
            ),
        }  # fmt: skip
        if found := [name for name, is_fault in faults.items() if is_fault]:
            raise ValueError(f"rows: do not fit {n_steps} steps and each other: {found[0]}")

    # --- what it has come to -----------------------------------------------------------------

    def n_visits(self, label: str) -> int:
        """Visits of a design so far."""
        on = [name == label for name, _ in self.worlds]
        return int(self._n_visits_W[on].sum())

    @property
    def last_short(self) -> dict[str, Any] | None:
        """The newest point of the exhaustion curve."""
        return self._curve[-1] if self._curve else None

    def outcomes(self) -> pl.DataFrame:
        """The table of outcomes.parquet so far."""
        return pl.concat(self._outcomes) if self._outcomes else pl.DataFrame(schema=OUTCOME_SCHEMA)

    def totals(self) -> pl.DataFrame:
        """Sums over all steps until now, as of this call: ``aggregates.world_totals``."""
        self.read_out()
        new, self._n_summed = self._outcomes[self._n_summed :], len(self._outcomes)
        self._totals = world_totals([self._totals, *new])
        return self._totals

    def units(self, covariates: Sequence[np.ndarray] | None) -> pl.DataFrame | None:
        """The table of units.parquet so far; None where no block's units come more than once.

        Args:
            covariates: each start's table U, L; see ``aggregates.unit_table``.
        """
        parts = []
        for i, steps in enumerate(self._visits):
            if steps:
                unit_RX, user_RX, is_treated_RX, y_RXL = (
                    np.concatenate(x, axis=1) for x in zip(*steps, strict=True)
                )
                worlds = [(self.blocks[i].label, r) for r in self.replications]
                of_world = covariates and [
                    covariates[start_of(r, len(covariates))] for r in self.replications
                ]
                parts.append(
                    unit_table(
                        unit_RX, user_RX, is_treated_RX, y_RXL, of_world, worlds,
                        list(self.labels),
                    )
                )  # fmt: skip
        return pl.concat(parts) if parts else None

    def _units_by_arm(self) -> dict[str, dict[str, int]]:
        """How many units each design gave the treatment and the control, in all worlds.

        Left out are designs with one arm only, and those that lost visits whose arms are not kept.
        """
        found: dict[str, dict[str, int]] = {}
        R, outcomes = len(self.replications), self.outcomes()
        for i, block in enumerate(self.blocks):
            if not 0 < block.p < 1:
                continue
            if self._visits[i]:
                unit_RX, is_treated_RX = (
                    np.concatenate([step[k] for step in self._visits[i]], axis=1) for k in (0, 2)
                )
                found[block.label] = units_by_arm(unit_RX, is_treated_RX)
            elif self._n_visits_W[i * R : (i + 1) * R].sum() == self._n_drawn_R.sum():
                own = outcomes.filter(design=block.label, label=self.labels[0])
                found[block.label] = {x: int(own.filter(arm=x)["n"].sum()) for x in "TC"}
        return found

    def metrics(self) -> pl.DataFrame:
        """The table of metrics.parquet so far, the exhaustion curve included."""
        curve = pl.DataFrame(self._curve, schema=CURVE_SCHEMA).unpivot(
            ["users_short", "slates_short"], index=["step", "visits"], variable_name="metric"
        )
        rows = curve.select(
            phase=pl.lit("loop"), step=pl.col("step") + 1, design=pl.lit(""),
            world=pl.lit(None), model=pl.lit(""), label=pl.lit(""), split=pl.lit("data"),
            metric="metric", value="value", n="visits",
        )  # fmt: skip
        return pl.concat([*self._metrics, rows.cast(METRIC_SCHEMA)])  # type: ignore[arg-type]

    def diagnostics(self) -> dict[str, Any]:
        """What tells whether the test could show anything."""
        differ, shares, lost = {}, {}, {}
        n_drawn, R = int(self._n_drawn_R.sum()), len(self.replications)
        for i in range(len(self.blocks)):
            part = slice(i * R, (i + 1) * R)
            name = block_name(self.blocks, i)
            visits = int(self._n_visits_W[part].sum())
            differ[name] = int(self._n_differ_W[part].sum()) / visits if visits else None
            lost[name] = 1.0 - visits / n_drawn if n_drawn else None
            n_AL = self._share_n_WAL[part].sum(0)
            mean_AL = np.where(n_AL, self._share_sum_WAL[part].sum(0) / np.maximum(n_AL, 1), np.nan)
            shares[name] = {
                arm: {
                    label: None if np.isnan(mean_AL[a, j]) else float(mean_AL[a, j])
                    for j, label in enumerate(self.learned)
                }
                for a, arm in enumerate(("C", "T"))
            }
        every = max(1, len(self._curve) // 50)
        points = [
            p for i, p in enumerate(self._curve) if i % every == 0 or i == len(self._curve) - 1
        ]
        return {
            "share_of_visits_where_arms_differ": differ,
            "share_of_visits_lost": lost,
            "units_by_arm": self._units_by_arm(),
            "label_share_of_score_variance": shares,
            "exhaustion": [
                {k: p[k] for k in ("step", "users_short", "slates_short")} for p in points
            ],
        }


def _units(unit_RB: torch.Tensor, design: str) -> np.ndarray:
    """A design's units as they are kept; RunError where they are too large or negative."""
    found = unit_RB.cpu().numpy()
    if found.size and not 0 <= found.min() <= found.max() <= np.iinfo(np.int32).max:
        raise RunError(
            f"design {design}: unit() returned numbers from {found.min()} to {found.max()}; wanted "
            f"0 to {np.iinfo(np.int32).max}"
        )
    return found.astype(np.int32)


def _read(path: Path, schema: Mapping[str, Any]) -> pl.DataFrame:
    """A table with these columns; ValueError where a file is another."""
    frame = read_parquet(path)
    if dict(frame.schema) != dict(schema):
        raise ValueError(f"{path.name}: has other columns")
    return frame


def block_name(blocks: tuple[Block, ...], index: int) -> str:
    """A block's label; the two worlds of the truth are told apart by their arm."""
    same = [b for b in blocks if b.label == blocks[index].label]
    return blocks[index].label + ("" if len(same) == 1 else f"_{'T' if blocks[index].p else 'C'}")


def network_names(
    blocks: tuple[Block, ...], replications: tuple[int, ...]
) -> list[tuple[str, int, str]]:
    """Design, replication and model of each of the S networks, in their order."""
    names = []
    for i, block in enumerate(blocks):
        for m in range(block.design.n_models):
            model = "shared" if block.design.n_models == 1 else "CT"[m]
            names += [(block_name(blocks, i), r, model) for r in replications]
    return names
