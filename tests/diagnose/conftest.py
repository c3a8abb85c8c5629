"""A training that has ended, for checks of what was learned."""

from __future__ import annotations

import pytest
from diagnose.subjects import LEARNED, trained_subject

from realdataexp.diagnose.subject import Subject


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A generative recommender that is about as good as counting."""
    return trained_subject(tmp_path_factory.mktemp("trained"), **LEARNED)
