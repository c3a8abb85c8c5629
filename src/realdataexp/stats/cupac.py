"""What is left of the arms' difference after what the models foretold of their users (CUPAC).

Tang, Huang, Kastelman and Bauman 2020 (DoorDash): CUPED, with the prediction of a model in place of
an outcome from before the test, so that a user without a past has a covariate too.

The prediction is the one at the user's first visit: that of the starting model, and of what others'
visits have taught it since, and the mean over both arms' models and picks. So it does not depend on
the user's arm, and nothing has been learned from the user's outcomes in the test.
"""

from __future__ import annotations

from dataclasses import replace

from realdataexp.stats.clustered import adjusted
from realdataexp.stats.intervals import Intervals, cannot_tell, compares, of_foretold, of_units
from realdataexp.stats.tables import DesignTables


@of_units
@of_foretold
@compares(
    "users of whose outcomes models predict something before the arm matters",
    lambda tables: tables.has_foretold,
)
def cupac(tables: DesignTables) -> Intervals:
    """``user_cluster`` less what the models foretold of the units: see ``clustered.adjusted``.

    Cannot tell where no model predicts the outcome, or the same for all.
    """
    units = tables.units
    if units is None or units.foretold_U is None:
        return cannot_tell(tables.n_cells)
    return adjusted(replace(units, covariate_U=units.foretold_U))
