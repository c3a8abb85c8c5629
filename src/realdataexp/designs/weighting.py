"""Weighted training: Si, arXiv 2310.17496, Algorithm 1.

Two models learn from all outcomes. An item X collected in the test weighs E[Z|X] / p for the
treatment's model and (1 - E[Z|X]) / (1 - p) for the control's: then the weighted data have the
distribution that the arm would see if launched (Lemma 1), with the least variance among all such
weights (Theorem 1). E[Z|X], the probability that a collected item came from the treatment, is
learned online by a classifier G. Where G errs, the weights err.

Axes: R replications, M models (control, treatment), B visits, T steps, F columns of a visit, N
visits of all steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from realdataexp.designs.base import Context, Design, Outcome
from realdataexp.designs.weight_models import WeightModel, WeightModelOptions
from realdataexp.errors import RunError, did_you_mean
from realdataexp.models.base import restore
from realdataexp.options import LARGEST, MOST, show
from realdataexp.registry import find, is_outside

# columns of a visit: G's probability, the arm, whether it took place, then of each model
_WEIGHTS, _CLIPPED, _N_COLUMNS = slice(3, 5), slice(5, 7), 7


class Weighting(Design, WeightModelOptions):
    """Two models, outcomes weighted by a learned G."""

    n_models: ClassVar[int] = 2

    warmup_steps: int = Field(
        0, ge=0, le=MOST, description="steps at the start in which weights are 1"
    )
    max_weight: float | None = Field(
        None, gt=1, le=LARGEST, description="clip weights at this; null: never"
    )
    calibration: Literal["none", "mean"] = Field(
        "none", description="mean: scale each model's weights of a step to the mean 1"
    )

    _context: Context = PrivateAttr()
    _g: WeightModel = PrivateAttr()
    _seen: list[Tensor] = PrivateAttr()  # R, F, B of each step since the last diagnostics

    @property
    def outside_option(self) -> str:
        """G, if it is from outside."""
        return "model" if is_outside(self.model) else ""

    def start(self, context: Context) -> Weighting:
        """With its own classifiers.

        Raises:
            InputError: one of the arms, or a feature that G is to see, does not exist.
        """
        context.refuse_one_arm()
        known, seen = context.schema.names, context
        for i, name in enumerate(self.features or ()):
            if name not in known:
                raise context.refuse(
                    f"features.{i} = {show(name)}: the models see no such feature"
                    f"{did_you_mean(name, known)}; known are {', '.join(known)}"
                )
        if self.features is not None:
            seen = replace(context, schema=context.schema.select(self.features))
        g = find("weight model", self.model, f"design {context.label}: model")
        return self.with_g(context, g(seen, self))

    def with_g(self, context: Context, g: WeightModel) -> Weighting:
        """The design as it runs, with this G."""
        started = self.model_copy()
        started._context, started._g, started._seen = context, g, []
        return started

    def weights(self, outcome: Outcome) -> Tensor:
        """G(x) / p and (1 - G(x)) / (1 - p); then G learns from the step (Algorithm 1)."""
        p, z_RB, is_shown_RB = outcome.p, outcome.is_treated_RB, outcome.is_shown_RB
        step, batch = outcome.visits.step, outcome.slate.batch.chosen(outcome.choice_RB)
        if self.features is not None:
            batch = batch.select(self._context.schema, self.features)
        g_RB = self._g.predict(batch)
        self._g.learn(batch, z_RB, is_shown_RB, step)
        raw_RMB = torch.stack([(1.0 - g_RB) / (1.0 - p), g_RB / p], dim=1)
        weight_RMB, clipped_RMB = raw_RMB, torch.zeros_like(raw_RMB)
        if step < self.warmup_steps:
            weight_RMB = torch.ones_like(raw_RMB)
        else:
            if self.max_weight is not None:
                weight_RMB = raw_RMB.clamp_max(self.max_weight)
                clipped_RMB = (raw_RMB > self.max_weight).float()
            if self.calibration == "mean":
                on_R1B = is_shown_RB.unsqueeze(1).float()
                total_RM1 = (weight_RMB * on_R1B).sum(2, keepdim=True)
                weight_RMB = weight_RMB * on_R1B.sum(2, keepdim=True) / total_RM1.clamp_min(1e-12)
        of_visits_R3B = torch.stack([g_RB, z_RB.float(), is_shown_RB.float()], dim=1)
        self._seen.append(torch.cat([of_visits_R3B, weight_RMB, clipped_RMB], dim=1))
        return weight_RMB

    def _since(self) -> Tensor:
        """The columns since the last diagnostics: R, T, F, B."""
        if self._seen:
            return torch.stack(self._seen, dim=1)
        R, to = len(self._context.replication_R), self._context.device.torch
        return torch.zeros(R, 0, _N_COLUMNS, 0, device=to)

    def state(self) -> dict[str, Tensor]:
        """That of G, and what the next diagnostics are made from."""
        return {**self._g.state(), "since": self._since()}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See Design."""
        since = {name: x for name, x in tensors.items() if name == "since"}
        own = self._since()
        for saved in since.values():
            n_steps, _, batch_size = (*saved.shape, 0, 0, 0)[1:4]
            own = own.new_zeros(len(own), n_steps, _N_COLUMNS, batch_size)
        restore({"since": own}, since)
        self._g.load_state({name: x for name, x in tensors.items() if name not in since})
        self._seen = list(own.unbind(1))

    def evidence(self) -> dict[str, Tensor]:
        """G's predictions, arms and weights of the visits since the last call: R, T, F, B."""
        found = {"since": self._since().cpu()} if self._seen else {}
        self._seen = []
        return found

    def diagnostics(self, evidence: Mapping[str, Tensor], p: float) -> dict[str, float]:
        """How good G is, and what its weights are like."""
        if not evidence:
            return {}
        # step after step, as they came
        seen_FN = evidence["since"].permute(2, 1, 0, 3).flatten(1)
        column_FN = seen_FN[:, seen_FN[2] > 0].double().numpy()
        if not np.isfinite(column_FN[0]).all():
            raise RunError(
                "design weighting: G's probabilities are no longer finite: lower "
                f"weighting.learning_rate, which is {self.learning_rate:g}"
            )
        metrics = classifier_metrics(column_FN[0], column_FN[1], p)
        for model, w in zip("CT", column_FN[_WEIGHTS], strict=True):
            metrics[f"mean_weight_{model}"] = float(w.mean())
            effective = w.sum() ** 2 / (w**2).sum() if w.any() else 0.0
            metrics[f"effective_share_{model}"] = float(effective / len(w))
        if self.max_weight is not None:
            metrics["clipped_share"] = float(column_FN[_CLIPPED].mean())
        return metrics


