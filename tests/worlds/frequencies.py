"""Whether events happen as often as they should, with a known rate of false alarms and power."""

from __future__ import annotations

from collections.abc import Sequence

from scipy.stats import binom
from support import FALSE_FAIL_RATE


def assert_frequencies(count: Sequence[int], n: Sequence[int], p: Sequence[float], detects: float):
    """Assert that each event has its probability, given its independent trials.

    Args:
        count: how often each event happened. n: its trials. p: its probability.
        detects: a probability off by this much is found with a chance of 99.9 % or more; a test
            with too few trials for that fails.

    All events together fail by chance once in 1e6 runs, by exact binomial tails (Bonferroni).
    """
    tail = FALSE_FAIL_RATE / (2 * len(count))
    assert len(count) > 0
    for k, trials, prob in zip(count, n, p, strict=True):
        low, high = binom.ppf(tail, trials, prob), binom.isf(tail, trials, prob)
        for other in (prob - detects, prob + detects):
            if 0 <= other <= 1:
                missed = binom.cdf(high, trials, other) - binom.cdf(low - 1, trials, other)
                assert missed < 1e-3, f"{trials} trials cannot tell {prob} from {other}"
        assert low <= k <= high, f"{k} of {trials}, expected a share of {prob}"
