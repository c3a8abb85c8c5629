"""Weighted training: Si, arXiv 2310.17496, Algorithm 1.

Two models learn from all outcomes. An item X collected in the test weighs E[Z|X] / p for the
treatment's model and (1 - E[Z|X]) / (1 - p) for the control's: then the weighted data have the
distribution that the arm would see if launched (Lemma 1), with the least variance among all such
weights (Theorem 1). E[Z|X], the probability that a collected item came from the treatment, is
learned online by a classifier G. Where G errs, the weights err.

Axes: R replications, M models (control, treatment), B visits, T steps, N visits of all steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    # G's probabilities, the arms, what was a visit, weights and what was clipped, of each step
    # since the last diagnostics
    _seen: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = PrivateAttr()

    @property
    def outside_option(self) -> str:
        """G, if it is from outside."""
        return "model" if is_outside(self.model) else ""

    def start(self, context: Context) -> Weighting:
        """With its own classifiers.

        Raises:
            InputError: one of the arms, or a feature that G shall see, does not exist.
        """
        if not 0.0 < context.p < 1.0:
            raise context.refuse(
                f"experiment.p_treatment = {context.p}: its weights divide by the share of each "
                "arm; use a share between 0 and 1"
            )
        seen = context
        if self.features is not None:
            self._check_features(self.features, context)
            seen = replace(context, schema=context.schema.select(self.features))
        g = find("weight model", self.model, f"design {context.label}: model")
        return self.with_g(context, g(seen, self))

    def with_g(self, context: Context, g: WeightModel) -> Weighting:
        """The design as it runs, with this G."""
        started = self.model_copy()
        started._context, started._g, started._seen = context, g, []
        return started

    def _check_features(self, features: Sequence[str], context: Context) -> None:
        known = context.schema.names
        for i, name in enumerate(features):
            if name not in known:
                raise context.refuse(
                    f"features.{i} = {show(name)}: the models see no such feature"
                    f"{did_you_mean(name, known)}; known are {', '.join(known)}"
                )

    def weights(self, outcome: Outcome) -> Tensor:
        """G(x) / p and (1 - G(x)) / (1 - p); then G learns from the step (Algorithm 1)."""
        p, visits = outcome.p, outcome.visits
        pick_RAB, z_RB = outcome.pick_RAB, outcome.is_treated_RB
        batch = outcome.slate.batch.chosen(torch.where(z_RB, pick_RAB[:, 1], pick_RAB[:, 0]))
        if self.features is not None:
            batch = batch.select(self._context.schema, self.features)
        is_visit_RB = outcome.slate.is_candidate_WBC.any(-1)
        g_RB = self._g.predict(batch)
        self._g.learn(batch, z_RB, is_visit_RB, visits.step)
        raw_RMB = torch.stack([(1.0 - g_RB) / (1.0 - p), g_RB / p], dim=1)
        weight_RMB, clipped_RMB = raw_RMB, torch.zeros_like(raw_RMB, dtype=torch.bool)
        if self.max_weight is not None:
            weight_RMB = raw_RMB.clamp_max(self.max_weight)
            clipped_RMB = raw_RMB > self.max_weight
        if self.calibration == "mean":
            on_R1B = is_visit_RB.unsqueeze(1).float()
            total_RM1 = (weight_RMB * on_R1B).sum(2, keepdim=True)
            weight_RMB = weight_RMB * on_R1B.sum(2, keepdim=True) / total_RM1.clamp_min(1e-12)
        if visits.step < self.warmup_steps:
            weight_RMB, clipped_RMB = torch.ones_like(raw_RMB), torch.zeros_like(clipped_RMB)
        self._seen.append((g_RB, z_RB, is_visit_RB, weight_RMB, clipped_RMB))
        return weight_RMB

    def state(self) -> dict[str, Tensor]:
        """That of G, and what the next diagnostics are made from."""
        tensors = self._figures(0, 0)
        if self._seen:
            steps = zip(*self._seen, strict=True)
            tensors = {k: torch.stack(x, 1) for k, x in zip(tensors, steps, strict=True)}
        return {**self._g.state(), **tensors}

    def _figures(self, n_steps: int, batch_size: int) -> dict[str, Tensor]:
        """Names, shapes and types of what ``_seen`` holds, with steps T after replications."""
        shape = (len(self._context.replication_R), n_steps, batch_size)
        on_RTB = torch.zeros(shape, dtype=torch.bool, device=self._context.device.torch)
        on_RTMB = on_RTB.unsqueeze(2).repeat(1, 1, 2, 1)
        return {
            "since.g": on_RTB.float(),
            "since.is_treated": on_RTB.clone(),
            "since.is_visit": on_RTB,
            "since.weight": on_RTMB.float(),
            "since.is_clipped": on_RTMB,
        }

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """See Design."""
        saved = {name: t for name, t in tensors.items() if name.startswith("since.")}
        g_RTB = saved.get("since.g", torch.zeros(0, 0, 0))
        figures = self._figures(*g_RTB.shape[1:])
        restore(figures, saved)
        self._g.load_state({name: t for name, t in tensors.items() if name not in saved})
        self._seen = list(zip(*(t.unbind(1) for t in figures.values()), strict=True))

    def evidence(self) -> dict[str, Tensor]:
        """G's predictions, arms and weights of the visits since the last call: R, T, ..."""
        if not self._seen:
            return {}
        names = (name.removeprefix("since.") for name in self._figures(0, 0))
        steps = (torch.stack(x, dim=1).cpu() for x in zip(*self._seen, strict=True))
        self._seen = []
        return dict(zip(names, steps, strict=True))

    def diagnostics(self, evidence: Mapping[str, Tensor], p: float) -> dict[str, float]:
        """How good G is, and what its weights are like."""
        if not evidence:
            return {}
        # step after step, as they came
        on, g, z = (evidence[x].transpose(0, 1).flatten() for x in ("is_visit", "g", "is_treated"))
        weight_MN, clipped_MN = (
            evidence[x].permute(2, 1, 0, 3).flatten(1)[:, on].double().numpy()
            for x in ("weight", "is_clipped")
        )
        if not bool(g[on].isfinite().all()):
            raise RunError(
                "design weighting: G's probabilities are no longer finite: lower "
                f"weighting.learning_rate, which is {self.learning_rate:g}"
            )
        figures = classifier_figures(g[on].double().numpy(), z[on].double().numpy(), p)
        for model, w in zip("CT", weight_MN, strict=True):
            figures[f"mean_weight_{model}"] = float(w.mean())
            effective = w.sum() ** 2 / (w**2).sum() if w.any() else 0.0
            figures[f"effective_share_{model}"] = float(effective / len(w))
        if self.max_weight is not None:
            figures["clipped_share"] = float(clipped_MN.mean())
        return figures


