"""G: models of the probability that a collected item came from the treatment arm, E[Z|X].

Axes: R replications, B visits, A arms (0 = control, 1 = treatment), D columns of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Protocol

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
from realdataexp.models.layers import one_hot
from realdataexp.models.losses import BCE
from realdataexp.models.mlp import MLP
from realdataexp.optimizers import OptimizerSettings
from realdataexp.options import MOST, Count, Options, Rate, Text, Widths, component_name
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

    def predict(self, batch: Batch) -> Tensor:
        """P(treated | item) of each visit's item (C = 1): R, B."""

    def learn(self, batch: Batch, is_treated_RB: Tensor, is_visit_RB: Tensor, step: int) -> None:
        """Take in a step's items and arms."""

    def state(self) -> dict[str, Tensor]:
        """Everything that changes, by name."""

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Resume from a state; ValueError where it is not one of such a G."""
        restore(self.state(), tensors)


class MLPClassifier(WeightModel):
    """R networks trained online by Adam, one update a step (Si 2023, Algorithm 1)."""

    is_deep: ClassVar[bool] = True

    def __init__(self, context: Context, options: WeightModelOptions) -> None:
        replication_R, device, seed = context.replication_R, context.device, context.seed
        hidden = {"hidden_layers": options.hidden_layers if self.is_deep else ()}
        model = MLP(context.schema, 1, hidden, context.label)
        start = model.init(draws.key(seed, f"init G {context.label}"))
        head, R = Head(BCE, LabelScale()), len(replication_R)
        self._learner = Learner.start(model, (head,), device, start, R)
        self._optimizer, self._p = OptimizerSettings(options.learning_rate), context.p
        self._seen_RA = torch.zeros(R, 2, dtype=torch.bool, device=device.torch)
        self._no_dropout_R = draws.key(seed, "G", replication_R).to(device.torch)

    def predict(self, batch: Batch) -> Tensor:
        """See WeightModel."""
        g_RB = self._learner.predict(batch, slice(0, self._learner.n_networks))[:, :, 0, 0]
        return torch.where(self._seen_RA.all(1, keepdim=True), g_RB, self._p)

    def learn(self, batch: Batch, is_treated_RB: Tensor, is_visit_RB: Tensor, step: int) -> None:
        """One update on the step's items."""
        for arm, own_RB in enumerate((~is_treated_RB, is_treated_RB)):
            self._seen_RA[:, arm] |= (own_RB & is_visit_RB).any(1)
        weight_RB = torch.where(is_visit_RB, 1.0, torch.nan)
        z_RBJ = is_treated_RB.float().unsqueeze(-1)
        self._learner.update(batch, z_RBJ, weight_RB, self._optimizer, self._no_dropout_R)

    def state(self) -> dict[str, Tensor]:
        """The networks, their optimizer, and which arms they have seen."""
        return {"seen_arms": self._seen_RA, **self._learner.state()}


class LogisticClassifier(MLPClassifier):
    """Logistic regression, R of them: networks without a hidden layer."""

    is_deep = False


@dataclass
class _Memory:
    """What a refitted G remembers of one replication.

    Attributes:
        steps: items and arms of each step that the fit in use was made from, or the next may be.
        fit_step: the step after which the fit in use was made; -1 before the first.
        fitted: the classifier.
    """

    steps: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    fit_step: int = -1
    fitted: Any = None


