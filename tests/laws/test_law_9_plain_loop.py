"""Law 9: the lockstep run equals a loop of one world, written to be read.

The plain loop below shares with the package the draws and the starting parameters, nothing else:
its rows are Python lists (see oracle), its networks torch.nn.Linear and torch.nn.Embedding over a
joined row, its optimizer torch.optim.Adam, its losses PyTorch's. Users, slates, arms, picks and
outcomes are compared exactly, in float32 as runs have it. Parameters differ by rounding, because a
joined row adds its features in another order than a stack does, and Adam divides what is nearly 0
by its own size; how much depends on the CPU. So they are compared in float64, where that is 1e-9 of
a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.nn.functional as F
from oracle import UnusedRows
from support import (
    BLOCKS,
    Label,
    Setting,
    label,
    make_data,
    make_start,
    make_store,
    run,
    same,
)
from torch import Tensor, nn

from realdataexp import draws
from realdataexp.loop import Block

TOLERANCE = 1e-9
REPLICATIONS = (0, 5)

SETTINGS = {
    "embeddings": Setting(
        labels=(
            label("play", "logMAE", 0.1, 1.0, gradient_clip=0.5),
            label("click", "BCE", 1.0, 0.1, weight_decay=0.05),
        ),
        n_steps=20,
    ),
    "one-hot and dropout": Setting(
        labels=(
            label("play", "MSE", 0.3, 1.0, embedding_dim=None, dropout=0.3),
            label("click", "CE", 1.0, -0.3, embedding_dim=None, dropout=0.2, gradient_clip=0.5),
        ),
        n_steps=20,
        assignment="visit",
        min_candidates=2,
    ),
    "linear": Setting(
        labels=(label("play", "MAE", 1.0, -1.0, hidden_layers=()),), n_steps=20, batch_size=3
    ),
}

# how much model m learns from a visit
WEIGHTS: dict[str, Callable[[bool, int, float], float]] = {
    "global": lambda is_treated, m, p: 1.0,
    "pooling": lambda is_treated, m, p: 1.0,
    "snapshot": lambda is_treated, m, p: 0.0,
    "splitting": lambda is_treated, m, p: (is_treated == m) / (p if m else 1.0 - p),
    "splitting raw": lambda is_treated, m, p: float(is_treated == m),
}


class PlainNetwork(nn.Module):
    """One label's network over joined rows, with its optimizer."""

    def __init__(self, setting: Setting, index: int) -> None:
        super().__init__()
        self.label = setting.labels[index]
        self.store = make_store(setting.n_rows_U, setting.dtype)
        start = make_start(setting, index)
        self.is_one_hot = self.label.params["embedding_dim"] is None
        self.names = [f"{side}_weight" for side in ("user", "video")]
        if self.is_one_hot:
            self.names += [f"{side}_one_hot" for side in ("user", "video")]
        else:
            self.user = nn.Embedding.from_pretrained(start["user_embedding"], freeze=False)
            self.video = nn.Embedding.from_pretrained(start["video_embedding"], freeze=False)
        self.sizes = [start[name].shape[0] for name in self.names]
        weights = [torch.cat([start[name] for name in self.names])]
        n_layers = len(self.label.params["hidden_layers"]) + 1
        weights += [start[f"weight_{i}"] for i in range(1, n_layers)]
        self.layers = nn.ModuleList()
        for i, weight in enumerate(weights):
            layer = nn.Linear(*weight.shape)
            layer.weight.data, layer.bias.data = weight.T.clone(), start[f"bias_{i}"].clone()
            self.layers.append(layer)
        self.adam = torch.optim.Adam(
            self.parameters(),
            lr=self.label.optimizer.learning_rate,
            weight_decay=self.label.optimizer.weight_decay,
        )
        self.n_updates = 0

    def joined(self, side: str, num_ND: Tensor, cat_NK: Tensor, weight_NK: Tensor) -> list[Tensor]:
        """A side's numbers, then its categories as counts or as one embedding a feature."""
        schema = getattr(self.store.schema, side)
        if self.is_one_hot:
            one_hot_NKV = F.one_hot(cat_NK.long(), schema.n_ids) * weight_NK.unsqueeze(-1)
            return [num_ND, one_hot_NKV.sum(1)]
        bags = [
            (getattr(self, side)(cat_NK[:, a:b].long()) * weight_NK[:, a:b, None]).sum(1)
            for _, a, b in schema.fields
        ]
        return [torch.cat([num_ND, *bags], dim=1)]

    def forward(self, user_N: list[int], video_N: list[int], masks: list[Tensor]) -> Tensor:
        """Raw outputs N, O; a mask for each hidden layer, or none while scoring."""
        batch = self.store.batch(torch.tensor([user_N]), torch.tensor([video_N]).unsqueeze(-1))
        user, video = (
            self.joined(name, *(x[0] for x in batch.side(name))) for name in ("user", "video")
        )
        x = torch.cat([part for pair in zip(user, video, strict=True) for part in pair], dim=1)
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i < len(self.layers) - 1:
                x = torch.relu(x)
                x = x * masks[i] if masks else x
        return x

    def predictions(self, user_N: list[int], video_N: list[int]) -> Tensor:
        """In the label's units."""
        with torch.no_grad():
            raw_NO = self(user_N, video_N, [])
        scale = self.label.scale
        if self.label.loss == "logMAE":
            return torch.exp((raw_NO[:, 0] * scale.sd + scale.mean).clamp(0.0, 60.0)) - 1.0
        if self.label.loss in ("MSE", "MAE"):
            return raw_NO[:, 0] * scale.sd + scale.mean
        if self.label.loss == "CE":
            return torch.softmax(raw_NO, 1)[:, 1]
        return raw_NO[:, 0].sigmoid()

    def losses(self, raw_NO: Tensor, y_N: Tensor) -> Tensor:
        """Each row's loss."""
        scale = self.label.scale
        if self.label.loss == "logMAE":
            return (raw_NO[:, 0] * scale.sd + scale.mean - torch.log(1.0 + y_N)).abs()
        if self.label.loss in ("MSE", "MAE"):
            error_N = raw_NO[:, 0] - (y_N - scale.mean) / scale.sd
            return error_N**2 if self.label.loss == "MSE" else error_N.abs()
        if self.label.loss == "CE":
            return F.cross_entropy(raw_NO, y_N.long(), reduction="none")
        return F.binary_cross_entropy_with_logits(raw_NO[:, 0], y_N, reduction="none")

    def learn(self, users: list[int], videos: list[int], y: Tensor, weight: Tensor, masks) -> None:
        """One weighted step over the visits with a label, if any has a weight."""
        known = y.isfinite()
        if not (weight[known] > 0).any():
            return
        losses = self.losses(self(users, videos, masks)[known], y[known])
        self.adam.zero_grad()
        (weight[known] * losses).mean().backward()
        if self.label.optimizer.gradient_clip:
            nn.utils.clip_grad_norm_(self.parameters(), self.label.optimizer.gradient_clip)
        self.adam.step()
        self.n_updates += 1

    def params(self) -> dict[str, Tensor]:
        """Under the package's names."""
        first = self.layers[0].weight.detach().T
        named = dict(zip(self.names, first.split(self.sizes), strict=True))
        for i, layer in enumerate(self.layers):
            named[f"bias_{i}"] = layer.bias.detach()
            if i:
                named[f"weight_{i}"] = layer.weight.detach().T
        if not self.is_one_hot:
            named |= {
                f"{side}_embedding": getattr(self, side).weight.detach()
                for side in ("user", "video")
            }
        return named


