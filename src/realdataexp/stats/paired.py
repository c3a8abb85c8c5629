"""Differences of the arms where their picks differ: elsewhere there is no effect to be noisy about.

Who scores each request with both arms knows which visits both would have answered alike. There the
outcome does not depend on the arm, so that the effect is that of the other visits, times their
share. A difference of all visits' means adds the noise of those that cannot tell the arms apart
(off-policy estimation of a difference of policies: Jeunen & Ustimenko, arXiv 2405.10024). With D of
N visits in which they differ, and the arms' means over these,

    value = D / N (mean_T - mean_C).

For outcomes of equal variance its standard error is sqrt(D / N) of user_cluster's; where the picks
always differ it is user_cluster, to the bit.

Where users come back and keep what they were shown, an earlier visit's pick changes the slate of a
later one, and a visit in which both arms agree on that slate is not free of the effect. So two
forms: ``paired`` leaves out a visit only as long as the arms have agreed in all of its user's
visits, itself included, which is exact; ``paired_visit`` whenever they agree in the visit itself:
it takes the effect of earlier picks on such visits for nothing. Where every visit is a new user
they are the same.

Axes: Z cells, U units, A arms (0 = control, 1 = treatment).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from realdataexp.stats.clustered import fitted
from realdataexp.stats.intervals import (
    Intervals,
    cannot_tell,
    compares,
    of_picks,
    of_units,
    student,
)
from realdataexp.stats.tables import DesignTables, Units

_compares_picks = compares(
    "visits whose picks by both arms are from the same slate, and known",
    lambda tables: tables.has_picks,
)


@of_units
@of_picks
@_compares_picks
def paired(tables: DesignTables) -> Intervals:
    """The effect of visits from a user's first one on in which the arms' picks differ."""
    return _where(tables, "parted")


@of_units
@of_picks
@_compares_picks
def paired_visit(tables: DesignTables) -> Intervals:
    """The effect of visits in which the arms' picks differ, whatever came before."""
    return _where(tables, "differ")


def _where(tables: DesignTables, which: str) -> Intervals:
    """The share of such visits times the difference of the arms' means over them.

    Where no visit is such, the effect is 0 exactly. Cannot tell where an arm has such visits of
    less than two units.
    """
    units = tables.units
    if units is None or not units.picks:
        return cannot_tell(tables.n_cells)
    return interval(units, plain(units, which))


class Difference(NamedTuple):
    """An effect from some visits alone, and what each unit moved it by."""

    value_Z: np.ndarray
    moved_U: np.ndarray
    df_Z: np.ndarray
    is_never_Z: np.ndarray  # no visit is such


def plain(units: Units, which: str) -> Difference:
    """The difference of outcomes of the visits that are "differ" or "parted"."""
    if which not in units.known:
        units.known[which] = difference(units, which, units.picks[f"sum_{which}"])
    found: Difference = units.known[which]
    return found


def difference(
    units: Units, which: str, sum_UA: np.ndarray, own_U: np.ndarray | None = None
) -> Difference:
    """D / N (mean_T - mean_C + mean), of sums over the visits that are "differ" or "parted".

    A unit moves the share by (D_u - share N_u) / N, and the difference as in ``clustered.fitted``;
    the squares of both together sum to the variance.

    Args:
        units: all of them.
        which: see above.
        sum_UA: of the visits in each arm.
        own_U: a unit's sum over the visits in both, whose mean is added; None: 0.
    """
    n_UA, cell = units.picks[f"n_{which}"], units.cell_U
    some = replace(units, n_UA=n_UA, sum_UA=sum_UA)
    value_Z, influence_UA, df_Z = fitted(some, None)
    n_Z, of_Z = units.n_ZA.sum(1), some.n_ZA.sum(1)
    influence_U = influence_UA.sum(1)
    if own_U is not None:
        known_Z = np.where(of_Z > 0, of_Z, np.nan)
        mean_Z = units.total(own_U) / known_Z
        value_Z = value_Z + mean_Z
        influence_U = influence_U + (own_U - mean_Z[cell] * n_UA.sum(1)) / known_Z[cell]
    share_Z = of_Z / np.where(n_Z > 0, n_Z, np.nan)
    of_share_U = (n_UA.sum(1) - share_Z[cell] * units.n_UA.sum(1)) / n_Z[cell]
    moved_U = share_Z[cell] * influence_U + value_Z[cell] * of_share_U
    return Difference(share_Z * value_Z, moved_U, df_Z, share_Z == 0)


def interval(units: Units, found: Difference) -> Intervals:
    """Student's interval of it; one point, 0, where no visit tells the arms apart."""
    se_Z = np.sqrt(units.total(found.moved_U**2))
    t = student(found.value_Z, se_Z, found.df_Z)
    value_Z, se_Z, low_Z, high_Z = (
        np.where(found.is_never_Z, 0.0, x) for x in (t.value, t.se, t.ci_low, t.ci_high)
    )
    return Intervals(value_Z, se_Z, low_Z, high_Z, t.p_value)
