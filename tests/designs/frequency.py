"""A share of many coins against its probability."""

from __future__ import annotations

from scipy.stats import norm
from support import FALSE_FAIL_RATE
from torch import Tensor

Z = float(norm.isf(FALSE_FAIL_RATE / 2))


def assert_share(is_on: Tensor, p: float, detectable: float) -> None:
    """The share is p, by a test that all but surely sees a share off by ``detectable``.

    It errs once in a million where the coins are independent and of probability p, and misses a
    probability off by ``detectable`` as seldom.
    """
    error = (p * (1 - p) / is_on.numel()) ** 0.5
    assert detectable > 2 * Z * error, "too few coins"
    assert abs(float(is_on.double().mean()) - p) < Z * error
