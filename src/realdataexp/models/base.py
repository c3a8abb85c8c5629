"""What every model takes and gives: S stacked networks of one label.

Axes: S stacked networks, B visits (or rows), C candidates, D numerical features, K category
slots, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class SideSchema:
    """The columns of one feature table, users or videos.

    Attributes:
        n_numerical: columns of the numerical block.
        fields: (name, first slot, slot behind the last) of each categorical feature; a
            multi-hot feature has several slots.
        n_ids: size of the joint vocabulary that the category slots index.
        numerical: the feature of each numerical column; a feature may have several.
        first_ids: where each categorical feature's ids start in the joint vocabulary.
    """

    n_numerical: int
    fields: tuple[tuple[str, int, int], ...]
    n_ids: int
    numerical: tuple[str, ...] = ()
    first_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.first_ids) != len(self.fields):
            raise ValueError(f"{len(self.fields)} fields need as many first_ids: {self.first_ids}")

    @property
    def n_slots(self) -> int:
        """Category slots of a row."""
        return self.fields[-1][2] if self.fields else 0

    @property
    def names(self) -> tuple[str, ...]:
        """The features, each once."""
        return (*dict.fromkeys(self.numerical), *(name for name, _, _ in self.fields))

    def select(self, names: Sequence[str]) -> SideSchema:
        """Some of the features, in this schema's order, with a joint vocabulary of their own."""
        numerical = tuple(name for name in self.numerical if name in names)
        fields, first_ids, slot, n_ids = [], [], 0, 0
        ids = pairwise((*self.first_ids, self.n_ids))
        for (name, first, end), (first_id, end_id) in zip(self.fields, ids, strict=True):
            if name in names:
                fields.append((name, slot, slot + end - first))
                first_ids.append(n_ids)
                slot, n_ids = slot + end - first, n_ids + end_id - first_id
        return SideSchema(len(numerical), tuple(fields), n_ids, numerical, tuple(first_ids))


@dataclass(frozen=True)
class FeatureSchema:
    """What a model sees of a user and of a video."""

    user: SideSchema
    video: SideSchema

    @property
    def names(self) -> tuple[str, ...]:
        """The features of both."""
        return (*self.user.names, *self.video.names)

    def select(self, names: Sequence[str]) -> FeatureSchema:
        """Some of the features; see Batch.select for their columns."""
        return FeatureSchema(self.user.select(names), self.video.select(names))


@dataclass(frozen=True)
class Batch:
    """The inputs of S networks: a user per visit and C videos to judge for each.

    Category slots hold ids of their side's joint vocabulary; a slot's weight is 1, or 0 where a
    multi-hot feature has fewer entries than slots.
    """

    user_num_SBD: Tensor
    user_cat_SBK: Tensor
    user_weight_SBK: Tensor
    video_num_SBCD: Tensor
    video_cat_SBCK: Tensor
    video_weight_SBCK: Tensor

    def __getitem__(self, networks: slice | Tensor) -> Batch:
        """The inputs of some of the networks."""
        return Batch(*(getattr(self, name)[networks] for name in self.__dataclass_fields__))

    def visits(self, place_B: Tensor) -> Batch:
        """The inputs of some of the visits, for all networks."""
        return Batch(*(getattr(self, name)[:, place_B] for name in self.__dataclass_fields__))

    @classmethod
    def stacked(cls, batches: Sequence[Batch]) -> Batch:
        """The inputs of several stacks of networks as those of one; sizes must agree."""
        return cls(
            *(torch.cat([getattr(b, name) for b in batches]) for name in cls.__dataclass_fields__)
        )

    def expand(self, n_networks: int) -> Batch:
        """The same inputs for ``n_networks`` networks, from inputs of one (no copy)."""
        return Batch(
            *(
                getattr(self, name).expand(n_networks, *getattr(self, name).shape[1:])
                for name in self.__dataclass_fields__
            )
        )

    def select(self, schema: FeatureSchema, names: Sequence[str]) -> Batch:
        """The columns of some of the schema's features, as in ``schema.select(names)``."""
        user = _select(
            schema.user, names, self.user_num_SBD, self.user_cat_SBK, self.user_weight_SBK
        )
        video = _select(
            schema.video, names, self.video_num_SBCD, self.video_cat_SBCK, self.video_weight_SBCK
        )
        return Batch(*user, *video)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(S, B, C)."""
        return tuple(self.video_num_SBCD.shape[:3])  # type: ignore[return-value]


def restore(state: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy saved tensors into the live ones of a state.

    Raises:
        ValueError: a name, a shape or a type differs; then nothing has been copied.
    """
    if wrong := sorted(state.keys() ^ saved.keys()):
        said = "missing" if wrong[0] in state else "unknown"
        raise ValueError(f"state: tensor {wrong[0]} is {said}")
    for name, live in state.items():
        found, wanted = (f"{x.dtype} {list(x.shape)}" for x in (saved[name], live))
        if found != wanted:
            raise ValueError(f"state: tensor {name} is {found} instead of {wanted}")
    for name, live in state.items():
        live.copy_(saved[name])


def _select(
    side: SideSchema, names: Sequence[str], num_XD: Tensor, cat_XK: Tensor, weight_XK: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One side's columns of some features, ids counted in their own joint vocabulary."""
    new = side.select(names)
    first_id_of = {name: i for (name, _, _), i in zip(new.fields, new.first_ids, strict=True)}
    # slices, as a list of columns would have to be copied to the device
    nums = [num_XD[..., d : d + 1] for d, name in enumerate(side.numerical) if name in names]
    cats, weights = [], []
    for (name, first, end), first_id in zip(side.fields, side.first_ids, strict=True):
        if name in names:
            cats.append(cat_XK[..., first:end] - (first_id - first_id_of[name]))
            weights.append(weight_XK[..., first:end])
    parts = ((num_XD, nums), (cat_XK, cats), (weight_XK, weights))
    num_XD, cat_XK, weight_XK = (torch.cat([x[..., :0], *kept], dim=-1) for x, kept in parts)
    return num_XD, cat_XK, weight_XK


class StackedModel(Protocol):
    """A network architecture that computes S copies of itself at once.

    ``forward`` of the stack must equal each network's own forward: no statistics over the batch
    or over the networks.
    """

    def __init__(
        self, schema: FeatureSchema, n_outputs: int, params: Mapping[str, Any], where: str
    ) -> None: ...

    @property
    def floats_per_row(self) -> int:
        """About how many activations one row needs; decides how many networks share a chunk."""
        ...

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """Starting parameters of one network, a pure function of the key (see draws)."""
        ...

    def forward(
        self, params: Mapping[str, Tensor], batch: Batch, dropout_key_S: Tensor | None
    ) -> Tensor:
        """Raw outputs of shape S, B, C, O.

        Args:
            params: as from ``init``, each with a leading axis S.
            batch: the inputs.
            dropout_key_S: a key per network for dropout while training; None while scoring.
        """
        ...