def classifier_figures(g: np.ndarray, z: np.ndarray, p: float) -> dict[str, float]:
    """Quality of probabilities ``g`` for the arms ``z``, pooled over worlds.

    Log loss (and that of the constant p), AUC (Mann & Whitney), accuracy, and the calibration
    error: the mean gap between probability and share of treated over ten equal bins, weighted.
    """
    q = np.clip(g, 1e-7, 1 - 1e-7)
    n_1, n_0 = z.sum(), (1 - z).sum()
    bins = np.minimum((10 * g).astype(int), 9)
    gap = np.bincount(bins, g - z, minlength=10)
    figures = {
        "log_loss": float(-(z * np.log(q) + (1 - z) * np.log1p(-q)).mean()),
        "log_loss_of_constant": float(-(z * np.log(p) + (1 - z) * np.log1p(-p)).mean()),
        "accuracy": float(((g > 0.5) == (z > 0.5)).mean()),
        "calibration_error": float(np.abs(gap).sum() / len(g)),
    }
    if n_1 and n_0:
        from scipy.stats import rankdata  # half a second, which checking a config need not wait

        rank_sum = rankdata(g)[z > 0.5].sum()
        figures["auc"] = float((rank_sum - n_1 * (n_1 + 1) / 2) / (n_1 * n_0))
    return figures
