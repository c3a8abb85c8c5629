"""Differences in Qs: the effect of a visit's arm on all that its unit does from there on.

Where a visit's arm is drawn anew, an earlier visit of the other arm changes what a later one can
get: it uses up, or leaves over, the user's good videos. The difference of the arms' means counts
what a treated visit takes from the visits after it as nothing, or as the control's.

Farias, Li, Peng & Zheng (2022, arXiv 2206.02371; on a video platform 2023, arXiv 2305.02542) take
the difference of Q-values in place of that of outcomes. With Q of a visit the sum of its unit's
outcomes from this visit on, and arms drawn independently with probability p,

    E[Q | treated] - E[Q | control] = F'(p) / n,

where F(p) is what a unit of n visits yields at p, while F(1) - F(0) is the launch. So it is right
where F is a line, and for p = 1/2 where F is a parabola: what is left is of the third order. What
passes from one unit to another, as through a model that both train, it does not see.

Axes: Z cells, U units, A arms.
"""

from __future__ import annotations

from dataclasses import replace

from realdataexp.stats.clustered import regression
from realdataexp.stats.intervals import Intervals, cannot_tell, compares, of_units
from realdataexp.stats.tables import DesignTables


@of_units
@compares(
    "visits of one unit in both arms (experiment.assignment = visit)",
    lambda tables: tables.draws_arm_by_visit,
)
def differences_in_qs(tables: DesignTables) -> Intervals:
    """Mean Q of treated visits minus that of control visits, with the variance CR2 of units.

    Q is centred (``aggregates.outcomes_ahead``), which changes nothing on average.
    """
    units = tables.units
    if units is None:
        return cannot_tell(tables.n_cells)
    return regression(replace(units, sum_UA=units.ahead_UA), None)
