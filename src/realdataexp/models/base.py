"""What every model takes and returns: S stacked networks of one label, or of several.

Axes: S stacked networks, B visits (or rows), C candidates, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

from realdataexp import draws
from realdataexp.models.batch import Batch, FeatureSchema
from realdataexp.options import Options, check

Tensors = Mapping[str, Tensor]


def restore(state: Tensors, saved: Tensors) -> None:
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


class StackedModel:
    """A network architecture that computes S copies of itself at once.

    ``forward`` of the stack must equal each network's own forward: no statistics over the batch
    or over the networks. One from outside the package needs the methods, not this base class.

    A model may also have ``init_shared(key) -> dict``: parameters that all networks share, such as
    a table of embeddings made elsewhere. They are held once, without the axis S, and are frozen:
    they get no gradient and no moments, as what one network learned would reach the others.

    Attributes:
        Params: its options, a label's ``model_params``.
        is_shared: whether labels share a network; ``n_outputs`` then has those of each label.
        parts: what it is built of (see layers), each with a prefix for its parameters, or none.
    """

    Params: ClassVar[type[Options]] = Options
    is_shared: ClassVar[bool] = False
    parts: Sequence[tuple[str, Any]]

    def __init__(
        self, schema: FeatureSchema, n_outputs: int, params: Mapping[str, Any], where: str
    ) -> None:
        self.schema, self.n_outputs = schema, n_outputs
        self.options = check(self.Params, params, where)
        self.build(schema, n_outputs, where)

    def build(self, schema: FeatureSchema, n_outputs: int, where: str) -> None:
        """Make the parts, by the options; ``where`` is their config path."""
        raise NotImplementedError

    @property
    def floats_per_row(self) -> int:
        """About how many activations one row needs; decides how many networks share a chunk."""
        return sum(part.floats_per_row for _, part in self.parts)

    def init(self, key: Tensor) -> dict[str, Tensor]:
        """Starting parameters of one network, a pure function of the key (see draws)."""
        params: dict[str, Tensor] = {}
        for prefix, part in self.parts:
            params |= nest(prefix, part.init(draws.key(0, prefix, key) if prefix else key))
        return params

    def forward(self, params: Tensors, batch: Batch, dropout_key_S: Tensor | None) -> Tensor:
        """Raw outputs of shape S, B, C, O.

        Args:
            params: as from ``init``, each with a leading axis S, and as from ``init_shared``.
            batch: the inputs.
            dropout_key_S: a key per network for dropout while training; None while scoring; S, B
                where an arm explores by Thompson sampling: one for all candidates of a visit.
        """
        raise NotImplementedError


def shared_of(model: StackedModel, key: Tensor) -> dict[str, Tensor]:
    """The frozen parameters that all networks of a model share; none of most models."""
    init_shared = getattr(model, "init_shared", None)
    return {} if init_shared is None else init_shared(key)


def inputs_of(model: StackedModel) -> tuple[str, ...] | None:
    """Names of the tensors that a model asks for; None: it may read all of a batch."""
    found = getattr(model, "inputs", None)
    return found if isinstance(found, tuple) else None


class Selecting(StackedModel):
    """A model of ``schema.select(names)``, asked with inputs of the whole schema."""

    def __init__(self, model: StackedModel, schema: FeatureSchema, names: Sequence[str]) -> None:
        self.model, self.parts = model, [("", model)]
        self.inputs = inputs_of(model)
        self._schema, self._names = schema, tuple(names)

    def init_shared(self, key: Tensor) -> dict[str, Tensor]:
        """See shared_of."""
        return shared_of(self.model, key)

    def forward(self, params: Tensors, batch: Batch, dropout_key_S: Tensor | None) -> Tensor:
        """See StackedModel."""
        return self.model.forward(params, batch.select(self._schema, self._names), dropout_key_S)


def nest(prefix: str, params: Tensors) -> dict[str, Tensor]:
    """A part's parameters under a name of their own; without a prefix as they are."""
    return {f"{prefix}.{name}" if prefix else name: p for name, p in params.items()}


def within(prefix: str, params: Tensors) -> dict[str, Tensor]:
    """The parameters that ``nest`` put under a name."""
    start = f"{prefix}."
    return {name.removeprefix(start): p for name, p in params.items() if name.startswith(start)}
