"""What networks are shown: named tensors of three kinds, and a description of them.

A tensor's kind says what it describes: a ``visit`` (S, B, ...), each ``candidate`` of a visit's
slate (S, B, C, ...), or each item of a ``sequence`` that belongs to the visit (S, B, T, ...), such
as what its user watched before. Whatever is done to inputs (some networks, some visits, the chosen
candidate, ...) is done here once, for all of them.

Axes: S stacked networks, W worlds (of one network each), B visits (or rows), C candidates, T items
of a sequence, D numerical features, K category slots, N = B or B x C rows, X any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Axis = Literal["visit", "candidate", "sequence"]
_ALWAYS = "video_num"  # says how many candidates there are, even without a column


@dataclass(frozen=True)
class Input:
    """A named tensor that networks are shown.

    Attributes:
        axis: what it describes.
        shape: of its numbers for one visit or candidate; of a sequence with T in front.
        n_ids: it holds ids, int32, from 0 up to this; None: float32 numbers.
    """

    axis: Axis
    shape: tuple[int, ...]
    n_ids: int | None = None


@dataclass(frozen=True)
class SideSchema:
    """The columns of one feature table, users or videos.

    Attributes:
        n_numerical: numerical columns.
        fields: (name, first slot, slot after the last) of each categorical feature; a
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

    def columns(self, names: Sequence[str]) -> dict[str, list[tuple[slice, int]]]:
        """Where ``select(names)`` finds the columns of its numbers, ids and weights: slices.

        With each slice goes what its ids exceed those of the selection's vocabulary by.
        """
        kept = [
            (slice(first, end), first_id)
            for (name, first, end), first_id in zip(self.fields, self.first_ids, strict=True)
            if name in names
        ]
        # slices, as a list of columns would have to be copied to the device
        new_ids = self.select(names).first_ids
        slots = [(where, i - new) for (where, i), new in zip(kept, new_ids, strict=True)]
        numbers = [(slice(d, d + 1), 0) for d, name in enumerate(self.numerical) if name in names]
        return {"num": numbers, "cat": slots, "weight": [(where, 0) for where, _ in slots]}


@dataclass(frozen=True)
class FeatureSchema:
    """What a model sees: features of a user and of a video, and whatever else a world shows.

    Attributes:
        user, video: the columns of the feature tables.
        extra: further tensors, by name.
    """

    user: SideSchema
    video: SideSchema
    extra: Mapping[str, Input] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The features of both tables."""
        return (*self.user.names, *self.video.names)

    def select(self, names: Sequence[str]) -> FeatureSchema:
        """Some of the features, and all that is extra; see Batch.select for their columns.

        Of a history's items the same features are kept as of candidates.
        """
        own = FeatureSchema(self.user.select(names), self.video.select(names))
        extra = dict(self.extra)
        for suffix in Side._fields:
            shown, of_video = (
                extra.pop(f"history_{suffix}", None),
                own.inputs.get(f"video_{suffix}"),
            )
            if shown is not None and of_video is not None and of_video.shape != (0,):
                shape = (*shown.shape[:-1], *of_video.shape)
                extra[f"history_{suffix}"] = Input("sequence", shape, of_video.n_ids)
        return replace(own, extra=extra)

    def with_history(self, n: int) -> FeatureSchema:
        """The same for visits that show the user's last n items too, with what candidates have."""
        shown = {
            name.replace("video", "history"): Input("sequence", (n, *x.shape), x.n_ids)
            for name, x in self.inputs.items()
            if x.axis == "candidate" and x.shape != (0,)
        }
        mask = {"history_mask": Input("sequence", (n,))}
        return replace(self, extra={**self.extra, **shown, **mask})

    def sides(self) -> Iterator[tuple[str, Axis, SideSchema]]:
        """Each feature table: its name, what a row of it describes, and its columns."""
        yield "user", "visit", self.user
        yield "video", "candidate", self.video

    @property
    def inputs(self) -> dict[str, Input]:
        """Every tensor of a Batch, by name.

        A side has its numbers ``<side>_num``, its category ids ``<side>_cat`` (of the side's joint
        vocabulary) and their weights ``<side>_weight`` (1, or 0 where a multi-hot feature has fewer
        entries than slots), each unless it has no column; ``video_num`` is always there.
        """
        found = {}
        for name, axis, side in self.sides():
            sizes = (side.n_numerical, None), (side.n_slots, side.n_ids), (side.n_slots, None)
            for suffix, (n, n_ids) in zip(Side._fields, sizes, strict=True):
                if n or f"{name}_{suffix}" == _ALWAYS:
                    found[f"{name}_{suffix}"] = Input(axis, (n,), n_ids)
        return found | dict(self.extra)


class Side(NamedTuple):
    """Rows of a feature table: numbers S, N, D, and category ids and their weights S, N, K."""

    num: Tensor
    cat: Tensor
    weight: Tensor


