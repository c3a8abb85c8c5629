"""What everybody and nobody treated would give, extrapolated from the stages of a rollout.

Where one's outcome depends on how many others are treated, each arm has a mean at every share p:
m_T(p) and m_C(p). The global effect is m_T(1) - m_C(0), and neither end is seen. A rollout sees
both arms at several shares, so polynomials in p, one for each arm, can be fitted and read at 1 and
at 0 (Boyarsky, Namkoong & Pouget-Abadie 2023, arXiv 2305.10728; stages of increasing allocation as
evidence of interference: Han, Li, Mao & Wu 2023, arXiv 2211.03262).

Two things they assume, and cannot check: that the polynomial holds out to 1 and 0, and that nothing
but the share changes from stage to stage. In a rollout the share rises with time, so whatever time
does (models learn, what is good is used up) enters as an effect of the share.

Standard errors take visits as independent, given the stage.

Axes: Z cells, K stages (distinct shares), A arms, D powers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from realdataexp.stats.intervals import Intervals, Method, compares, student
from realdataexp.stats.tables import DesignTables

ENDS = (0.0, 1.0)  # where the control's mean is read, and the treatment's


def of_shares(n: int) -> Callable[[Method], Method]:
    """Mark an estimator that compares steps of n shares or more."""
    return compares(
        f"steps in which {n} different shares or more were treated (design rollout)",
        lambda tables: tables.n_shares >= n,
    )


@dataclass(frozen=True)
class Stages:
    """Visits, and mean and variance of their outcomes, by stage and arm.

    NaN where a cell's stage has no visit in an arm, or one only (variance).
    """

    share_K: np.ndarray
    n_ZKA: np.ndarray
    mean_ZKA: np.ndarray
    variance_ZKA: np.ndarray

    @classmethod
    def of(cls, tables: DesignTables) -> Stages:
        """Those of a design; stages of the same share are one."""
        known = tables.outcomes.drop_nulls("p")
        share_K = known["p"].unique().sort().to_numpy()
        sums = (
            known.with_columns(
                is_treated=pl.col("arm") == "T",
                stage=pl.Series(np.searchsorted(share_K, known["p"].to_numpy())),
            )
            .group_by("world", "label", "stage", "is_treated")
            .agg(pl.col("n", "sum", "sum_sq").cast(pl.Float64).sum())
            .join(tables.cells, on=["world", "label"], how="inner")
        )
        at = tuple(sums[x].cast(pl.Int64).to_numpy() for x in ("cell", "stage", "is_treated"))
        n_ZKA, sum_ZKA, square_ZKA = np.zeros((3, tables.n_cells, len(share_K), 2))
        for x_ZKA, name in ((n_ZKA, "n"), (sum_ZKA, "sum"), (square_ZKA, "sum_sq")):
            x_ZKA[at] = sums[name].to_numpy()
        mean_ZKA = sum_ZKA / np.where(n_ZKA > 0, n_ZKA, np.nan)
        rest_ZKA = (square_ZKA - n_ZKA * mean_ZKA**2).clip(0.0)
        return cls(share_K, n_ZKA, mean_ZKA, rest_ZKA / np.where(n_ZKA > 1, n_ZKA - 1, np.nan))

    def only(self, stages: np.ndarray) -> Stages:
        """Some of the stages, by number."""
        of_stages = (self.n_ZKA, self.mean_ZKA, self.variance_ZKA)
        return Stages(self.share_K[stages], *(x[:, stages] for x in of_stages))

    def coefficients(self, degree: int) -> np.ndarray:
        """What each stage's mean counts for in its arm's value at the end: Z, K, A.

        Least squares over visits: with X the powers of the shares and n an arm's visits by stage,
        x' (X' diag(n) X)^-1 X' diag(n), x the powers of 0 (control) or 1. NaN where some stage of
        the arm has no visit.
        """
        X_KD = np.vander(self.share_K, degree + 1, increasing=True)
        out_ZKA = np.full_like(self.n_ZKA, np.nan)
        for a, end in enumerate(ENDS):
            has_all_Z = (self.n_ZKA[:, :, a] > 0).all(1)
            n_zK = self.n_ZKA[has_all_Z, :, a]
            normal_zDD = np.einsum("kd,zk,ke->zde", X_KD, n_zK, X_KD)
            x_D1 = np.vander([end], degree + 1, increasing=True).T
            solved_zD1 = np.linalg.inv(normal_zDD) @ x_D1
            out_ZKA[has_all_Z, :, a] = n_zK * np.einsum("kd,zde->zk", X_KD, solved_zD1)
        return out_ZKA

    def contrast(self, coefficient_ZKA: np.ndarray) -> Intervals:
        """The treatment's combination of its stages' means minus the control's.

        Its variance is the sum of coefficient^2 variance / n, with Satterthwaite's degrees of
        freedom.
        """
        value_ZA = (coefficient_ZKA * self.mean_ZKA).sum(1)
        n_ZKA = np.where(self.n_ZKA > 0, self.n_ZKA, np.nan)
        part_ZKA = coefficient_ZKA**2 * self.variance_ZKA / n_ZKA
        variance_Z = part_ZKA.sum((1, 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            df_Z = variance_Z**2 / (part_ZKA**2 / (n_ZKA - 1)).sum((1, 2))
        df_Z = np.where(variance_Z == 0, 1.0, df_Z)
        return student(value_ZA[:, 1] - value_ZA[:, 0], np.sqrt(variance_Z), df_Z)


@of_shares(2)
def rollout_last(tables: DesignTables) -> Intervals:
    """The difference of the arms' means in the stage of the largest share, with Welch's interval.

    What is usually read off a rollout: no extrapolation, and no outcome of another time.
    """
    stages = Stages.of(tables)
    last = stages.only(np.array([-1]))
    return last.contrast(np.ones_like(last.n_ZKA))


@of_shares(2)
def rollout_linear(tables: DesignTables) -> Intervals:
    """The arms' means as lines in the share, the treatment's read at 1, the control's at 0.

    Cannot tell where an arm has no visit in some stage.
    """
    stages = Stages.of(tables)
    return stages.contrast(stages.coefficients(1))


@of_shares(3)
def rollout_quadratic(tables: DesignTables) -> Intervals:
    """As ``rollout_linear``, with parabolas; with three shares these meet every mean."""
    stages = Stages.of(tables)
    return stages.contrast(stages.coefficients(2))


@of_shares(3)
def rollout_jackknife(tables: DesignTables) -> Intervals:
    """The value of ``rollout_linear``, with an error from leaving out each stage in turn.

    With t_k the value without stage k, se^2 = (K - 1) / K sum_k (t_k - mean)^2 and Student's t with
    K - 1 degrees of freedom (the delete-one jackknife; Boyarsky et al. choose among models by
    leaving out one period). Where it is far above the error of ``rollout_linear``, the stages do
    not lie on lines: the share acts otherwise, or time does something of its own.
    """
    stages = Stages.of(tables)
    K = len(stages.share_K)
    parts = [stages.only(np.delete(np.arange(K), k)) for k in range(K)]
    value_KZ = np.stack([part.contrast(part.coefficients(1)).value for part in parts])
    se_Z = np.sqrt((K - 1) / K * ((value_KZ - value_KZ.mean(0)) ** 2).sum(0))
    whole = stages.contrast(stages.coefficients(1))
    return student(whole.value, se_Z, np.full(len(se_Z), K - 1.0))
