"""What every model takes and gives: S stacked networks of one label.

Axes: S stacked networks, B visits (or rows), C candidates, D numerical features, K category
slots, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class SideSchema:
    """The columns of one feature table, users or videos.

    Attributes:
        n_numerical: columns of the numerical block.
        fields: (name, first slot, slot behind the last) of each categorical feature; a
            multi-hot feature has several slots.
        n_ids: size of the joint vocabulary that the category slots index.
    """

    n_numerical: int
    fields: tuple[tuple[str, int, int], ...]
    n_ids: int

    @property
    def n_slots(self) -> int:
        """Category slots of a row."""
        return self.fields[-1][2] if self.fields else 0


@dataclass(frozen=True)
class FeatureSchema:
    """What a model sees of a user and of a video."""

    user: SideSchema
    video: SideSchema


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

    def expand(self, n_networks: int) -> Batch:
        """The same inputs for ``n_networks`` networks, from inputs of one (no copy)."""
        return Batch(
            *(
                getattr(self, name).expand(n_networks, *getattr(self, name).shape[1:])
                for name in self.__dataclass_fields__
            )
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(S, B, C)."""
        return tuple(self.video_num_SBCD.shape[:3])  # type: ignore[return-value]


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