def classifier_metrics(g: np.ndarray, z: np.ndarray, p: float) -> dict[str, float]:
    """Quality of probabilities ``g`` for the arms ``z``, pooled over worlds.

    Log loss (and that of the constant p), AUC (Mann & Whitney), accuracy, and the calibration
    error: the mean gap between probability and share of treated over ten equal bins, weighted.
    """
    q = np.clip(g, 1e-7, 1 - 1e-7)
    n_1, n_0 = z.sum(), (1 - z).sum()
    bins = np.minimum((10 * g).astype(int), 9)
    gap = np.bincount(bins, g - z, minlength=10)
    metrics = {
        "log_loss": float(-(z * np.log(q) + (1 - z) * np.log1p(-q)).mean()),
        "log_loss_of_constant": float(-(z * np.log(p) + (1 - z) * np.log1p(-p)).mean()),
        "accuracy": float(((g > 0.5) == (z > 0.5)).mean()),
        "calibration_error": float(np.abs(gap).sum() / len(g)),
    }
    if n_1 and n_0:
        from scipy.stats import rankdata  # half a second, which checking a config need not wait

        rank_sum = rankdata(g)[z > 0.5].sum()
        metrics["auc"] = float((rank_sum - n_1 * (n_1 + 1) / 2) / (n_1 * n_0))
    return metrics
