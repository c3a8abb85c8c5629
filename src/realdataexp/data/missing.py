"""Missing numbers, predicted from the other numbers of their row.

Axes: X rows of a table, D numerical features.
"""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from realdataexp.device import own_scikit_learn
from realdataexp.errors import InputError, Warnings

_MOST_FITTED = 20_000  # rows that the regressions are fitted to
_ROUNDS = 10


class Predicted:
    """Regressions of each feature on all others, fitted to training rows.

    scikit-learn's IterativeImputer (after van Buuren and Groothuis-Oudshoorn 2011, Journal of
    Statistical Software 45:3): what is missing begins as the mean; then, round by round, each
    feature is predicted by Bayesian ridge regression on the others. A prediction is kept within the
    range of the training rows. A row's numbers depend on the row alone.
    """

    def __init__(self, z_XD: np.ndarray, names: Sequence[str], warnings: Warnings) -> None:
        """Fit to standardised training rows, NaN where missing.

        Raises:
            InputError: scikit-learn is missing.
        """
        try:
            from sklearn.exceptions import ConvergenceWarning
            from sklearn.experimental import enable_iterative_imputer  # noqa: F401
            from sklearn.impute import IterativeImputer
        except ModuleNotFoundError as error:
            raise InputError(
                "feature.missing = 'predicted': needs scikit-learn: pip install "
                "'realdataexp[sklearn]', or use mean or zero"
            ) from error
        self._imputer: Any = None
        if len(names) < 2:
            if names and np.isnan(z_XD).any():
                warnings.add(
                    "nothing_predicts_missing",
                    f"feature {names[0]}: its side has no other number to predict it from, so that "
                    "missing ones are the mean; list more features, or set feature.missing: mean",
                )
            return
        bounds = {"min_value": np.nanmin(z_XD, axis=0), "max_value": np.nanmax(z_XD, axis=0)}
        imputer = IterativeImputer(max_iter=_ROUNDS, random_state=0, **bounds)
        with own_scikit_learn(), python_warnings.catch_warnings(record=True) as said:
            python_warnings.simplefilter("always")
            self._imputer = imputer.fit(z_XD)
        if any(issubclass(x.category, ConvergenceWarning) for x in said):
            warnings.add(
                "imputer_not_converged",
                f"features {', '.join(names)}: what is predicted for missing ones still changed in "
                f"round {_ROUNDS}; compare the result with feature.missing: mean",
            )

    def fill(self, z_XD: np.ndarray) -> np.ndarray:
        """The rows with numbers in place of NaN; the mean, 0, where nothing predicts them."""
        if self._imputer is None or not np.isnan(z_XD).any():
            return np.nan_to_num(z_XD, nan=0.0)
        with own_scikit_learn():
            found: np.ndarray = self._imputer.transform(z_XD)
        return found


def sample_of(blocks: Iterable[np.ndarray], n_rows: int) -> np.ndarray:
    """Rows to fit to, evenly spread over so many in blocks: all where there are not too many."""
    every, first, found = max(1, -(-n_rows // _MOST_FITTED)), 0, []
    for block_XD in blocks:
        found.append(block_XD[-first % every :: every])
        first += len(block_XD)
    return np.concatenate(found)
