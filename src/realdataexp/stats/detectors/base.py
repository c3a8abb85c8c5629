"""What detectors see of a design's tests, and the regression over steps.

Axes: Z cells (one world and label each), T steps, A arms (0 = control, 1 = treatment).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from scipy import stats

from realdataexp.stats.aggregates import LEAST_P_VALUE
from realdataexp.stats.blocks import block_edges
from realdataexp.stats.intervals import Intervals, student

MIN_STEPS = 16
LEARNS_NOTHING = "its models learn nothing during the test"
TOO_SHORT = f"the test has fewer than {MIN_STEPS} steps with both arms"


@dataclass(frozen=True)
class DetectorTables:
    """One design's rows of outcomes.parquet and ledger.parquet.

    ``retrain_every`` is the number of steps between two rounds of training.
    """

    design: str
    outcomes: pl.DataFrame
    ledger: pl.DataFrame
    retrain_every: int = 1

    @cached_property
    def cells(self) -> pl.DataFrame:
        """World, label and number of each cell."""
        found = self.outcomes.select("world", "label").unique(maintain_order=True)
        return found.with_row_index("cell")

    @property
    def n_cells(self) -> int:
        """How many worlds times labels there are."""
        return self.cells.height

    @cached_property
    def n_steps(self) -> int:
        """How many steps the test has, from step 0 on."""
        return int(self.ledger["step"].max() or 0) + 1  # type: ignore[arg-type]

    @cached_property
    def _sums(self) -> tuple[np.ndarray, ...]:
        rows = self.outcomes.join(self.cells, on=["world", "label"])
        return self._filled(rows, "n", "sum", "sum_sq")

    @property
    def n_ZTA(self) -> np.ndarray:
        """Visits with a known outcome."""
        return self._sums[0]

    @property
    def sum_ZTA(self) -> np.ndarray:
        """Sums of their outcomes."""
        return self._sums[1]

    @property
    def sum_sq_ZTA(self) -> np.ndarray:
        """Sums of their squares."""
        return self._sums[2]

    @cached_property
    def _lessons(self) -> tuple[np.ndarray, ...]:
        worlds = self.cells.select("world", "cell")
        rows = self.ledger.join(worlds, on="world")
        return self._filled(rows, "visits", "differ", "own_weight", "other_weight")

    @property
    def visits_ZTA(self) -> np.ndarray:
        """Visits, whether or not an outcome of them is known."""
        return self._lessons[0]

    @property
    def differ_ZTA(self) -> np.ndarray:
        """Visits in which the arms would have picked differently."""
        return self._lessons[1]

    @property
    def own_ZTA(self) -> np.ndarray:
        """The weight of an arm's visits in what its own model learns."""
        return self._lessons[2]

    @property
    def other_ZTA(self) -> np.ndarray:
        """The weight of the other arm's visits in what an arm's model learns."""
        return self._lessons[3]

    def _filled(self, rows: pl.DataFrame, *names: str) -> tuple[np.ndarray, ...]:
        """Columns as arrays Z, T, A, 0 where there is no row."""
        at = (
            rows["cell"].cast(pl.Int64).to_numpy(),
            rows["step"].cast(pl.Int64).to_numpy(),
            (rows["arm"] == "T").cast(pl.Int64).to_numpy(),
        )
        found = []
        for name in names:
            x_ZTA = np.zeros((self.n_cells, self.n_steps, 2))
            x_ZTA[at] = rows[name].to_numpy()
            found.append(x_ZTA)
        return tuple(found)

    @cached_property
    def effect_ZT(self) -> np.ndarray:
        """The difference of the arms' means in each step; NaN where an arm has no outcome."""
        return difference(self.n_ZTA, self.sum_ZTA)

    @property
    def learns(self) -> bool:
        """Whether any model learns anything."""
        return bool(self.own_ZTA.any() or self.other_ZTA.any())

    @property
    def has_one_model(self) -> bool:
        """Whether both arms rank with one model: each visit counts alike for both."""
        return np.array_equal(self.own_ZTA, self.other_ZTA[..., ::-1])


Detector = Callable[[DetectorTables], Intervals | str]
"""An answer for each cell, in the order of ``cells``; or why there is none for any of them."""


