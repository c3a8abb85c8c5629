"""Schemas, inputs and plain single networks, for the tests of the stacked models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from support import batch_of
from torch import Tensor, nn

from realdataexp import draws
from realdataexp.device import Device
from realdataexp.learner import Head, Learner
from realdataexp.models import (
    LOSSES,
    Batch,
    FeatureSchema,
    LabelScale,
    SideSchema,
    StackedModel,
)
from realdataexp.models.layers import DeepParams
from realdataexp.optimizers import OptimizerSettings

S, B, C = 3, 5, 4

NUMBERS_2, NUMBERS_3 = SideSchema(2, (), 0), SideSchema(3, (), 0)
NOTHING = SideSchema(0, (), 0)
LEVELS = SideSchema(0, (("kind", 0, 1),), 4, (), (0,))
TAGS = SideSchema(0, (("tag", 0, 3),), 6, (), (0,))
MIXED_USER = SideSchema(2, (("level", 0, 1), ("range", 1, 2)), 9, (), (0, 4))
MIXED_VIDEO = SideSchema(1, (("type", 0, 1), ("tag", 1, 4)), 11, (), (0, 5))

SCHEMAS = {
    "numbers": FeatureSchema(NUMBERS_2, NUMBERS_3),
    "categories": FeatureSchema(LEVELS, TAGS),
    "mixed": FeatureSchema(MIXED_USER, MIXED_VIDEO),
    "numbers and tags": FeatureSchema(NUMBERS_2, TAGS),
    "categories and numbers": FeatureSchema(LEVELS, NUMBERS_3),
    "no user features": FeatureSchema(NOTHING, MIXED_VIDEO),
    "no video features": FeatureSchema(MIXED_USER, NOTHING),
    "only tags": FeatureSchema(NOTHING, TAGS),
}


def side_inputs(
    side: SideSchema, shape: tuple[int, ...], g: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    num = torch.randn(*shape, side.n_numerical, generator=g, dtype=torch.float64)
    cat = torch.zeros(*shape, side.n_slots, dtype=torch.int32)
    weight = torch.ones(*shape, side.n_slots, dtype=torch.float64)
    ids = pairwise((*side.first_ids, side.n_ids))
    for (_, first, last), (first_id, end_id) in zip(side.fields, ids, strict=True):
        size = (*shape, last - first)
        cat[..., first:last] = torch.randint(first_id, end_id, size, generator=g).int()
        if last - first > 1:  # multi-hot: some slots are padding
            n = torch.randint(0, last - first + 1, (*shape, 1), generator=g)
            weight[..., first:last] = (torch.arange(last - first) < n).double()
    return num, cat, weight


def random_batch(
    schema: FeatureSchema, shape: tuple[int, int, int] = (S, B, C), seed: int = 1
) -> Batch:
    g = torch.Generator().manual_seed(seed)
    user = side_inputs(schema.user, shape[:2], g)
    return batch_of(*user, *side_inputs(schema.video, shape, g))


def in_float32(batch: Batch) -> Batch:
    return batch.map(lambda x: x.float() if x.is_floating_point() else x)


def stacked(model: StackedModel, n: int = S) -> dict[str, Tensor]:
    """Different parameters for each network, float64, so that equality is sharp."""
    starts = [model.init(draws.key(i, "init")) for i in range(n)]
    return {name: torch.stack([p[name] for p in starts]).double() for name in starts[0]}


# --- one plain network -----------------------------------------------------------------------


def plain_rows(batch: Batch, s: int) -> Batch:
    """The rows of one network as a batch without the axes S and B: N, columns."""
    n = batch.shape[2]
    return Batch(
        visit={name: x[s].repeat_interleave(n, dim=0) for name, x in batch.visit.items()},
        candidate={name: x[s].flatten(0, 1) for name, x in batch.candidate.items()},
    )


def sides_of(schema: FeatureSchema, rows: Batch) -> list[tuple[SideSchema, Tensor, Tensor, Tensor]]:
    return [
        (schema.user, *rows.visit.values()),
        (schema.video, *rows.candidate.values()),
    ]


def plain_numbers(schema: FeatureSchema, rows: Batch) -> Tensor:
    return torch.cat([num for _, num, _, _ in sides_of(schema, rows)], dim=1)


def plain_one_hot(schema: FeatureSchema, rows: Batch) -> Tensor:
    """The user's numbers and one-hot columns, then the video's."""
    parts = []
    for side, num, cat, weight in sides_of(schema, rows):
        parts.append(num)
        if side.fields:
            one_hot = F.one_hot(cat.long(), side.n_ids).double()
            parts.append((one_hot * weight.unsqueeze(-1)).sum(1))
    return torch.cat(parts, dim=1)


class Plain(nn.Module):
    """A plain network that knows which of its parameters each of the stack's is.

    ``ties`` holds, for each of the stack's names, a parameter; of a linear layer's weight, which
    is transposed, also the input columns that are meant.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__()
        self.schema = schema
        self.ties: dict[str, tuple[nn.Parameter, slice | None]] = {}

    def tie(self, name: str, p: nn.Parameter, columns: slice | None = None) -> None:
        self.ties[name] = (p, columns)

    def linear(self, n: int, width: int, weight: str, bias: str | None = None) -> nn.Linear:
        layer = nn.Linear(n, width, bias=bias is not None, dtype=torch.float64)
        self.tie(weight, layer.weight, slice(0, n))
        if bias is not None:
            self.tie(bias, layer.bias)
        return layer

    def one_hot_layer(self, width: int, prefix: str = "") -> nn.Linear:
        """A layer over ``plain_one_hot``."""
        sides = {"user": self.schema.user, "video": self.schema.video}
        n = sum(side.n_numerical + (side.n_ids if side.fields else 0) for side in sides.values())
        layer, first = nn.Linear(n, width, dtype=torch.float64), 0
        for name, side in sides.items():
            for part, size in (("weight", side.n_numerical), ("one_hot", side.n_ids)):
                if size:
                    self.tie(f"{prefix}{name}_{part}", layer.weight, slice(first, first + size))
                    first += size
        self.tie(f"{prefix}bias_0", layer.bias)
        return layer

    def embedded_layer(self, width: int, dim: int, prefix: str = "") -> nn.Linear:
        """A layer over each side's numbers, then the embeddings of its fields."""
        sides = {"user": self.schema.user, "video": self.schema.video}
        sizes = {name: side.n_numerical + dim * len(side.fields) for name, side in sides.items()}
        layer, first = nn.Linear(sum(sizes.values()), width, dtype=torch.float64), 0
        for name, size in sizes.items():
            if size:
                self.tie(f"{prefix}{name}_weight", layer.weight, slice(first, first + size))
                first += size
        self.tie(f"{prefix}bias_0", layer.bias)
        return layer

    def tables(self, dim: int, prefix: str = "") -> nn.ModuleDict:
        tables = nn.ModuleDict()
        for name, side in (("user", self.schema.user), ("video", self.schema.video)):
            if side.fields:
                tables[name] = nn.Embedding(side.n_ids, dim, dtype=torch.float64)
                self.tie(f"{prefix}{name}_embedding", tables[name].weight)
        return tables

    def vectors(self, tables: nn.ModuleDict, rows: Batch) -> list[list[Tensor]]:
        """Each field's embedding, of the user and of the video."""
        found: list[list[Tensor]] = []
        named = zip(("user", "video"), sides_of(self.schema, rows), strict=True)
        for name, (side, _, cat, weight) in named:
            found.append([])
            for _, first, end in side.fields:
                entries = tables[name](cat[:, first:end].long())
                found[-1].append((entries * weight[:, first:end].unsqueeze(-1)).sum(1))
        return found

    def embedded(self, tables: nn.ModuleDict, rows: Batch) -> Tensor:
        """The columns of ``embedded_layer``."""
        vectors, parts = self.vectors(tables, rows), []
        for (_, num, _, _), of_side in zip(sides_of(self.schema, rows), vectors, strict=True):
            parts += [num, *of_side]
        return torch.cat(parts, dim=1)

    def hidden(
        self, widths: Sequence[int], options: DeepParams, activates_input: bool, prefix: str = ""
    ) -> nn.Sequential:
        """Linear layers with LayerNorm and ReLU in front of each but, maybe, the first."""
        layers: list[nn.Module] = []
        for i in range(1, len(widths)):
            if i > 1 or activates_input:
                if options.normalization == "layer":
                    norm = nn.LayerNorm(widths[i - 1], dtype=torch.float64)
                    self.tie(f"{prefix}norm_scale_{i}", norm.weight)
                    self.tie(f"{prefix}norm_shift_{i}", norm.bias)
                    layers.append(norm)
                layers.append(nn.ReLU())
            names = (f"{prefix}weight_{i}", f"{prefix}bias_{i}")
            layers.append(self.linear(widths[i - 1], widths[i], *names))
        return nn.Sequential(*layers)

    def copy_from(self, params: Mapping[str, Tensor]) -> None:
        assert set(self.ties) == set(params)
        with torch.no_grad():
            for name, (p, columns) in self.ties.items():
                if columns is None:
                    p.copy_(params[name])
                else:
                    p[:, columns] = params[name].T

    def gradient(self, name: str) -> Tensor:
        p, columns = self.ties[name]
        assert p.grad is not None
        return p.grad if columns is None else p.grad[:, columns].T


