"""Did each arm get the share of units that was planned (sample-ratio mismatch)?

Where it did not, what assigns the arms is broken, or it lost some of them, and no estimate from
such a test is to be trusted: Fabijan et al., KDD 2019.

Axes: R replications, X visits of a whole run.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

LEAST_P_VALUE = 1e-4  # how often a right assignment is called a mismatch, at most


def units_by_arm(unit_RX: np.ndarray, is_treated_RX: np.ndarray) -> dict[str, int]:
    """How many units had the treatment, and the control, over all replications.

    Args:
        unit_RX: what was randomised as one, from 0; less for what is no visit.
        is_treated_RX: each visit's arm. Where visits of one unit have both arms, they were not
            randomised as one: the visits are counted then.

    Returns:
        Those of T and those of C.
    """
    n_units, n_visits = np.zeros(2, dtype=int), np.zeros(2, dtype=int)
    is_mixed = False
    for unit_X, is_treated_X in zip(unit_RX, is_treated_RX, strict=True):
        on_X = unit_X >= 0
        arm_x = is_treated_X[on_X].astype(np.int64)
        key_u = np.unique(2 * unit_X[on_X].astype(np.int64) + arm_x)
        is_mixed |= len(np.unique(key_u // 2)) < len(key_u)
        n_units += np.bincount(key_u % 2, minlength=2)
        n_visits += np.bincount(arm_x, minlength=2)
    n_C, n_T = (n_visits if is_mixed else n_units).tolist()
    return {"T": n_T, "C": n_C}


def ratio_p_value(n_T: int, n_C: int, p: float) -> float:
    """Exact binomial test of the number of treated units against the share p; 1 without units.

    Examples:
        >>> ratio_p_value(1920, 1280, 0.5) < 1e-28, round(ratio_p_value(52, 48, 0.5), 2)
        (True, 0.76)
    """
    return float(binomtest(n_T, n_T + n_C, p).pvalue) if n_T + n_C else 1.0
