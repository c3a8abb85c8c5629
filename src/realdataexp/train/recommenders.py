"""What a training run judges: the model that is trained, and what is counted beside it.

Axes: B histories at once, T items of a history, V items, E width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from realdataexp import draws
from realdataexp.device import Device
from realdataexp.errors import InputError
from realdataexp.models import FeatureSchema, Input, SideSchema
from realdataexp.models.batch import Axis
from realdataexp.models.sequence import SequenceModel
from realdataexp.options import construct
from realdataexp.registry import calling, find
from realdataexp.sequences.counting import CountingRecommender, Fitted
from realdataexp.train.config import Recommender

_AXES: tuple[tuple[str, Axis], ...] = (("history", "sequence"), ("video", "candidate"))


@dataclass(frozen=True)
class Catalogue:
    """All items, as models see them: their tensors on the device, and the schema of these."""

    tensors: Mapping[str, Tensor]
    schema: FeatureSchema

    @classmethod
    def of(cls, n_items: int, device: Device, **known: np.ndarray) -> Catalogue:
        """The items by their number, and what else is known of them, by name: V, D each."""
        tensors = {
            "cat": torch.arange(n_items).unsqueeze(1),
            "weight": torch.ones(n_items, 1),
            **{name: torch.from_numpy(x) for name, x in known.items()},
        }
        video = SideSchema(0, (("item", 0, 1),), n_items, first_ids=(0,))
        inputs = {
            f"{axis}_{name}": Input(kind, tuple(x.shape[1:]), _n_ids(x))
            for axis, kind in _AXES
            for name, x in tensors.items()
            if not (axis == "video" and name in ("cat", "weight"))
        }
        schema = FeatureSchema(SideSchema(0, (), 0), video, inputs)
        return cls({name: device.tensor(x) for name, x in tensors.items()}, schema)


def _n_ids(x: Tensor) -> int | None:
    return None if x.is_floating_point() else int(x.max()) + 1


def made(
    recommender: Recommender, where: str, catalogue: Catalogue, seed: int
) -> SequenceModel | CountingRecommender:
    """A recommender, not yet fitted; a network's parameters are drawn from the seed.

    Raises:
        InputError: there is no such recommender, or it refuses its options.
    """
    component = find("recommender", recommender.name, where)
    options = recommender.options
    if isinstance(component, type) and issubclass(component, nn.Module):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(draws.key(seed, "parameters")))
            with calling(f"{where} = {recommender.name!r}", "its constructor", InputError):
                model = component(catalogue.schema, 1, **options)
        if not isinstance(model, SequenceModel):
            raise InputError(f"{where} = {recommender.name!r}: must be a SequenceModel")
        return model
    found: CountingRecommender = construct(component, recommender.name, options, where)
    return found


class Scorer:
    """A network that has been trained, as what ranks all items."""

    def __init__(self, model: SequenceModel, catalogue: Catalogue, device: Device) -> None:
        self._model, self._items, self._device = model, catalogue.tensors, device

    def scores(self, past_BT: np.ndarray) -> np.ndarray:
        """See Fitted."""
        with torch.inference_mode(), self._device.autocast():
            hidden_BE = self.hidden(past_BT)
            return self._model.score_all(hidden_BE, self._items).float().cpu().numpy()

    def hidden(self, past_BT: np.ndarray) -> Tensor:
        """The hidden state after each history, zeros after none: B, E."""
        item_BT, last_B = self._latest(past_BT)
        self._model.eval()
        with torch.inference_mode(), self._device.autocast():
            shown = {k: x[item_BT] for k, x in self._items.items()}
            hidden_BTE = self._model.encode(self._model.embed(shown))
            row_B = torch.arange(len(last_B), device=hidden_BTE.device)
            return hidden_BTE[row_B, last_B.clamp_min(0)] * (last_B >= 0).unsqueeze(1)

    def _latest(self, past_BT: np.ndarray) -> tuple[Tensor, Tensor]:
        """The latest items, as many as the model sees, and the place of the last; -1: none."""
        n_B = (past_BT >= 0).sum(1)
        first_B = np.maximum(0, n_B - self._model.longest)
        last_B = n_B - first_B - 1
        place_T = np.arange(max(1, int(last_B.max(initial=0)) + 1))
        place_BT = (first_B[:, None] + place_T).clip(max=max(0, past_BT.shape[1] - 1))
        item_BT = np.where(place_T <= last_B[:, None], np.take_along_axis(past_BT, place_BT, 1), 0)
        return self._device.tensor(item_BT), self._device.tensor(last_B)


class Mixture:
    """The average of a network's probabilities of the items, and a count's shares of its scores."""

    def __init__(self, network: Fitted, counted: Fitted, weight: float) -> None:
        self._network, self._counted, self._weight = network, counted, weight

    def scores(self, past_BT: np.ndarray) -> np.ndarray:
        """See Fitted; ``weight`` is the count's."""
        logit_BV = self._network.scores(past_BT)
        p_BV = np.exp(logit_BV - logit_BV.max(1, keepdims=True))
        count_BV = np.maximum(self._counted.scores(past_BT), 0)
        shares = (x / np.maximum(x.sum(1, keepdims=True), 1e-30) for x in (p_BV, count_BV))
        network_BV, counted_BV = shares
        return (1 - self._weight) * network_BV + self._weight * counted_BV


__all__ = ["Catalogue", "Fitted", "Mixture", "Scorer", "made"]
