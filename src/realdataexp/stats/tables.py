"""One design's tables, laid out as arrays for the interval methods.

Axes: Z cells (one world and label each), U units of cells (a unit has one for each label), A arms
(0 = control, 1 = treatment), G units of one world.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from realdataexp.stats.aggregates import FORETOLD_SCHEMA, PICKS_SCHEMA
from realdataexp.stats.estimates import world_estimates


@dataclass(frozen=True)
class Units:
    """The units' visits and outcomes in each arm, sorted by cell and unit.

    ``ahead_UA`` is the sum of ``aggregates.outcomes_ahead``, NaN where that is not known;
    ``picks`` are the columns of ``aggregates.PICKS_SCHEMA`` and FORETOLD_SCHEMA, U, A each, as far
    as the table has them; ``foretold_U`` is the one of these that is the same in both arms.
    ``known`` keeps what several methods compute of these units alone.
    """

    n_cells: int
    cell_U: np.ndarray
    unit_U: np.ndarray
    n_UA: np.ndarray
    sum_UA: np.ndarray
    covariate_U: np.ndarray
    ahead_UA: np.ndarray
    picks: Mapping[str, np.ndarray] = field(default_factory=dict)
    foretold_U: np.ndarray | None = None
    known: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def total(self, x_U: np.ndarray) -> np.ndarray:
        """The sum of something over each cell's units: Z."""
        return np.bincount(self.cell_U, weights=x_U, minlength=self.n_cells)

    @cached_property
    def count_ZA(self) -> np.ndarray:
        """Units with outcomes in each arm."""
        return np.stack([self.total(self.n_UA[:, a] > 0) for a in (0, 1)], axis=1)

    @cached_property
    def n_ZA(self) -> np.ndarray:
        """Visits in each arm."""
        return np.stack([self.total(self.n_UA[:, a]) for a in (0, 1)], axis=1)

    def ratios(self, sum_UA: np.ndarray) -> np.ndarray:
        """Each arm's mean per visit, NaN where an arm has no visit: Z, A."""
        sum_ZA = np.stack([self.total(sum_UA[:, a]) for a in (0, 1)], axis=1)
        return sum_ZA / np.where(self.n_ZA > 0, self.n_ZA, np.nan)

    def difference(self, sum_UA: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The difference of the arms' ratios sum/n, and every unit's influence on it.

        The delta method for a ratio of sums (Deng, Knoblich and Lu 2018, arXiv 1803.06336,
        section 3): unit u moves arm a's ratio R_a by (sum_u - R_a n_u) / N_a. A unit with visits
        in both arms moves both. Influences of an arm carry the factor sqrt(g / (g - 1)) of its g
        units, so that with one visit a unit their squares sum to Welch's variance.

        Returns:
            The difference (Z; NaN where an arm is empty), the influences (U; NaN where an arm has
            fewer than two units).
        """
        ratio_ZA = self.ratios(sum_UA)
        count_ZA = np.where(self.count_ZA > 1, self.count_ZA, np.nan)
        scale_ZA = np.sqrt(count_ZA / (count_ZA - 1)) / self.n_ZA.clip(1)
        moved_UA = scale_ZA[self.cell_U] * (sum_UA - ratio_ZA[self.cell_U] * self.n_UA)
        return ratio_ZA[:, 1] - ratio_ZA[:, 0], moved_UA[:, 1] - moved_UA[:, 0]


@dataclass(frozen=True)
class WorldUnits:
    """The units of one world, which get the same weights for every label."""

    world: int
    cells: np.ndarray
    rows: np.ndarray
    n_units: int
    _unit: np.ndarray
    _column: np.ndarray

    def dense(self, x_U: np.ndarray) -> np.ndarray:
        """Something of each unit, by unit in ascending order and label, 0 where none: G, L."""
        out = np.zeros((self.n_units, len(self.cells)))
        out[self._unit, self._column] = x_U[self.rows]
        return out


@dataclass(frozen=True)
class DesignTables:
    """One design's rows of the outcomes, and of the units' table (None where it has none)."""

    design: str
    outcomes: pl.DataFrame
    unit_sums: pl.DataFrame | None = None

    @cached_property
    def estimates(self) -> pl.DataFrame:
        """Welch's estimates: their rows are the cells, in their order."""
        return world_estimates(self.outcomes)

    def of_welch(self, *names: str) -> list[np.ndarray]:
        """Some of their columns: float64 Z, NaN where there is no number."""
        return [self.estimates[x].cast(pl.Float64).fill_null(np.nan).to_numpy() for x in names]

    @cached_property
    def sums_XZA(self) -> np.ndarray:
        """Count, sum and sum of squares (X) of each cell's outcomes by arm."""
        sums = (
            self.outcomes.group_by("world", "label", is_treated=pl.col("arm") == "T")
            .agg(pl.col("n", "sum", "sum_sq").cast(pl.Float64).sum())
            .join(self.cells, on=["world", "label"], how="inner")
        )
        out = np.zeros((3, self.n_cells, 2))
        at = (sums["cell"].to_numpy(), sums["is_treated"].cast(pl.Int64).to_numpy())
        out[:, *at] = sums.select("n", "sum", "sum_sq").to_numpy().T
        return out

    @property
    def n_cells(self) -> int:
        """How many worlds times labels there are."""
        return self.estimates.height

    @cached_property
    def n_shares(self) -> int:
        """How many shares were treated, each in some steps; 1 where that is not known."""
        return self.outcomes["p"].drop_nulls().n_unique() if "p" in self.outcomes.columns else 1

    @property
    def n_labels(self) -> int:
        """How many labels are tested together."""
        return self.estimates["label"].n_unique()

    @cached_property
    def cells(self) -> pl.DataFrame:
        """World, label and number of each cell."""
        return self.estimates.select("world", "label").with_row_index("cell")

    @cached_property
    def units(self) -> Units | None:
        """The units as arrays; None where the design has none."""
        if self.unit_sums is None or self.unit_sums.height == 0:
            return None
        found = (
            self.unit_sums.with_columns(pl.col("label").cast(pl.String))
            .join(self.cells, on=["world", "label"], how="inner")
            .select(
                pl.col("cell", "unit").cast(pl.Int64),
                is_treated=pl.col("arm").cast(pl.String) == "T",
                n="n", sum="sum", covariate=pl.col("covariate").fill_null(float("nan")),
                ahead=self._ahead, foretold=self._foretold, **self._picks,
            )
            .sort("cell", "unit")
        )  # fmt: skip
        if found.height == 0:
            return None
        cell, number = found["cell"].to_numpy(), found["unit"].to_numpy()
        is_first = np.ones(len(cell), dtype=bool)
        is_first[1:] = (cell[1:] != cell[:-1]) | (number[1:] != number[:-1])
        unit = np.cumsum(is_first) - 1
        arm = found["is_treated"].to_numpy().astype(np.int64)
        n_UA = np.zeros((int(is_first.sum()), 2))
        sum_UA = np.zeros_like(n_UA)
        np.add.at(n_UA, (unit, arm), found["n"].to_numpy())
        np.add.at(sum_UA, (unit, arm), found["sum"].to_numpy())
        covariate = found["covariate"].to_numpy()[is_first]
        ahead_UA = np.zeros_like(n_UA)
        np.add.at(ahead_UA, (unit, arm), found["ahead"].to_numpy())
        ahead_UA[np.isnan(ahead_UA).any(1)] = np.nan
        picks = {name: np.zeros_like(n_UA) for name in self._picks}
        for name, x_UA in picks.items():
            np.add.at(x_UA, (unit, arm), found[name].to_numpy())
        own = cell[is_first], number[is_first]
        foretold = found["foretold"].to_numpy()[is_first] if self.has_foretold else None
        return Units(self.n_cells, *own, n_UA, sum_UA, covariate, ahead_UA, picks, foretold)

    @property
    def _picks(self) -> dict[str, pl.Expr]:
        """The columns of both arms' picks; none where they are not known."""
        if not self.has_picks:
            return {}
        more = [*FORETOLD_SCHEMA][1:] if self.has_foretold else []
        known = {name: pl.col(name).cast(pl.Float64) for name in (*PICKS_SCHEMA, *more)}
        return {name: x.fill_null(float("nan")) for name, x in known.items()}

    @cached_property
    def has_picks(self) -> bool:
        """Whether it is known at which visits the two arms' picks differ."""
        sums = self.unit_sums
        if sums is None or not {*PICKS_SCHEMA} <= {*sums.columns}:
            return False
        return not sums["n_differ"].has_nulls() and sums.height > 0

    @cached_property
    def has_foretold(self) -> bool:
        """Whether it is known what was predicted of both picks, for some outcome."""
        sums = self.unit_sums
        if sums is None or not self.has_picks or not {*FORETOLD_SCHEMA} <= {*sums.columns}:
            return False
        return sums["foretold"].null_count() < sums.height

    @property
    def _ahead(self) -> pl.Expr:
        has_it = self.unit_sums is not None and "ahead" in self.unit_sums.columns
        return pl.col("ahead").fill_null(float("nan")) if has_it else pl.lit(float("nan"))

    @property
    def _foretold(self) -> pl.Expr:
        nothing = pl.lit(float("nan"))
        return pl.col("foretold").fill_null(float("nan")) if self.has_foretold else nothing

    @cached_property
    def draws_arm_by_visit(self) -> bool:
        """Whether units have visits in both arms, though the share treated is always the same."""
        units = self.units
        return units is not None and self.n_shares == 1 and not np.isnan(units.ahead_UA).all()

    def world_units(self) -> Iterator[WorldUnits]:
        """The units world by world."""
        units = self.units
        if units is None:
            return
        world_U = self.cells["world"].to_numpy()[units.cell_U]
        order = np.argsort(world_U, kind="stable")
        worlds, starts = np.unique(world_U[order], return_index=True)
        for world, rows in zip(worlds, np.split(order, starts[1:]), strict=True):
            numbers, unit = np.unique(units.unit_U[rows], return_inverse=True)
            cells, column = np.unique(units.cell_U[rows], return_inverse=True)
            yield WorldUnits(int(world), cells, rows, len(numbers), unit, column)