def assert_equals_plain(
    model: StackedModel, schema: FeatureSchema, make_plain: Callable[[], Plain]
) -> None:
    """Values, while training and while scoring, and all gradients, of every network."""
    params, batch = stacked(model), random_batch(schema)
    g = torch.Generator().manual_seed(5)
    for name in params:  # LayerNorm starts with equal ones: move everything
        params[name] += 0.1 * torch.randn(params[name].shape, generator=g, dtype=torch.float64)
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    raw = model.forward(leaves, batch, None)
    with torch.no_grad():
        before = {name: x.clone() for name, x in batch.tensors.items()}
        start = {name: p.clone() for name, p in params.items()}
        scoring = [model.forward(params, batch, None) for _ in range(2)]
        assert torch.equal(*scoring)
        torch.testing.assert_close(scoring[0], raw, rtol=1e-10, atol=1e-10)
        assert all(torch.equal(x, before[name]) for name, x in batch.tensors.items())
        assert all(torch.equal(p, start[name]) for name, p in params.items())
    pull = torch.randn(raw.shape, generator=g, dtype=torch.float64)
    grads = dict(zip(leaves, torch.autograd.grad((raw * pull).sum(), leaves.values()), strict=True))
    assert raw.shape == (*batch.shape, raw.shape[-1])
    assert float(raw.detach().std()) > 0.03  # the inputs matter
    for s in range(S):
        plain = make_plain()
        plain.copy_from({name: p[s] for name, p in params.items()})
        expected = plain(plain_rows(batch, s))
        torch.testing.assert_close(raw[s].flatten(0, 1), expected, rtol=1e-10, atol=1e-10)
        (expected * pull[s].flatten(0, 1)).sum().backward()
        for name in params:
            ours = grads[name][s]
            torch.testing.assert_close(ours, plain.gradient(name), rtol=1e-9, atol=1e-9, msg=name)