def difference(n_ZXA: np.ndarray, sum_ZXA: np.ndarray) -> np.ndarray:
    """The treatment's mean minus the control's: Z, X; NaN where an arm has no outcome."""
    with np.errstate(invalid="ignore"):
        mean_ZXA = sum_ZXA / np.where(n_ZXA > 0, n_ZXA, np.nan)
    return mean_ZXA[..., 1] - mean_ZXA[..., 0]


def share_changes(tables: DetectorTables) -> np.ndarray:
    """Whether the share treated changes during the test beyond chance: Z.

    By a chi-square test of the treated visits in about sqrt(T) blocks of steps, p < 0.0001.
    """
    edges = block_edges(tables.n_steps)[:-1]
    visits_ZKA = np.add.reduceat(tables.visits_ZTA, edges, axis=1)
    n_ZK = visits_ZKA.sum(-1)
    share_Z1 = visits_ZKA[..., 1].sum(1, keepdims=True) / n_ZK.sum(1, keepdims=True).clip(1)
    expected_ZK = n_ZK * share_Z1 * (1 - share_Z1)
    rest_ZK = (visits_ZKA[..., 1] - n_ZK * share_Z1) ** 2
    square_Z = (rest_ZK / np.where(expected_ZK > 0, expected_ZK, np.inf)).sum(1)
    found: np.ndarray = stats.chi2.sf(square_Z, (n_ZK > 0).sum(1) - 1) < LEAST_P_VALUE
    return found


def hac_slope(x_ZT: np.ndarray, y_ZT: np.ndarray) -> Intervals:
    """The slope of y on x over steps, with a standard error that bears autocorrelation.

    Least squares with an intercept. The variance is Newey and West's (1987, Econometrica 55:703):
    with x~ the regressor minus its mean and s_t = x~_t u_t, u the residuals,

        n / (n - 2) (sum_t s_t^2 + 2 sum_{l=1}^{L} (1 - l/(L+1)) sum_t s_t s_{t-l}) / (sum x~^2)^2

    with L = floor(4 (n/100)^(2/9)) lags (Newey and West 1994, Review of Economic Studies 61:631)
    and Student's t with n - 2 degrees of freedom. As statsmodels' ``cov_type="HAC"`` with
    ``use_correction`` has it (the tests compare), which takes one series a call. A step in which x
    or y is NaN is left out, and counts as a lag.

    NaN with fewer than ``MIN_STEPS`` steps, or where x or y does not vary.
    """
    known_ZT = np.isfinite(x_ZT) & np.isfinite(y_ZT)
    n_Z = known_ZT.sum(1)
    is_enough_Z = n_Z >= MIN_STEPS
    n_Z1 = np.where(is_enough_Z, n_Z, np.nan)[:, None]

    def centred(a_ZT: np.ndarray) -> np.ndarray:
        a_ZT = np.where(known_ZT, a_ZT, 0.0)
        first_Z1 = a_ZT[np.arange(len(a_ZT)), known_ZT.argmax(1)][:, None]
        a_ZT = np.where(known_ZT, a_ZT - first_Z1, 0.0)  # so that a constant is exactly 0
        return np.where(known_ZT, a_ZT - a_ZT.sum(1, keepdims=True) / n_Z1, 0.0)

    x_ZT, y_ZT = centred(x_ZT), centred(y_ZT)
    square_Z = (x_ZT**2).sum(1)
    square_Z = np.where(square_Z > 0, square_Z, np.nan)
    slope_Z = (x_ZT * y_ZT).sum(1) / square_Z
    score_ZT = x_ZT * (y_ZT - slope_Z[:, None] * x_ZT)
    sum_Z = (score_ZT**2).sum(1)
    n_lags_Z = np.floor(4 * (n_Z / 100) ** (2 / 9))
    for lag in range(1, int(n_lags_Z.max(initial=0)) + 1):
        weight_Z = (1 - lag / (n_lags_Z + 1)).clip(0)
        sum_Z += 2 * weight_Z * (score_ZT[:, lag:] * score_ZT[:, :-lag]).sum(1)
    se_Z = np.sqrt(n_Z / (n_Z - 2.0).clip(1) * sum_Z.clip(0)) / square_Z
    varies_Z = (y_ZT != 0).any(1)
    return student(slope_Z, np.where(varies_Z, se_Z, np.nan), n_Z - 2.0)
