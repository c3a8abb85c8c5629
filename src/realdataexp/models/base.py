"""What every model takes and gives: S stacked networks of one label.

Axes: S stacked networks, B visits (or rows), C candidates, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from realdataexp.models.batch import Batch, FeatureSchema


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


class StackedModel(Protocol):
    """A network architecture that computes S copies of itself at once.

    ``forward`` of the stack must equal each network's own forward: no statistics over the batch
    or over the networks.

    A model may also have ``init_shared(key) -> dict``: parameters that all networks share, such as
    a table of embeddings made elsewhere. They are held once, without the axis S, and are frozen:
    they get no gradient and no moments, as what one network learned would reach the others.
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
            params: as from ``init``, each with a leading axis S, and as from ``init_shared``.
            batch: the inputs.
            dropout_key_S: a key per network for dropout while training; None while scoring; S, B
                where an arm explores by Thompson sampling: one for all candidates of a visit.
        """
        ...


def shared_of(model: StackedModel, key: Tensor) -> dict[str, Tensor]:
    """The frozen parameters that all networks of a model share; none of most models."""
    init_shared = getattr(model, "init_shared", None)
    return {} if init_shared is None else init_shared(key)
