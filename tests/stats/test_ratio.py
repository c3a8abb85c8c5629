"""Sample-ratio mismatch: found where the arms' shares are wrong, seldom where they are right."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from realdataexp.stats.aggregates import LEAST_P_VALUE, ratio_p_value, units_by_arm


@pytest.mark.parametrize("p", [0.5, 0.1, 0.9])
@pytest.mark.parametrize("n", [1, 4, 20, 300])
def test_a_right_assignment_is_called_a_mismatch_less_often_than_stated(n: int, p: float) -> None:
    k = np.arange(n + 1)
    called = [ratio_p_value(int(x), int(n - x), p) < LEAST_P_VALUE for x in k]
    assert binom.pmf(k[called], n, p).sum() < LEAST_P_VALUE <= 1e-3


def test_few_units_never_raise_it() -> None:
    """Even all blocks of a switchback in one arm are no proof."""
    assert min(ratio_p_value(n, 0, 0.5) for n in range(14)) > LEAST_P_VALUE


def test_a_share_of_sixty_percent_is_found() -> None:
    for n in (500, 1000, 3200):
        power = binom.cdf(
            [k for k in range(n + 1) if ratio_p_value(k, n - k, 0.5) >= LEAST_P_VALUE][-1], n, 0.6
        )
        assert 1 - power > (0.7 if n == 500 else 0.99)


def test_units_count_once_and_no_visit_not_at_all() -> None:
    unit = np.array([[3, 3, 3, 5, -1, -1], [3, 5, 7, 7, 7, -1]])
    is_treated = np.array([[1, 1, 1, 0, 1, 0], [0, 1, 1, 1, 1, 1]], dtype=bool)
    assert units_by_arm(unit, is_treated) == {"T": 3, "C": 2}


def test_visits_count_where_those_of_a_unit_have_both_arms() -> None:
    unit = np.array([[3, 3, 3, 5, -1]])
    is_treated = np.array([[1, 0, 1, 0, 1]], dtype=bool)
    assert units_by_arm(unit, is_treated) == {"T": 2, "C": 2}
    nobody = np.full((2, 3), -1)
    assert units_by_arm(nobody, nobody > 0) == {"T": 0, "C": 0}
    assert ratio_p_value(0, 0, 0.5) == 1.0
