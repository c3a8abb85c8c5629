"""The estimate on paper is that of the simulated scheduler, and both of hand-made cases."""

from __future__ import annotations

from statistics import fmean, stdev

import pytest

from bench.cluster_estimate import Plan, on_paper, simulated

NEVER = 1e12
HAND = Plan(
    replications=8, steps=100, parts=4, workers=2, networks=10, networks_per_second=10.0,
    begin_seconds=30.0, save_every=10, save_seconds=1.0, hours=100.0, lost_every_hours=NEVER,
)  # fmt: skip


def test_without_losses_both_are_what_a_hand_finds():
    # a part: 10 blocks of 10 steps of 20 networks at 10 a second, and a save: 21 s; and 30 s
    seconds = 2 * (10 * 21 + 30)
    assert on_paper(HAND)[0] == pytest.approx(seconds / 3600)
    assert simulated(HAND, 0) == pytest.approx(seconds / 3600)


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 9])
def test_workers_take_parts_in_rounds(workers: int):
    plan = Plan(**{**vars(HAND), "workers": workers})
    assert simulated(plan, 0) == pytest.approx(on_paper(plan)[0])


def test_losses_cost_on_average_what_is_said():
    """One worker and one part, so that nothing waits; false-fail rate below 1e-4."""
    plan = Plan(**{**vars(HAND), "parts": 1, "workers": 1, "lost_every_hours": 0.5})
    quiet = on_paper(Plan(**{**vars(plan), "lost_every_hours": NEVER}))[0]
    found = [simulated(plan, seed) for seed in range(2000)]
    extra, said = fmean(found) - quiet, on_paper(plan)[0] - quiet
    se = stdev(found) / len(found) ** 0.5
    # the paper counts losses of the work alone, not those of what was lost: 18 % more there
    assert said - 4 * se < extra < 1.3 * said + 4 * se
    assert extra > 8 * se  # a simulation without losses would fail