_DTYPES = (torch.float32, torch.int32, torch.float32)
_COLUMNS = {
    name: [(f"{name}_{x}", dtype) for x, dtype in zip(Side._fields, _DTYPES, strict=True)]
    for name in ("user", "video")
}


@dataclass(frozen=True)
class Batch:
    """The inputs of S networks: a user per visit and C videos to judge for each.

    Attributes:
        visit, candidate, sequence: tensors by name; see FeatureSchema.inputs.
    """

    visit: dict[str, Tensor] = field(default_factory=dict)
    candidate: dict[str, Tensor] = field(default_factory=dict)
    sequence: dict[str, Tensor] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors, by name."""
        return {**self.visit, **self.candidate, **self.sequence}

    @property
    def shape(self) -> tuple[int, int, int]:
        """(S, B, C)."""
        return self.candidate[_ALWAYS].shape[:3]  # type: ignore[return-value]

    def side(self, name: str) -> Side:
        """The features of the ``user`` (N = B rows) or of the ``video`` (N = B x C rows)."""
        like = self.candidate[_ALWAYS]
        of, n_axes = (self.visit, 2) if name == "user" else (self.candidate, 3)
        columns = []
        for column, dtype in _COLUMNS[name]:
            x = of.get(column)
            if x is None:
                x = like.new_empty(*like.shape[:n_axes], 0, dtype=dtype)
            columns.append(x.flatten(1, 2) if n_axes == 3 else x)
        return Side(*columns)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """A function of every tensor."""
        return Batch(
            **{axis: {name: change(x) for name, x in of.items()} for axis, of in vars(self).items()}
        )

    def __getitem__(self, networks: slice | Tensor) -> Batch:
        """The inputs of some of the networks."""
        if networks == slice(0, len(self.candidate[_ALWAYS])):
            return self
        return self.map(lambda x_SBX: x_SBX[networks])

    def visits(self, place_B: Tensor | slice) -> Batch:
        """The inputs of some of the visits, for all networks."""
        return self.map(lambda x_SBX: x_SBX[:, place_B])

    def expand(self, n_networks: int) -> Batch:
        """The same inputs for ``n_networks`` networks, from inputs of one (no copy)."""
        return self.map(lambda x_SBX: x_SBX.expand(n_networks, *x_SBX.shape[1:]))

    @classmethod
    def stacked(cls, batches: Sequence[Batch]) -> Batch:
        """The inputs of several stacks of networks as those of one; names and sizes must agree."""
        first, *_ = batches
        return cls(
            **{
                axis: {name: torch.cat([vars(x)[axis][name] for x in batches]) for name in of}
                for axis, of in vars(first).items()
            }
        )

    def chosen(self, choice_WB: Tensor) -> Batch:
        """The chosen candidates' inputs, S = W and C = 1.

        Args:
            choice_WB: of W worlds; where there are fewer inputs (S < W), each S worlds share them.
        """
        (W, B), S, to = choice_WB.shape, self.shape[0], choice_WB.device
        world_W, visit_B = torch.arange(W, device=to) % S, torch.arange(B, device=to)

        def of_worlds(x_SBX: Tensor) -> Tensor:
            return x_SBX if W == S else x_SBX[world_W]

        def at(x_SBCX: Tensor) -> Tensor:
            return x_SBCX[world_W.unsqueeze(1), visit_B, choice_WB].unsqueeze(2)

        return Batch(
            {name: of_worlds(x) for name, x in self.visit.items()},
            {name: at(x) for name, x in self.candidate.items()},
            {name: of_worlds(x) for name, x in self.sequence.items()},
        )

    def select(self, schema: FeatureSchema, names: Sequence[str]) -> Batch:
        """The columns of some of the schema's features, as in ``schema.select(names)``.

        Ids count in the selection's vocabulary; what is no feature stays as it is.
        """
        by_axis = {axis: dict(of) for axis, of in vars(self).items()}
        history: tuple[str, Axis, SideSchema] = ("history", "sequence", schema.video)
        for own, axis, side in (*schema.sides(), history):
            for suffix, columns in side.columns(names).items():
                name, of = f"{own}_{suffix}", by_axis[axis]
                x = of.pop(name, None)
                if x is not None and (columns or name == _ALWAYS):
                    # behind a history's end all ids are 0
                    kept = [
                        (x[..., i] - more).clamp_min(0) if more else x[..., i]
                        for i, more in columns
                    ]
                    of[name] = torch.cat([x[..., :0], *kept], dim=-1)
        return Batch(**by_axis)

    def state(self) -> dict[str, Tensor]:
        """Its tensors, named after kind and name."""
        return {f"{axis}.{name}": x for axis, of in vars(self).items() for name, x in of.items()}

    @classmethod
    def of_state(cls, tensors: Mapping[str, Tensor]) -> Batch:
        """The batch whose state this is."""
        batch = cls()
        for key, x in tensors.items():
            axis, _, name = key.partition(".")
            vars(batch)[axis][name] = x
        return batch
