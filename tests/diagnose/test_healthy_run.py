"""A run that has ended, from its folder."""

from __future__ import annotations

import pytest
from diagnose.subjects import found

from realdataexp.diagnose.subject import Subject


@pytest.mark.parametrize(
    "check",
    [
        "dead_input", "frozen", "mode_parity", "initial_loss", "initial_scale",
        "overfits_one_batch", "causality", "batch_invariance", "learning_rate",
    ],
)  # fmt: skip
def test_no_check_of_parameters_and_inputs_blames_it(check: str, trained: Subject):
    """What a fresh model is asked for is known of a run, too."""
    assert found(check, trained).verdict == "ok"