@dataclass
class PlainWorld:
    """What happened in one world."""

    networks: list[list[PlainNetwork]]  # of each label, of each model
    items: list[list[int]] = field(default_factory=list)
    arms: list[list[bool]] = field(default_factory=list)
    differs: list[list[bool]] = field(default_factory=list)


def plain_run(setting: Setting, block: Block, replication: int) -> PlainWorld:
    """The story of one world, visit by visit."""
    log = make_data(setting.n_rows_U).log
    unused = UnusedRows(log, setting, replication)
    world = PlainWorld(
        [
            [PlainNetwork(setting, i) for _ in range(block.design.n_models)]
            for i in range(len(setting.labels))
        ]
    )
    for step in range(setting.n_steps):
        visitors = unused.visitors(step)
        if not visitors:
            break
        items, arms, differs = [], [], []
        for place, user in enumerate(visitors):
            slate = unused.slate(step, place, user)
            is_treated = unused.is_treated(step, place, user, block.p)
            picks = [pick(setting.labels, world.networks, user, slate, log, arm) for arm in (0, 1)]
            items.append(slate[picks[is_treated]])
            arms.append(is_treated)
            differs.append(picks[0] != picks[1])
        for i, networks in enumerate(world.networks):
            x = setting.labels[i]
            y = torch.tensor(
                [float(log.targets[x.target][row]) for row in items], dtype=setting.dtype
            )
            key = draws.key(setting.seed, f"dropout {x.target}", replication, step)
            masks = [
                draws.keep_mask(
                    draws.key(0, f"layer_{n + 1}", key),
                    (setting.batch_size, H),
                    x.params["dropout"],
                )[: len(items)]
                for n, H in enumerate(x.params["hidden_layers"])
            ]
            for m, network in enumerate(networks):
                weight = torch.tensor([WEIGHTS[block.label](arm, m, block.p) for arm in arms])
                network.learn(visitors, [int(log.video_N[row]) for row in items], y, weight, masks)
        for user, row in zip(visitors, items, strict=True):
            unused.use(user, row)
        unused.strike()
        world.items.append(items)
        world.arms.append(arms)
        world.differs.append(differs)
    return world