# --- learning --------------------------------------------------------------------------------


def learner_of(
    model: StackedModel, loss: str, starts: Sequence[Mapping[str, Tensor]], chunk_bytes: int
) -> Learner:
    """A learner of one label whose networks start as given."""
    device = Device(torch.device("cpu"), "a test", chunk_bytes)
    heads = (Head(LOSSES[loss], LabelScale(), 1),)
    learner = Learner.start(model, heads, device, dict(starts[0]), len(starts))
    for name, p in learner.params.items():
        p.copy_(torch.stack([start[name] for start in starts]))
    return learner


def fit(
    model: StackedModel, batch: Batch, y_SB: Tensor, n_steps: int, learning_rate: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Each network's mean squared error before and after steps of Adam on one batch."""
    batch, y_SBJ, n = in_float32(batch), y_SB.float().unsqueeze(-1), batch.shape[0]
    starts = [model.init(draws.key(i, "init")) for i in range(n)]
    learner, settings = learner_of(model, "MSE", starts, 8 << 20), OptimizerSettings(learning_rate)
    before_S = learner.losses(batch, y_SBJ).mean((1, 2))
    for step in range(n_steps):
        keys_S = draws.key(0, "dropout", torch.arange(n), step)
        learner.update(batch, y_SBJ, torch.ones(batch.shape[:2]), settings, keys_S)
    return before_S, learner.losses(batch, y_SBJ).mean((1, 2))