class RefittedClassifier(WeightModel, ABC):
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
        self._window_steps = options.window_steps or MOST
        sides = (context.schema.user, context.schema.video)
        self._n_columns = sum(side.n_numerical + side.n_ids for side in sides)
        self._memory_R = [_Memory() for _ in context.replication_R]

    @abstractmethod
    def _make(self, seed: int) -> Any:
        """A classifier that is not fitted."""

    def predict(self, batch: Batch) -> Tensor:
        """See WeightModel."""
        rows_RBD = self._rows(batch)
        p_RB = np.full(rows_RBD.shape[:2], self._context.p)
        for r, memory in enumerate(self._memory_R):
            if memory.fitted is not None:
                p_RB[r] = memory.fitted.predict_proba(rows_RBD[r])[:, 1]
        return torch.from_numpy(p_RB).float().to(self._context.device.torch)

    def learn(self, batch: Batch, is_treated_RB: Tensor, is_visit_RB: Tensor, step: int) -> None:
        """Remember the step's items, and fit again every ``refit_every`` steps."""
        rows_RBD = self._rows(batch)
        z_RB, on_RB = is_treated_RB.cpu().numpy(), is_visit_RB.cpu().numpy()
        for r, memory in enumerate(self._memory_R):
            memory.steps[step] = rows_RBD[r][on_RB[r]], z_RB[r][on_RB[r]]
            if (step + 1) % self._refit_every == 0:
                self._fit(r, step)
            needed = {*self._window(memory, memory.fit_step), *self._window(memory, step)}
            memory.steps = {s: rows for s, rows in memory.steps.items() if s in needed}

    def _window(self, memory: _Memory, end: int) -> list[int]:
        """The steps that a fit after step ``end`` is made from."""
        return [s for s in memory.steps if end - self._window_steps < s <= end]

    def _fit(self, r: int, step: int) -> None:
        """Fit after a step, if there are enough rows: the same give the same classifier."""
        memory = self._memory_R[r]
        rows = [memory.steps[s] for s in self._window(memory, step)]
        x_ND, z_N = map(np.concatenate, zip(*rows, strict=True))
        if min(z_N.sum(), (~z_N).sum()) >= _FEWEST:
            key = draws.key(self._context.seed, "refit G", self._context.replication_R[r], step)
            with own_scikit_learn():
                memory.fitted = self._make(int(key) & 0x7FFFFFFF).fit(x_ND, z_N)
            memory.fit_step = step

    def _rows(self, batch: Batch) -> np.ndarray:
        """Numbers and one-hot categories of each visit's user and item: R, B, D."""
        sides = [(side, batch.side(name)) for name, _, side in self._context.schema.sides()]
        numbers = [x.num for _, x in sides]
        one_hots = [one_hot(x.cat, x.weight, side.n_ids) for side, x in sides]
        return torch.cat([*numbers, *one_hots], dim=-1).cpu().numpy()

    def state(self) -> dict[str, Tensor]:
        """The rows in memory with their steps, and when the fit in use was made."""
        tensors: dict[str, Tensor] = {}
        for own, memory in zip(self._names(), self._memory_R, strict=True):
            x, z = zip(*memory.steps.values(), strict=True) if memory.steps else ((), ())
            n_rows = np.array([len(z_N) for z_N in z], dtype=np.int64)
            arrays = {
                "x": np.concatenate([np.zeros((0, self._n_columns), dtype=np.float32), *x]),
                "z": np.concatenate([np.zeros(0, dtype=bool), *z]),
                "step": np.repeat(np.array([*memory.steps], dtype=np.int64), n_rows),
                "fit_step": np.array([memory.fit_step], dtype=np.int64),
            }
            tensors |= {f"{own}.{name}": torch.from_numpy(x) for name, x in arrays.items()}
        return tensors

    def _names(self) -> list[str]:
        """What the state of each replication is named after."""
        return [f"replication_{r}" for r in self._context.replication_R.tolist()]

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See WeightModel; the fits in use are made again."""
        live: dict[str, Tensor] = {}
        for own in self._names():
            n = len(tensors.get(f"{own}.z", ()))
            live |= {
                f"{own}.x": torch.zeros(n, self._n_columns),
                f"{own}.z": torch.zeros(n, dtype=torch.bool),
                f"{own}.step": torch.zeros(n, dtype=torch.int64),
                f"{own}.fit_step": torch.zeros(1, dtype=torch.int64),
            }
        restore(live, tensors)
        for r, own in enumerate(self._names()):
            x, z, step, fit_step = (
                live[f"{own}.{x}"].numpy() for x in ("x", "z", "step", "fit_step")
            )
            steps = {int(s): (x[step == s], z[step == s]) for s in np.unique(step)}
            self._memory_R[r] = _Memory(steps)
            if fit_step[0] >= 0:
                self._fit(r, int(fit_step[0]))


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
