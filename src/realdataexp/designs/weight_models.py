"""G: models of the probability that a collected item came from the treatment arm, E[Z|X].

Axes: R replications, B visits, A arms (0 = control, 1 = treatment), D columns of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from realdataexp import draws
from realdataexp.designs.base import Context
from realdataexp.device import own_scikit_learn
from realdataexp.learner import Head, Learner
from realdataexp.models import Batch, LabelScale
from realdataexp.models.base import restore
from realdataexp.models.losses import BCE
from realdataexp.models.mlp import MLP
from realdataexp.optimizers import OptimizerSettings
from realdataexp.options import Count, Options, Rate, Text, Widths, component_name
from realdataexp.registry import names

_FEWEST = 5  # rows of each arm for a fit: the svm is calibrated in five folds


class WeightModelOptions(Options):
    """G, and what it takes; one from outside the package reads what it likes of this."""

    model: Annotated[str, component_name("weight model")] = Field(
        "mlp",
        description=f"G, one of {', '.join(names('weight model'))} (the last three are refitted on "
        "the host: slow), or package.module:Name",
    )
    hidden_layers: Widths = Field((64, 64), description="hidden layers of G, if it is the mlp")
    features: Annotated[tuple[Text, ...], Field(strict=False, min_length=1)] | None = Field(
        None,
        description="what G sees, of feature.numerical and feature.categorical (in si2023 of x0, "
        "x1, ..., long); null: all that the models see",
    )
    learning_rate: Rate = Field(1e-3, description="of G, if it is mlp or logistic (Adam)")
    refit_every: Count = Field(10, description="steps between two fits of a refitted G")
    window_steps: Count | None = Field(
        None, description="steps that a refitted G remembers; null: all"
    )


class WeightModel(Protocol):
    """G of each replication. Where it has not seen both arms yet, it predicts p."""

    def __init__(self, context: Context, options: WeightModelOptions) -> None:
        """Start, in the features that it sees (``context.schema``)."""
        ...

    def predict(self, batch: Batch) -> Tensor:
        """P(treated | item) of each visit's item (C = 1): R, B."""
        ...

    def learn(self, batch: Batch, is_treated_RB: Tensor, is_visit_RB: Tensor, step: int) -> None:
        """Take in a step's items and arms."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that changes, by name."""
        ...

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from a state; ValueError where it is not one of such a G."""
        ...


class MLPClassifier:
    """R networks trained online by Adam, one update a step (Si 2023, Algorithm 1)."""

    def __init__(self, context: Context, options: WeightModelOptions) -> None:
        hidden = {"hidden_layers": list(self._hidden_layers(options))}
        model = MLP(context.schema, 1, hidden, context.label)
        start = model.init(draws.key(context.seed, f"init G {context.label}"))
        head = Head(BCE, LabelScale())
        self._learner = Learner.start(
            model, (head,), context.device, start, len(context.replication_R)
        )
        self._optimizer = OptimizerSettings(options.learning_rate)
        self._p = context.p
        self._seen_RA = torch.zeros(
            len(context.replication_R), 2, dtype=torch.bool, device=context.device.torch
        )
        self._no_dropout_R = draws.key(context.seed, "G", context.replication_R).to(
            context.device.torch
        )

    def _hidden_layers(self, options: WeightModelOptions) -> tuple[int, ...]:
        return options.hidden_layers

    def predict(self, batch: Batch) -> Tensor:
        """P(treated | item): R, B."""
        g_RB = self._learner.predict(batch, slice(0, self._learner.n_networks))[:, :, 0, 0]
        return torch.where(self._seen_RA.all(1, keepdim=True), g_RB, self._p)

    def learn(self, batch: Batch, is_treated_RB: Tensor, is_visit_RB: Tensor, step: int) -> None:
        """One update on the step's items."""
        for arm, own_RB in enumerate((~is_treated_RB, is_treated_RB)):
            self._seen_RA[:, arm] |= (own_RB & is_visit_RB).any(1)
        weight_RB = torch.where(is_visit_RB, 1.0, torch.nan)
        z_RBK = is_treated_RB.float().unsqueeze(-1)
        self._learner.update(batch, z_RBK, weight_RB, self._optimizer, self._no_dropout_R)

    def state(self) -> dict[str, Tensor]:
        """The networks, their optimizer, and which arms they have seen."""
        return {"seen_arms": self._seen_RA, **self._learner.state()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See WeightModel."""
        restore(self.state(), tensors)


class LogisticClassifier(MLPClassifier):
    """Logistic regression, R of them: networks without a hidden layer."""

    def _hidden_layers(self, options: WeightModelOptions) -> tuple[int, ...]:
        return ()


@dataclass
class _History:
    """What a refitted G has seen in one replication, and its fit in use.

    Attributes:
        steps: the items and arms of each step that the fit was made from or the next one may be.
        fit_end: the fit in use was made from ``steps[:fit_end]``; 0 before the first.
        fit_step: the step behind which it was made.
        window_start: the next fit is made from ``steps[window_start:]``.
        fitted: the classifier.
    """

    steps: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    fit_end: int = 0
    fit_step: int = 0
    window_start: int = 0
    fitted: Any = None

    def add(self, x_ND: np.ndarray, z_N: np.ndarray, window_steps: int | None) -> None:
        """One more step; one that neither the fit in use nor the next needs is forgotten."""
        self.steps.append((x_ND, z_N))
        if window_steps is not None and len(self.steps) - self.window_start > window_steps:
            if self.window_start < self.fit_end:
                self.window_start += 1
            else:
                del self.steps[self.window_start]


class RefittedClassifier(ABC):
    """A scikit-learn classifier for each replication, fitted anew every few steps on the host.

    Far slower than a stacked network: a fit costs by the rows of the window, in every world.
    Until it has seen five rows of each arm it predicts p.
    """

    def __init__(self, context: Context, options: WeightModelOptions) -> None:
        try:
            self._make(0)
        except ModuleNotFoundError as error:
            raise context.refuse(
                f"weighting.model = {options.model!r} needs scikit-learn: pip install "
                "'realdataexp[sklearn]'"
            ) from error
        self._context, self._refit_every = context, options.refit_every
        self._window_steps = options.window_steps
        sides = (context.schema.user, context.schema.video)
        self._n_columns = sum(side.n_numerical + side.n_ids for side in sides)
        self._history_R = [_History() for _ in context.replication_R]

    @abstractmethod
    def _make(self, seed: int) -> Any:
        """A classifier that is not fitted."""

    def predict(self, batch: Batch) -> Tensor:
        """P(treated | item): R, B."""
        rows_RBD = self._rows(batch)
        p_RB = np.full(rows_RBD.shape[:2], self._context.p)
        for r, history in enumerate(self._history_R):
            if history.fitted is not None:
                p_RB[r] = history.fitted.predict_proba(rows_RBD[r])[:, 1]
        return torch.from_numpy(p_RB).float().to(self._context.device.torch)

    def learn(self, batch: Batch, is_treated_RB: Tensor, is_visit_RB: Tensor, step: int) -> None:
        """Remember the step's items, and fit again every ``refit_every`` steps."""
        rows_RBD = self._rows(batch)
        z_RB, on_RB = is_treated_RB.cpu().numpy(), is_visit_RB.cpu().numpy()
        for r, history in enumerate(self._history_R):
            history.add(rows_RBD[r][on_RB[r]], z_RB[r][on_RB[r]], self._window_steps)
            if (step + 1) % self._refit_every == 0:
                window = history.steps[history.window_start :]
                n_treated = sum(int(z_N.sum()) for _, z_N in window)
                n_control = sum(len(z_N) for _, z_N in window) - n_treated
                if min(n_treated, n_control) >= _FEWEST:
                    self._history_R[r] = _History(window, len(window), step)
                    self._fit(r)

    def _fit(self, r: int) -> None:
        """Make the fit in use: the same rows and step give the same classifier."""
        history = self._history_R[r]
        x_ND, z_N = map(np.concatenate, zip(*history.steps[: history.fit_end], strict=True))
        replication = self._context.replication_R[r]
        key = draws.key(self._context.seed, "refit G", replication, history.fit_step)
        with own_scikit_learn():
            history.fitted = self._make(int(key) & 0x7FFFFFFF).fit(x_ND, z_N)

    def _rows(self, batch: Batch) -> np.ndarray:
        """Numbers and one-hot categories of each visit's user and item: R, B, D."""
        numbers, one_hots = [], []
        for name, _, side in self._context.schema.sides():
            num, cat, weight = batch.side(name)
            one_hot = torch.zeros(*cat.shape[:2], side.n_ids, device=cat.device)
            numbers.append(num)
            one_hots.append(one_hot.scatter_add_(2, cat.long(), weight))
        return torch.cat([*numbers, *one_hots], dim=-1).cpu().numpy()

    def state(self) -> dict[str, Tensor]:
        """The rows in memory, and from which of them and when the fit in use was made."""
        tensors = {}
        for r, history in enumerate(self._history_R):
            x, z = zip(*history.steps, strict=True) if history.steps else ((), ())
            arrays = {
                "x": np.concatenate([np.zeros((0, self._n_columns), dtype=np.float32), *x]),
                "z": np.concatenate([np.zeros(0, dtype=bool), *z]),
                "n_rows": np.array([len(z_N) for z_N in z], dtype=np.int64),
                "fit": np.array(
                    [history.fit_end, history.fit_step, history.window_start], dtype=np.int64
                ),
            }
            own = self._own(r)
            tensors.update({f"{own}.{name}": torch.from_numpy(a) for name, a in arrays.items()})
        return tensors

    def _own(self, r: int) -> str:
        """What the state of a replication is named after."""
        return f"replication_{int(self._context.replication_R[r])}"

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See WeightModel; the fits in use are made again."""
        live = {}
        for r in range(len(self._history_R)):
            own = self._own(r)
            n_rows_K = tensors.get(f"{own}.n_rows", torch.zeros(0))
            n = int(n_rows_K.sum())
            live[f"{own}.x"] = torch.zeros(n, self._n_columns)
            live[f"{own}.z"] = torch.zeros(n, dtype=torch.bool)
            live[f"{own}.n_rows"] = torch.zeros(len(n_rows_K), dtype=torch.int64)
            live[f"{own}.fit"] = torch.zeros(3, dtype=torch.int64)
        restore(live, tensors)
        for r in range(len(self._history_R)):
            own = self._own(r)
            n_rows = live[f"{own}.n_rows"].tolist()
            x, z = (live[f"{own}.{name}"].split(n_rows) for name in ("x", "z"))
            steps = [(x_ND.numpy(), z_N.numpy()) for x_ND, z_N in zip(x, z, strict=True)]
            self._history_R[r] = _History(steps, *live[f"{own}.fit"].tolist())
            if self._history_R[r].fit_end:
                self._fit(r)


class RandomForest(RefittedClassifier):
    """Breiman's random forest."""

    def _make(self, seed: int) -> Any:
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(min_samples_leaf=20, random_state=seed)


class SVM(RefittedClassifier):
    """A support vector machine, its scores made probabilities by Platt's method."""

    def _make(self, seed: int) -> Any:
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.svm import SVC

        return CalibratedClassifierCV(SVC(), ensemble=False)


class GradientBoosting(RefittedClassifier):
    """Gradient-boosted trees over binned features."""

    def _make(self, seed: int) -> Any:
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(random_state=seed)
