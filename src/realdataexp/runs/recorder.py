"""Turns what the loop yields into the tables of a run folder.

Axes: W worlds (block x replication), R replications, A arms, B visits of a step, X visits of
a whole run, L labels, S stacked networks, T steps kept until the next flush.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load_file

from realdataexp.data.parquet import read_parquet, write_parquet
from realdataexp.errors import RunError
from realdataexp.files import disk_faults, sync_names
from realdataexp.loop import Block, Step
from realdataexp.metrics import MetricValues, for_metrics, label_metrics, values_of
from realdataexp.models.base import restore
from realdataexp.runs.checkpoint import LOOP, file_digest
from realdataexp.runs.folder import write_tensors
from realdataexp.stats.aggregates import (
    OUTCOME_SCHEMA,
    TOTALS_SCHEMA,
    arm_sums,
    outcome_table,
    parted,
    unit_table,
    units_by_arm,
    world_totals,
)
from realdataexp.stats.estimates import TRUTH
from realdataexp.stats.ledger import LEDGER_SCHEMA, ledger_table, shares
from realdataexp.stats.ratios import linear_outcomes, linear_visits, ratio_sums, sum_names
from realdataexp.worlds.base import start_of

METRIC_SCHEMA = {
    "phase": pl.String, "step": pl.Int32, "design": pl.String, "world": pl.Int32,
    "model": pl.String, "label": pl.String, "split": pl.String, "metric": pl.String,
    "value": pl.Float64, "n": pl.Int64,
}  # fmt: skip
# the tables that grow; the curve tells how many users and slates are short of rows
_SCHEMAS: dict[str, Any] = {
    "outcomes": OUTCOME_SCHEMA,
    "ratios": OUTCOME_SCHEMA,
    "ledger": LEDGER_SCHEMA,
    "metrics": METRIC_SCHEMA,
    "curve": {
        "step": pl.Int64, "visits": pl.Int64,
        "users_short": pl.Float64, "slates_short": pl.Float64,
    },
}  # fmt: skip
_VISITS = ("unit", "user", "is_treated", "y")  # of the visits whose units come more than once
# what each save adds, in this order
_FILES = (*(f"{name}.parquet" for name in _SCHEMAS), "visits.safetensors")
_NOBODY = np.int32(-1)  # the unit of what is no visit
_MAX_TRAINING_ROWS = 2048  # of a network, in its metrics while it trains
_MAX_POINTS = 50  # of the curve, about, in result.json


class Recorder:
    """Collects steps on the device, and reads them out only when asked.

    Attributes:
        worlds: design and replication of each. networks: design, replication and model of each.
        training: each label's metrics on what was learned from, as of the last flush.
    """

    def __init__(
        self,
        blocks: tuple[Block, ...],
        replications: tuple[int, ...],
        labels: tuple[str, ...],
        learned: tuple[str, ...],
        kinds: tuple[str, ...],
        n_candidate: int,
        has_users: bool,
        n_items: int | None = None,
        keeps_picks: bool = False,
        keeps_foretold: bool = False,
        ratios: tuple[str, ...] = (),
    ) -> None:
        """Begin with empty tables.

        ``labels`` name the outcomes, ``ratios`` those that follow them in a step's outcomes with a
        numerator and a denominator each; ``learned`` have a model, of these ``kinds``. A full slate
        has ``n_candidate``; where users come back, their visits belong together. Where items are
        numbered, ``n_items``, it is reported how many of them are shown. ``keeps_picks``: units say
        where the arms' picks differ, and a visit of a new user is a unit;
        ``keeps_foretold``: and what was predicted of both picks.
        """
        self.blocks, self.replications, self.labels = blocks, replications, labels
        self._learned_labels = dict(zip(learned, kinds, strict=True))
        self._n_candidate, self._has_users, self._n_items = n_candidate, has_users, n_items
        more = ("differs", "foretold")[: keeps_picks + keeps_foretold]
        self._kept = (*_VISITS, *more)
        self._ratios = ratios
        self.worlds = [(b.label, r) for b in blocks for r in replications]
        self.networks = network_names(blocks, replications)
        self.training: dict[str, MetricValues] = {}
        self._pending: list[Step] = []
        self._learned: deque[tuple[torch.Tensor, torch.Tensor]] = deque()
        self._losses: list[tuple[int, torch.Tensor]] = []
        self._propensities: list[tuple[np.ndarray, ...]] = []
        self._exposures: list[dict[str, np.ndarray]] = []
        self._tables: dict[str, list[pl.DataFrame]] = {name: [] for name in _SCHEMAS}
        self._visits: list[list[tuple[np.ndarray, ...]]] = [[] for _ in blocks]
        self._totals, self._n_summed = pl.DataFrame(schema=TOTALS_SCHEMA), 0
        self._n_told = 0  # frames of the ledger of which there are metrics
        self._files: list[dict[str, str]] = []
        self._n_written = dict.fromkeys((*_SCHEMAS, "visits"), 0)
        self._network_WA = _network_of_arm(blocks, len(replications))
        self._has_both_W = np.repeat([b.label != TRUTH for b in blocks], len(replications))
        W, shape = len(self.worlds), (len(self.worlds), 2, len(learned))
        self._counts = {
            "n_drawn_R": np.zeros(len(replications), dtype=int),
            "n_differ_W": np.zeros(W, dtype=int),
            "n_visits_W": np.zeros(W, dtype=int),
            "share_sum_WAL": np.zeros(shape),
            "share_n_WAL": np.zeros(shape),
        }

    def add(self, step: Step) -> None:
        """Keep a step for the next flush; of what was learned, the latest rows only."""
        nothing = step.prediction_SBL[:, :0]
        self._pending.append(replace(step, prediction_SBL=nothing, target_SBL=nothing))
        self._learned.append((step.prediction_SBL, step.target_SBL))
        while len(self._learned) > max(1, _MAX_TRAINING_ROWS // step.prediction_SBL.shape[1]):
            self._learned.popleft()

    def flush(self) -> None:
        """Read the kept steps into the tables, and the metrics of what was learned."""
        self.read_out()
        if self._propensities:
            self._propensity_metrics()
        if self._exposures:
            self._exposure_metrics()
        if len(self._tables["ledger"]) > self._n_told:
            self._ledger_metrics()
        if self._losses:
            self._training_metrics()

    def read_out(self) -> None:
        """Read the kept steps from the device; changes no table, however often it is called."""
        steps, self._pending = self._pending, []
        if not steps:
            return
        sums, parts, points, lessons, counts = [], [], [], [], self._counts
        n_labels = len(self.labels)
        for s in steps:
            is_visit = s.is_visit_WB.cpu().numpy()
            is_treated, y = s.is_treated_WB.cpu().numpy(), s.y_WBL.cpu().numpy()
            sums.append(arm_sums(is_treated, y[..., :n_labels]))
            if self._ratios:
                parts.append(ratio_sums(is_treated, y[..., n_labels:]))
            differs = s.differs_WB.cpu().numpy()
            self._keep_units(s, is_treated, y, differs)
            weight_SA = s.weight_SA.cpu().numpy()
            of_arm_WAB = np.stack([~is_treated & is_visit, is_treated & is_visit], axis=1)
            visits_WA, differ_WA = of_arm_WAB.sum(2), (of_arm_WAB & differs[:, None]).sum(2)
            lessons.append((visits_WA, differ_WA, weight_SA[self._network_WA]))
            n_visits_W = is_visit.sum(1)
            n_visits = int(n_visits_W.sum())
            n_short = ((s.n_candidates_WB.cpu().numpy() < self._n_candidate) & is_visit).sum()
            if s.propensity_WB is not None:
                self._see_propensities(s.propensity_WB.cpu().numpy(), is_treated, is_visit)
            if s.exposure:
                of_visits = {k: x.cpu().numpy() for k, x in s.exposure.items()}
                arm_WB = np.where(is_visit, is_treated, -1)
                self._exposures.append({"arm": arm_WB, **of_visits})
            counts["n_drawn_R"] += s.visits.is_visit_RB.sum(1).cpu().numpy()
            counts["n_differ_W"] += differs.sum(1)
            counts["n_visits_W"] += n_visits_W
            if s.score_share_WAL is not None:
                share = s.score_share_WAL.cpu().numpy()
                counts["share_sum_WAL"] += np.nan_to_num(share)
                counts["share_n_WAL"] += np.isfinite(share)
            users_short = float(s.visits.share_short_R.mean())
            points.append((s.visits.step, n_visits, users_short, n_short / max(1, n_visits)))
        numbers = [s.visits.step for s in steps]
        table = outcome_table(np.stack(sums), numbers, self.worlds, list(self.labels))
        self._tables["outcomes"].append(table)
        if parts:
            named = sum_names(self._ratios)
            self._tables["ratios"].append(
                outcome_table(np.stack(parts), numbers, self.worlds, named)
            )
        visits, differ, weight = (np.stack(x) for x in zip(*lessons, strict=True))
        ledger = ledger_table(visits, differ, weight, self._has_both_W, numbers, self.worlds)
        self._tables["ledger"].append(ledger)
        curve = pl.DataFrame(points, schema=_SCHEMAS["curve"], orient="row")
        self._tables["curve"].append(curve)
        self._losses += [(s.visits.step, s.loss_SL) for s in steps]

    def _keep_units(
        self, step: Step, is_treated_WB: np.ndarray, y_WBL: np.ndarray, differs_WB: np.ndarray
    ) -> None:
        """Keep the visits of each block whose units come more than once."""
        R = len(self.replications)
        user_RB = step.visits.user_RB.cpu().numpy().astype(np.int32)
        counted = step.visits.is_visit_RB.repeat(len(self.blocks), 1)
        if step.is_counted_WB is not None:
            counted = counted & step.is_counted_WB
        is_counted_WB = counted.cpu().numpy()
        for i, unit in enumerate(step.unit_XRB):
            name, visits = self.blocks[i].label, self._visits[i]
            if unit is not None or self._has_users or (self._keeps_picks and name != TRUTH):
                unit_RB = user_RB if unit is None else _units(unit, name)
                if unit is None and not self._has_users:  # every visit is a unit
                    unit_RB = np.arange(user_RB.shape[1]) + len(visits) * user_RB.shape[1]
                w = slice(i * R, (i + 1) * R)
                unit_RB = np.where(is_counted_WB[w], unit_RB, _NOBODY).astype(np.int32)
                more = [differs_WB[w]] if self._keeps_picks else []
                if step.foretold_WBAJ is not None:
                    more.append(step.foretold_WBAJ[w].cpu().numpy())
                visits.append((unit_RB, user_RB, is_treated_WB[w], y_WBL[w], *more))

    @property
    def _keeps_picks(self) -> bool:
        return len(self._kept) > len(_VISITS)

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

    def _propensity_metrics(self) -> None:
        """Mean and least propensity of what each arm showed since the last flush."""
        at, R = self._losses[-1][0] + 1, len(self.replications)
        n, total, least = (np.stack(x) for x in zip(*self._propensities, strict=True))
        self._propensities.clear()
        n_WA, total_WA, least_WA = n.sum(0), total.sum(0), least.min(0)
        for w, (_, r) in enumerate(self.worlds):
            for a, arm in enumerate("CT"):
                if n_WA[w, a]:
                    row = (LOOP, at, block_name(self.blocks, w // R), r, arm, "", "picks")
                    mean, count = total_WA[w, a] / n_WA[w, a], int(n_WA[w, a])
                    self.add_metric(*row, "propensity_mean", float(mean), count)
                    self.add_metric(*row, "propensity_least", float(least_WA[w, a]), count)

    def _exposure_metrics(self) -> None:
        """How what each arm showed since the last flush spreads over items, and mean margins."""
        from realdataexp.sequences.ranking import concentration  # few runs show lists

        at, R = self._losses[-1][0] + 1, len(self.replications)
        seen = {k: np.concatenate([x[k] for x in self._exposures], 1) for k in self._exposures[0]}
        self._exposures.clear()
        arm_WX, item_WXK = seen.pop("arm"), seen.pop("item")
        for w, (_, r) in enumerate(self.worlds):
            for a, arm in enumerate("CT"):
                own_X = arm_WX[w] == a
                if not own_X.any():
                    continue
                items = item_WXK[w][own_X]
                values = concentration(items[items >= 0], self._n_items or 0)
                values |= {k: _mean(x_WX[w][own_X]) for k, x_WX in seen.items()}
                row = (LOOP, at, block_name(self.blocks, w // R), r, arm, "", "shown")
                for metric, value in values.items():
                    self.add_metric(*row, metric, value, int(own_X.sum()))

    def _ledger_metrics(self) -> None:
        """Which share of what each arm's model learned since the last flush is the other arm's."""
        at, frames = self._losses[-1][0] + 1, self._tables["ledger"]
        new, self._n_told = pl.concat(frames[self._n_told :]), len(frames)
        twice = {
            block.label
            for i, block in enumerate(self.blocks)
            if block_name(self.blocks, i) != block.label
        }
        name = pl.format("{}_{}", "design", "arm")
        found = (
            shares(new, "design", "world", "arm")
            .drop_nulls()
            .with_columns(
                phase=pl.lit(LOOP),
                step=pl.lit(at),
                model="arm",
                label=pl.lit(""),
                n="visits",
                design=pl.when(pl.col("design").is_in(twice)).then(name).otherwise("design"),
                split=pl.lit("ledger"),
                metric=pl.lit("other_share"),
                value="other_share",
            )
        )
        self._tables["metrics"].append(_as_metrics(found))

    def _training_metrics(self) -> None:
        """Each network's metrics on the latest of what it learned from since the last flush."""
        at = self._losses[-1][0] + 1
        loss_TSL = torch.stack([loss_SL for _, loss_SL in self._losses]).cpu().double()
        self._losses.clear()
        prediction_SNL, target_SNL = (
            for_metrics(torch.cat(x, dim=1)) for x in zip(*self._learned, strict=True)
        )
        self._learned.clear()
        for j, (label, kind) in enumerate(self._learned_labels.items()):
            found = label_metrics(kind, prediction_SNL[..., j], target_SNL[..., j])
            self.training[label] = values_of(label, found, loss_TSL[..., j].nanmean(0))
            self.add_metrics(LOOP, at, self.networks, "train", self.training[label])

    def add_metrics(
        self,
        phase: str,
        step: int,
        names: Sequence[tuple[str, int | None, str]],
        split: str,
        found: MetricValues,
    ) -> None:
        """Add a row to metrics.parquet for each metric and network where it is defined.

        ``names`` are design, world and model (or arm) of each network.
        """
        counted = {**found.values, "n_nonfinite": found.n_nonfinite.double()}
        designs, worlds, models = (list(x) for x in zip(*names, strict=True))
        frame = pl.DataFrame(
            {
                "design": designs * len(counted),
                "world": worlds * len(counted),
                "model": models * len(counted),
                "metric": np.repeat(list(counted), len(names)),
                "value": np.concatenate([value_S.numpy() for value_S in counted.values()]),
                "n": np.concatenate([found.count(metric).numpy() for metric in counted]),
            }
        ).with_columns(
            phase=pl.lit(phase), step=pl.lit(step), label=pl.lit(found.label), split=pl.lit(split)
        )
        frame = frame.filter(pl.col("value").is_finite() & (pl.col("n") > 0))
        self._tables["metrics"].append(_as_metrics(frame))

    def add_metric(self, *row: str | float | None) -> None:
        """Add a row to metrics.parquet: a value for each column of METRIC_SCHEMA."""
        self._tables["metrics"].append(pl.DataFrame([row], schema=METRIC_SCHEMA, orient="row"))

    # --- to go on after an interruption ------------------------------------------------------

    def write_rows(self, folder: Path) -> list[dict[str, str]]:
        """Write what came since the last call; name and SHA-256 of all files so far, in order."""
        self.flush()
        paths = [folder / f"{len(self._files):06d}-{name}" for name in _FILES]
        with disk_faults(folder):
            for path in (folder.parent, folder):  # but not the run folder, should that be gone
                path.mkdir(exist_ok=True)
        for path, (name, frames) in zip(paths, self._tables.items(), strict=False):
            write_parquet(path, _joined(name, frames[self._n_written[name] :]))
        new = [steps[self._n_written["visits"] :] for steps in self._visits]
        arrays = {
            f"{i}.{name}": torch.from_numpy(np.stack([step[j] for step in steps]))
            for i, steps in enumerate(new)
            if steps
            for j, name in enumerate(self._kept)
        }
        write_tensors(paths[-1], arrays)
        sync_names(folder)
        self._files = [*self._files, *({"name": p.name, "sha256": file_digest(p)} for p in paths)]
        self._note_written()
        return self._files

    def load_rows(self, folder: Path, files: Sequence[Mapping[str, str]]) -> None:
        """Take in the files of ``write_rows``, which are intact; ValueError for other files."""
        names = [file["name"] for file in files]
        wanted = [f"{i - i % len(_FILES):06d}-{_FILES[i % len(_FILES)]}" for i in range(len(files))]
        if names != wanted or len(files) % len(_FILES):
            raise ValueError("rows: are not the files of each save, in order")
        for name in names:
            path = folder / name
            kind = path.stem.partition("-")[2]
            if kind == "visits":
                arrays = load_file(path)
                for i, steps in enumerate(self._visits):
                    if f"{i}.unit" in arrays:
                        own = (arrays[f"{i}.{name}"].numpy() for name in self._kept)
                        steps += zip(*own, strict=True)
                continue
            frame = read_parquet(path)
            if dict(frame.schema) != dict(_SCHEMAS[kind]):
                raise ValueError(f"{path.name}: has other columns")
            self._tables[kind].append(frame)
        self._files = [dict(file) for file in files]
        self._n_told = len(self._tables["ledger"])
        self._note_written()

    def _note_written(self) -> None:
        self._n_written = {name: len(frames) for name, frames in self._tables.items()}
        self._n_written["visits"] = max(map(len, self._visits))

    def state(self) -> dict[str, torch.Tensor]:
        """What is not in rows, and how many of these there are."""
        counts = {name: torch.from_numpy(x) for name, x in self._counts.items()}
        return {**counts, "n_rows": torch.tensor(self._n_rows())}

    def _n_rows(self) -> list[int]:
        """Rows of each table, and steps of each block's visits."""
        tables = [sum(frame.height for frame in frames) for frames in self._tables.values()]
        return [*tables, *map(len, self._visits)]

    def load_state(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from a state."""
        restore(self.state(), tensors)
        if tensors["n_rows"].tolist() != self._n_rows():
            raise ValueError("rows: are not as many as were saved")

    def check(self, n_steps: int) -> None:
        """Make sure that what was loaded is what so many steps leave; else ValueError."""
        outcomes, curve, R = self.outcomes(), self._table("curve"), len(self.replications)
        ledger = self.ledger()
        n_drawn_R, n_differ_W, n_visits_W = (
            self._counts[name] for name in ("n_drawn_R", "n_differ_W", "n_visits_W")
        )
        names = outcomes.select("design", "world").unique().iter_rows()
        visited = outcomes.group_by("step", "label").agg(pl.col("n").cast(pl.Int64).sum())
        most = dict(curve.select("step", "visits").iter_rows())
        shapes = [
            step[0].shape[0] == R
            and step[3].shape == (*step[0].shape, len(self.labels) + 2 * len(self._ratios))
            and {x.shape for x in (*step[:3], *step[4:5])} == {step[0].shape}
            and {x.shape[:2] for x in step[5:]} <= {step[0].shape}
            for steps in self._visits
            for step in steps
        ]
        faults = {
            "steps": curve["step"].to_list() != [*range(n_steps)],
            "steps of visits": any(len(steps) not in (0, n_steps) for steps in self._visits),
            "worlds": not {*names} <= {*self.worlds},
            "labels": not {*outcomes["label"].unique()} <= {*self.labels},
            # the two worlds of the truth share a name, as they do not share an arm
            "outcomes twice": outcomes.select(
                "design", "world", "step", "arm", "label"
            ).is_duplicated().any(),
            "ratios": not {*self._table("ratios")["label"].unique()} <= {*sum_names(self._ratios)},
            "sums": not np.isfinite(outcomes.select("sum", "sum_sq").to_numpy()).all(),
            "ledger": not np.isfinite(ledger.select("own_weight", "other_weight").to_numpy()).all()
            or int(ledger["visits"].sum()) != int(n_visits_W.sum())
            or int(ledger["differ"].sum()) != int(n_differ_W.sum()),
            "outcomes": any(
                not 0 < n <= most.get(step, 0) for step, _, n in visited.iter_rows()
            ),
            "visits": curve["visits"].sum() != int(n_visits_W.sum())
            or bool((n_visits_W > np.tile(n_drawn_R, len(self.blocks))).any()),
            "differences": bool((n_differ_W > n_visits_W).any()),
            "shapes of visits": not all(shapes),
        }  # fmt: skip
        if found := [name for name, is_fault in faults.items() if is_fault]:
            raise ValueError(f"rows: do not fit {n_steps} steps and each other: {found[0]}")

    # --- what it has come to -----------------------------------------------------------------

    def n_visits(self, label: str) -> int:
        """Visits of a design so far."""
        on = [name == label for name, _ in self.worlds]
        return int(self._counts["n_visits_W"][on].sum())

    @property
    def last_short(self) -> dict[str, Any] | None:
        """The newest point of the exhaustion curve."""
        known = (frame for frame in reversed(self._tables["curve"]) if frame.height)
        return next((frame.row(-1, named=True) for frame in known), None)

    def _table(self, name: str) -> pl.DataFrame:
        return _joined(name, self._tables[name])

    def outcomes(self) -> pl.DataFrame:
        """The table of outcomes.parquet so far, but for ratios."""
        return self._table("outcomes")

    def ratios(self) -> pl.DataFrame:
        """Its rows of ratios so far: ``ratios.linear_outcomes``."""
        return linear_outcomes(self._table("ratios"), self._ratios)

    def ledger(self) -> pl.DataFrame:
        """The table of ledger.parquet so far."""
        return self._table("ledger")

    def totals(self) -> pl.DataFrame:
        """Sums over all steps until now, as of this call: ``aggregates.world_totals``."""
        self.read_out()
        frames = self._tables["outcomes"]
        new, self._n_summed = frames[self._n_summed :], len(frames)
        self._totals = world_totals([self._totals, *new])
        return self._totals

    def units(self, covariates: Sequence[np.ndarray] | None) -> pl.DataFrame | None:
        """The table of units.parquet so far; None where no block's units come more than once.

        The covariates are each start's table U, L and ratios; see ``aggregates.unit_table``.
        """
        of_world = covariates and [
            covariates[start_of(r, len(covariates))] for r in self.replications
        ]
        parts = []
        for block, steps in zip(self.blocks, self._visits, strict=True):
            if steps:
                unit_RX, user_RX, is_treated_RX, y_RXL, *more = (
                    np.concatenate(x, axis=1) for x in zip(*steps, strict=True)
                )
                raw_RXL, n_ratios = y_RXL, len(self._ratios)
                if self._ratios:
                    y_RXL = linear_visits(is_treated_RX, raw_RXL, n_ratios)
                names = [*self.labels, *self._ratios]
                whose = of_world, [(block.label, r) for r in self.replications], names
                found = foretold_RXAL = None
                design = block.design
                if more and not (design.has_own_candidates or design.is_credited):
                    differs_RX = more[0]
                    if len(more) > 1:  # nothing is predicted of ratios
                        told_RXAL, n = more[1][..., : len(self.labels)], len(self._ratios)
                        none = np.full((*told_RXAL.shape[:3], n), np.nan, told_RXAL.dtype)
                        foretold_RXAL = np.concatenate([told_RXAL, none], axis=-1)
                    if not self._has_users:  # each visit is another's
                        user_RX = np.broadcast_to(np.arange(unit_RX.shape[1]), unit_RX.shape)
                    of_users = zip(user_RX, differs_RX, strict=True)
                    parted_RX = np.stack([parted(*x) for x in of_users])
                    found = {"differ": differs_RX, "parted": parted_RX}
                    if self._ratios:
                        own = is_treated_RX, raw_RXL, n_ratios
                        found["y"] = linear_visits(*own, by_arm=False)
                seen = unit_RX, user_RX, is_treated_RX, y_RXL
                parts.append(unit_table(*seen, *whose, found, foretold_RXAL))
        return pl.concat(parts, how="diagonal") if parts else None

    def _units_by_arm(self) -> dict[str, dict[str, int]]:
        """How many units each design gave the treatment and the control, in all worlds.

        Left out are designs with one arm only, and those that lost visits whose arms are not kept.
        """
        found: dict[str, dict[str, int]] = {}
        R, outcomes = len(self.replications), self.outcomes()
        for i, block in enumerate(self.blocks):
            if not 0 < block.p < 1:
                continue
            n_visits_R = self._counts["n_visits_W"][i * R : (i + 1) * R]
            if self._visits[i]:
                unit_RX, is_treated_RX = (
                    np.concatenate([step[k] for step in self._visits[i]], axis=1) for k in (0, 2)
                )
                found[block.label] = units_by_arm(unit_RX, is_treated_RX)
            elif n_visits_R.sum() == self._counts["n_drawn_R"].sum():
                own = outcomes.filter(design=block.label, label=self.labels[0])
                found[block.label] = {x: int(own.filter(arm=x)["n"].sum()) for x in "TC"}
        return found

    def metrics(self) -> pl.DataFrame:
        """The table of metrics.parquet so far, the exhaustion curve included."""
        short = ["users_short", "slates_short"]
        curve = self._table("curve").unpivot(
            short, index=["step", "visits"], variable_name="metric"
        )
        rows = curve.with_columns(
            step=pl.col("step") + 1, n="visits", phase=pl.lit(LOOP), design=pl.lit(""),
            world=pl.lit(None), model=pl.lit(""), label=pl.lit(""), split=pl.lit("data"),
        )  # fmt: skip
        return pl.concat([self._table("metrics"), _as_metrics(rows)])

    def diagnostics(self) -> dict[str, Any]:
        """What tells whether the test could show anything."""
        differ, shares, lost = {}, {}, {}
        n_drawn, R = int(self._counts["n_drawn_R"].sum()), len(self.replications)
        for i in range(len(self.blocks)):
            own = {name: x[i * R : (i + 1) * R] for name, x in self._counts.items()}
            name, visits = block_name(self.blocks, i), int(own["n_visits_W"].sum())
            differ[name] = int(own["n_differ_W"].sum()) / visits if visits else None
            lost[name] = 1.0 - visits / n_drawn if n_drawn else None
            n_AL, sum_AL = own["share_n_WAL"].sum(0), own["share_sum_WAL"].sum(0)
            shares[name] = {
                arm: {
                    label: float(sum_AL[a, j] / n_AL[a, j]) if n_AL[a, j] else None
                    for j, label in enumerate(self._learned_labels)
                }
                for a, arm in enumerate("CT")
            }
        points = self._table("curve").drop("visits").to_dicts()
        every, last = max(1, len(points) // _MAX_POINTS), len(points) - 1
        return {
            "share_of_visits_where_arms_differ": differ,
            "share_of_visits_lost": lost,
            "units_by_arm": self._units_by_arm(),
            "label_share_of_score_variance": shares,
            "exhaustion": [p for i, p in enumerate(points) if i % every == 0 or i == last],
        }


def recorded(step: Step) -> Step:
    """A step with what a recorder reads of it, for a file between the two."""
    draws = {k: getattr(step.visits, k)[:, :0] for k in ("arm_draw_RB", "n_candidates_RB")}
    visits = replace(step.visits, user_RB=step.visits.user_RB.int(), **draws)
    return replace(step, visits=visits, n_candidates_WB=step.n_candidates_WB.int())


def _joined(name: str, frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """The frames of a table as one."""
    return pl.concat([pl.DataFrame(schema=_SCHEMAS[name]), *frames])


def _as_metrics(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows of metrics.parquet, with its columns in their order."""
    return frame.select(pl.col(name).cast(kind) for name, kind in METRIC_SCHEMA.items())


def _mean(x_X: np.ndarray) -> float:
    """Of those that are known; NaN where none is."""
    known_X = x_X[~np.isnan(x_X)]
    return float(known_X.mean()) if len(known_X) else np.nan


def _units(unit_RB: torch.Tensor, design: str) -> np.ndarray:
    """A design's units as they are kept; RunError where they are too large or negative."""
    found = unit_RB.cpu().numpy()
    if found.size and not 0 <= found.min() <= found.max() <= np.iinfo(np.int32).max:
        raise RunError(
            f"design {design}: unit() returned numbers from {found.min()} to {found.max()}; wanted "
            f"0 to {np.iinfo(np.int32).max}"
        )
    return found.astype(np.int32)


def block_name(blocks: tuple[Block, ...], index: int) -> str:
    """A block's label; the two worlds of the truth are told apart by their arm."""
    same = [b for b in blocks if b.label == blocks[index].label]
    return blocks[index].label + ("" if len(same) == 1 else f"_{'T' if blocks[index].p else 'C'}")


def _network_of_arm(blocks: Sequence[Block], R: int) -> np.ndarray:
    """The place among the S networks of the one that ranks for each world's arm: W, A."""
    found, first = [], 0
    for block in blocks:
        n = block.design.n_models
        found += [(first + r, first + (n - 1) * R + r) for r in range(R)]
        first += n * R
    return np.array(found)


def network_names(
    blocks: tuple[Block, ...], replications: tuple[int, ...]
) -> list[tuple[str, int, str]]:
    """Design, replication and model of each of the S networks, in their order."""
    return [
        (block_name(blocks, i), r, "shared" if block.design.n_models == 1 else "CT"[m])
        for i, block in enumerate(blocks)
        for m in range(block.design.n_models)
        for r in replications
    ]
