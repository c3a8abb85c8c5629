"""G: models of the probability that a collected item came from the treatment arm, E[Z|X].

Axes: R replications, B visits, A arms (0 = control, 1 = treatment), D columns of a row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.designs.base import Context
from realdataexp.learner import Learner, OptimizerSettings
from realdataexp.models import LOSSES, MLP, Batch, LabelScale

STACKED = ("mlp", "logistic")
_FEWEST = 5  # rows of each arm for a fit: the svm is calibrated in five folds


def _random_forest(seed: int) -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(min_samples_leaf=20, random_state=seed)


def _svm(seed: int) -> Any:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import SVC

    return CalibratedClassifierCV(SVC(), ensemble=False)


def _gradient_boosting(seed: int) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(random_state=seed)


REFITTED: dict[str, Callable[[int], Any]] = {
    "random_forest": _random_forest,
    "svm": _svm,
    "gradient_boosting": _gradient_boosting,
}


class WeightModel(Protocol):
    """G of each replication. Where it has not seen both arms yet, it predicts p."""

    def predict(self, batch: Batch) -> Tensor:
        """P(treated | item) of each visit's item (C = 1): R, B."""
        ...

    def learn(self, batch: Batch, is_treated_RB: Tensor, is_visit_RB: Tensor, step: int) -> None:
        """Take in a step's items and arms."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that changes, by name."""
        ...


class StackedClassifier:
    """R networks trained online by Adam, one update a step (Si 2023, Algorithm 1)."""

    def __init__(
        self, context: Context, hidden_layers: tuple[int, ...], learning_rate: float
    ) -> None:
        model = MLP(context.schema, 1, {"hidden_layers": list(hidden_layers)}, context.label)
        start = model.init(draws.key(context.seed, f"init G {context.label}"))
        self._learner = Learner.start(
            model, LOSSES["BCE"], LabelScale(), context.device, start, len(context.replication_R)
        )
        self._optimizer = OptimizerSettings(learning_rate)
        self._p = context.p
        self._seen_RA = torch.zeros(
            len(context.replication_R), 2, dtype=torch.bool, device=context.device.torch
        )
        self._no_dropout_R = draws.key(context.seed, "G", context.replication_R).to(
            context.device.torch
        )

    def predict(self, batch: Batch) -> Tensor:
        """P(treated | item): R, B."""
        g_RB = self._learner.predict(batch, slice(0, self._learner.n_networks)).squeeze(-1)
        return torch.where(self._seen_RA.all(1, keepdim=True), g_RB, self._p)

    def learn(self, batch: Batch, is_treated_RB: Tensor, is_visit_RB: Tensor, step: int) -> None:
        """One update on the step's items."""
        for arm, own_RB in enumerate((~is_treated_RB, is_treated_RB)):
            self._seen_RA[:, arm] |= (own_RB & is_visit_RB).any(1)
        weight_RB = torch.where(is_visit_RB, 1.0, torch.nan)
        self._learner.update(
            batch, is_treated_RB.float(), weight_RB, self._optimizer, self._no_dropout_R
        )

    def state(self) -> dict[str, Tensor]:
        """The networks, their optimizer, and which arms they have seen."""
        return {"seen_arms": self._seen_RA, **self._learner.state()}


class RefittedClassifier:
    """A scikit-learn classifier for each replication, fitted anew every few steps on the host.

    Far slower than a stacked network: a fit costs by the rows of the window, in every world.
    Until it has seen five rows of each arm it predicts p.
    """

    def __init__(
        self, context: Context, name: str, refit_every: int, window_steps: int | None
    ) -> None:
        self._make = REFITTED[name]
        try:
            self._make(0)
        except ModuleNotFoundError as error:
            raise context.refuse(
                f"weighting.model = {name!r} needs scikit-learn: pip install 'realdataexp[sklearn]'"
            ) from error
        self._context, self._refit_every = context, refit_every
        n = len(context.replication_R)
        self._seen_R: list[deque[tuple[np.ndarray, np.ndarray]]] = [
            deque(maxlen=window_steps) for _ in range(n)
        ]
        self._fitted_R: list[Any] = [None] * n

    def predict(self, batch: Batch) -> Tensor:
        """P(treated | item): R, B."""
        rows_RBD = self._rows(batch)
        p_RB = np.full(rows_RBD.shape[:2], self._context.p)
        for r, fitted in enumerate(self._fitted_R):
            if fitted is not None:
                p_RB[r] = fitted.predict_proba(rows_RBD[r])[:, 1]
        return torch.from_numpy(p_RB).float().to(self._context.device.torch)

    def learn(self, batch: Batch, is_treated_RB: Tensor, is_visit_RB: Tensor, step: int) -> None:
        """Remember the step's items, and fit again every ``refit_every`` steps."""
        rows_RBD = self._rows(batch)
        z_RB, on_RB = is_treated_RB.cpu().numpy(), is_visit_RB.cpu().numpy()
        for r, seen in enumerate(self._seen_R):
            seen.append((rows_RBD[r][on_RB[r]], z_RB[r][on_RB[r]]))
            if (step + 1) % self._refit_every == 0:
                x, z = (np.concatenate(parts) for parts in zip(*seen, strict=True))
                if _FEWEST <= z.sum() <= len(z) - _FEWEST:
                    replication = self._context.replication_R[r]
                    key = draws.key(self._context.seed, "refit G", replication, step)
                    self._fitted_R[r] = self._make(int(key) & 0x7FFFFFFF).fit(x, z)

    def _rows(self, batch: Batch) -> np.ndarray:
        """Numbers and one-hot categories of each visit's user and item: R, B, D."""
        schema = self._context.schema
        parts = [batch.user_num_SBD, batch.video_num_SBCD[:, :, 0]]
        for side, cat, weight in (
            (schema.user, batch.user_cat_SBK, batch.user_weight_SBK),
            (schema.video, batch.video_cat_SBCK[:, :, 0], batch.video_weight_SBCK[:, :, 0]),
        ):
            one_hot = torch.zeros(*cat.shape[:2], side.n_ids, device=cat.device)
            parts.append(one_hot.scatter_add_(2, cat.long(), weight))
        return torch.cat(parts, dim=-1).cpu().numpy()

    def state(self) -> dict[str, Tensor]:
        """The window; classifiers are fitted again from it."""
        tensors = {}
        for r, seen in enumerate(self._seen_R):
            for i, (x, z) in enumerate(seen):
                tensors[f"{r}.{i}.x"], tensors[f"{r}.{i}.z"] = map(torch.from_numpy, (x, z))
        return tensors