def pick(
    labels: tuple[Label, ...], networks: list[list[PlainNetwork]], user: int, slate, log, arm: int
) -> int:
    """The place on the slate of the candidate that an arm ranks first."""
    terms = []
    for x, models in zip(labels, networks, strict=True):
        videos = [int(log.video_N[row]) for row in slate]
        alpha = x.alpha_T if arm else x.alpha_C
        model = models[arm if len(models) == 2 else 0]
        terms.append(alpha * model.predictions([user] * len(slate), videos) / x.scale.unit_sd)
    return int(sum(terms[1:], terms[0]).argmax())


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["32 bits", "64 bits"])
def dtype(request):
    """What the networks compute in."""
    return request.param


@pytest.fixture(scope="module", params=SETTINGS.values(), ids=SETTINGS)
def lockstep(request, dtype):
    """All designs and both replications in one run."""
    setting = replace(request.param, dtype=dtype)
    return setting, run(setting, BLOCKS, REPLICATIONS)


@pytest.mark.parametrize("index", range(len(BLOCKS)), ids=[f"{b.label} {b.p}" for b in BLOCKS])
def test_a_lockstep_run_equals_a_plain_loop_of_one_world(lockstep, index: int):
    setting, h = lockstep
    for r in REPLICATIONS:
        plain, w = plain_run(setting, BLOCKS[index], r), h.world(index, r)
        assert len(plain.items) == len(h.steps)
        for t, step in enumerate(h.steps):
            n = len(plain.items[t])
            assert h.item_TB(w)[t].tolist() == plain.items[t] + [-1] * (setting.batch_size - n)
            assert step.is_treated_WB[w, :n].tolist() == plain.arms[t]
            assert step.differs_WB[w].tolist() == plain.differs[t] + [False] * (
                setting.batch_size - n
            )
        for learner, networks in zip(h.learners, plain.networks, strict=True):
            for m, network in enumerate(networks):
                s = h.network(index, r, m)
                params, expected = learner.network(s), network.params()
                assert int(learner.n_updates_S[s]) == network.n_updates
                assert params.keys() == expected.keys()
                for name, value in expected.items() if setting.dtype == torch.float64 else ():
                    torch.testing.assert_close(params[name], value, rtol=0, atol=TOLERANCE)


def test_the_comparison_means_something(lockstep):
    """The arms differ often, every network but the frozen ones moved, and rows ran short."""
    setting, h = lockstep
    differs = torch.stack([s.differs_WB for s in h.steps]).float().mean((0, 2))
    assert float(differs.min()) > 0.1
    for i, learner in enumerate(h.learners):
        start = make_start(setting, i)["bias_0"]
        for s, name in enumerate(b.label for b in BLOCKS for _ in range(b.design.n_models)):
            moved = learner.params["bias_0"][2 * s] - start
            assert (float(moved.abs().max()) > 0.02) == (name != "snapshot")
    first, last = (h.steps[t].visits.share_short_R for t in (0, -1))
    assert bool((last > first).all())
    assert not same(h.item_TB(0), h.item_TB(1 * len(REPLICATIONS)))
