"""A tiny world in memory, and a loop whose every visit can be read afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.arms import Arms
from realdataexp.data.features import fit_features
from realdataexp.data.log import DataSet, LogTable
from realdataexp.designs import Design
from realdataexp.designs.base import Context, Outcome
from realdataexp.designs.pooling import Pooling
from realdataexp.designs.snapshot import Snapshot
from realdataexp.designs.splitting import Splitting
from realdataexp.designs.weighting import Weighting
from realdataexp.device import Device
from realdataexp.errors import Warnings
from realdataexp.learner import Head, Learner, OptimizerSettings
from realdataexp.loop import Block, LabelPolicy, Loop, Step, n_networks
from realdataexp.models import LOSSES, MLP, Batch, LabelScale
from realdataexp.worlds.base import Slate, Visits, World, WorldSettings
from realdataexp.worlds.replay import FeatureStore, ReplayWorld

# the tensors here are far too small to be worth sharing out
torch.set_num_threads(1)

FALSE_FAIL_RATE = 1e-6
TABLES = (
    "outcomes.parquet", "metrics.parquet", "units.parquet", "ledger.parquet", "estimates.parquet",
    "detections.parquet",
)  # fmt: skip
CPU = Device(torch.device("cpu"), "a test", chunk_bytes=4 << 20)

GLOBAL_T, GLOBAL_C = Block("global", Pooling(), 1.0), Block("global", Pooling(), 0.0)
POOLING, SNAPSHOT = Block("pooling", Pooling(), 0.4), Block("snapshot", Snapshot(), 0.4)
SPLITTING = Block("splitting", Splitting(), 0.4)
SPLITTING_RAW = Block("splitting raw", Splitting(normalize=False), 0.4)
BLOCKS = (GLOBAL_T, GLOBAL_C, POOLING, SNAPSHOT, SPLITTING, SPLITTING_RAW)


@dataclass(frozen=True)
class Label:
    """A label's column, loss, and what it counts for in each arm."""

    target: str
    loss: str
    scale: LabelScale
    alpha_C: float
    alpha_T: float
    params: dict[str, Any]
    optimizer: OptimizerSettings

    @property
    def n_outputs(self) -> int:
        return 2 if LOSSES[self.loss].is_class else 1


def label(target: str, loss: str, alpha_C: float, alpha_T: float, **changes: Any) -> Label:
    """A label whose small MLP has embeddings; ``changes`` are model and optimizer settings."""
    names = OptimizerSettings.__dataclass_fields__
    optimizer = {"learning_rate": 0.01} | {k: v for k, v in changes.items() if k in names}
    params = {"hidden_layers": (8, 6), "dropout": 0.0, "embedding_dim": 3}
    params |= {k: v for k, v in changes.items() if k not in names}
    scale = LabelScale(8.0, 1.5, 1e4) if loss == "logMAE" else LabelScale(0.4, 0.5, 0.5)
    return Label(target, loss, scale, alpha_C, alpha_T, params, OptimizerSettings(**optimizer))


PLAY, CLICK = label("play", "logMAE", 0.0, 1.0), label("click", "BCE", 1.0, 0.0)


@dataclass(frozen=True)
class Setting:
    """What runs, apart from the designs and the replications."""

    n_rows_U: tuple[int, ...] = (9, 4, 12, 7, 10, 3, 11, 8, 6, 12)
    labels: tuple[Label, ...] = (PLAY, CLICK)
    seed: int = 3
    batch_size: int = 4
    n_candidates: int = 5
    n_steps: int = 12
    min_candidates: int = 1
    assignment: str = "user"
    n_shown: int = 1
    device: Device = CPU
    dtype: torch.dtype = torch.float32


@cache
def make_data(n_rows_U: tuple[int, ...], n_videos: int = 40) -> DataSet:
    """Users with the given numbers of rows, each row another video; some clicks are missing."""
    random = np.random.default_rng(5)
    n_users, n_rows = len(n_rows_U), sum(n_rows_U)
    video_N = np.concatenate([random.permutation(n_videos)[:n] for n in n_rows_U])
    play_N = np.exp(random.normal(8.0, 1.5, n_rows)) - 1.0
    click_N = (random.random(n_rows) < 0.4).astype(np.float32)
    click_N[random.random(n_rows) < 0.1] = np.nan
    users = pl.DataFrame(
        {
            "user_id": np.arange(n_users),
            "follow_user_num": random.normal(size=n_users).astype(np.float32),
            "user_active_degree": [("full", "high", None)[i % 3] for i in range(n_users)],
        }
    )
    videos = pl.DataFrame(
        {
            "video_id": np.arange(n_videos),
            "video_duration": random.normal(size=n_videos).astype(np.float32),
            "video_type": [("AD", "NORMAL")[i % 2] for i in range(n_videos)],
            "tag": [("3", "3,11", "7,3,9", None, "11")[i % 5] for i in range(n_videos)],
        }
    )
    log = LogTable(
        np.concatenate([[0], np.cumsum(n_rows_U)]).astype(np.int64),
        np.zeros(n_users, dtype=np.int64),
        video_N.astype(np.int32),
        {"play": play_N.astype(np.float32), "click": click_N},
    )
    return DataSet("pure", "in memory", log, users, videos, {})


@cache
def make_store(n_rows_U: tuple[int, ...], dtype: torch.dtype = torch.float32) -> FeatureStore:
    """Features of ``make_data``: numbers, categories, and lists of tags."""
    data = make_data(n_rows_U)
    features = fit_features(
        data,
        ("follow_user_num", "video_duration"),
        ("user_active_degree", "video_type", "tag"),
        np.ones(data.log.n_users, dtype=bool),
        missing_indicator=False,
        warnings=Warnings(),
    )
    store = FeatureStore(features, CPU)
    for side in (store._user, store._video):
        for name, x in side.items():
            side[name] = x.to(dtype) if x.is_floating_point() else x
    return store


def batch_of(
    user_num: Tensor,
    user_cat: Tensor,
    user_weight: Tensor,
    video_num: Tensor,
    video_cat: Tensor,
    video_weight: Tensor,
) -> Batch:
    """Inputs with nothing but the features of a user and of videos."""
    return Batch(
        visit={"user_num": user_num, "user_cat": user_cat, "user_weight": user_weight},
        candidate={"video_num": video_num, "video_cat": video_cat, "video_weight": video_weight},
    )


def make_world(setting: Setting, replications: Sequence[int], n_blocks: int) -> ReplayWorld:
    """The replay of all rows."""
    log = make_data(setting.n_rows_U).log
    return ReplayWorld(
        log,
        tuple(x.target for x in setting.labels),
        make_store(setting.n_rows_U, setting.dtype),
        log.offset_U1[None, :-1],
        log.offset_U1[None, 1:],
        WorldSettings(
            setting.seed,
            tuple(replications),
            n_blocks,
            setting.batch_size,
            setting.n_candidates,
            setting.n_steps,
            setting.min_candidates,
            setting.assignment,
        ),
        setting.device,
    )


def make_model(setting: Setting, index: int) -> MLP:
    """A label's architecture."""
    x = setting.labels[index]
    return MLP(make_store(setting.n_rows_U).schema, x.n_outputs, x.params, x.target)


def make_start(setting: Setting, index: int) -> dict[str, Tensor]:
    """A label's starting parameters; the same for equal settings."""
    start = make_model(setting, index).init(draws.key(setting.seed, f"init {index}"))
    return {name: x.to(setting.dtype) for name, x in start.items()}


def make_learner(setting: Setting, index: int, n: int) -> Learner:
    """``n`` networks of a label."""
    x = setting.labels[index]
    start = make_start(setting, index)
    head = Head(LOSSES[x.loss], x.scale, x.n_outputs)
    return Learner.start(make_model(setting, index), (head,), setting.device, start, n)


def make_policy(x: Label) -> LabelPolicy:
    """How a label enters the scores."""
    return LabelPolicy(x.target, x.optimizer)


def make_arms(labels: Sequence[Label]) -> Arms:
    """The control and the treatment."""
    return Arms(
        [
            [x.alpha_C / x.scale.unit_sd for x in labels],
            [x.alpha_T / x.scale.unit_sd for x in labels],
        ]
    )


def make_context(setting: Setting, replications: Sequence[int], **changes: Any) -> Context:
    """What designs may know; users' tastes are two groups of users, and something of their own."""
    n_users = len(setting.n_rows_U)
    random = np.random.default_rng(7)
    taste_UD = random.normal(size=(n_users, 3)) + 4.0 * (np.arange(n_users) % 2)[:, None]
    context = Context(
        label="a design",
        seed=setting.seed,
        p=0.4,
        replication_R=torch.tensor(list(replications)),
        n_steps=setting.n_steps,
        device=setting.device,
        schema=make_store(setting.n_rows_U).schema,
        tastes=lambda start: taste_UD,
        has_exchangeable_candidates=True,
        n_users=n_users,
        n_shown=setting.n_shown,
    )
    return replace(context, **changes)


def make_visits(step: int, replications: Sequence[int], user_RB: Tensor) -> Visits:
    """Visits of some users, without a world; the arms' draws are spread evenly."""
    u_RB = torch.linspace(0, 1, user_RB.numel() + 1, dtype=torch.float64)[:-1].view(user_RB.shape)
    short_R = torch.zeros(len(user_RB), dtype=torch.float64)
    n_RB, is_visit_RB = torch.full_like(user_RB, 5), torch.ones_like(user_RB, dtype=torch.bool)
    return Visits(step, torch.tensor(list(replications)), user_RB, is_visit_RB, u_RB, n_RB, short_R)


def started(design: Design, setting: Setting = Setting(), replications=(0,), **changes) -> Design:
    """A design as it runs."""
    return design.start(make_context(setting, replications, **changes))


def diagnostics(design: Weighting) -> dict[str, float]:
    """What a design with weights tells of the steps since the last call."""
    return design.diagnostics(design.evidence(), design._context.p)


def make_outcome(is_treated_RB: list[list[bool]], p: float, **changes: Any) -> Outcome:
    """A first step's outcome with the given arms, and scores that mean nothing."""
    R, B = len(is_treated_RB), len(is_treated_RB[0])
    setting = Setting(batch_size=B)
    world = make_world(setting, range(R), 1)
    visits = world.draw(0)
    slate = world.slate(visits)
    key_RA = draws.key(0, "scores", torch.arange(R).unsqueeze(1), torch.arange(2))
    score_RABC = draws.uniform(key_RA, B * setting.n_candidates).float().view(R, 2, B, -1)
    score_RABC = score_RABC.masked_fill(~slate.is_candidate_WBC.unsqueeze(1), -torch.inf)
    pick_RAB, z_RB = score_RABC.argmax(-1), torch.tensor(is_treated_RB)
    y_RBL = world.feedback(visits, slate, torch.where(z_RB, pick_RAB[:, 1], pick_RAB[:, 0]))
    outcome = Outcome(visits, slate, z_RB, p, score_RABC, pick_RAB, y_RBL)
    return replace(outcome, **changes)


class Watched(World):
    """A world that notes every step's visits, slates and choices."""

    def __init__(self, world: ReplayWorld) -> None:
        self.world = world
        self.visits: list[Visits] = []
        self.slates: list[Slate] = []
        self.choices: list[Tensor] = []

    @property
    def has_visitors(self) -> bool:
        return self.world.has_visitors

    def draw(self, step: int) -> Visits:
        self.visits.append(self.world.draw(step))
        return self.visits[-1]

    def slate(self, visits: Visits) -> Slate:
        self.slates.append(self.world.slate(visits))
        return self.slates[-1]

    def feedback(self, visits: Visits, slate: Slate, choice_WB: Tensor) -> Tensor:
        self.choices.append(choice_WB)
        return self.world.feedback(visits, slate, choice_WB)


@dataclass(repr=False)
class History:
    """Everything that happened in a run; T steps that took place."""

    blocks: tuple[Block, ...]
    replications: tuple[int, ...]
    learners: list[Learner]
    visits: list[Visits] = field(default_factory=list)
    slates: list[Slate] = field(default_factory=list)
    choices: list[Tensor] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    @property
    def n_worlds(self) -> int:
        return len(self.blocks) * len(self.replications)

    def world(self, block: int, replication: int) -> int:
        """The place of a world on the axis W."""
        return block * len(self.replications) + self.replications.index(replication)

    def network(self, block: int, replication: int, model: int = 0) -> int:
        """The place of a network on the axis S."""
        before = n_networks(self.blocks[:block], 1) + model
        return before * len(self.replications) + self.replications.index(replication)

    def user_TB(self, world: int) -> Tensor:
        """Who visited a world; -1 where there is no visit."""
        r = world % len(self.replications)
        return torch.stack([v.user_RB[r].where(v.is_visit_RB[r], -1) for v in self.visits])

    def slate_TBC(self, world: int) -> Tensor:
        """The log rows on each slate; -1 for padding."""
        return torch.stack([s.item_WBC.where(s.is_candidate_WBC, -1)[world] for s in self.slates])

    def item_TB(self, world: int) -> Tensor:
        """The log row recommended; -1 where there is no visit."""
        choice_TB1 = torch.stack([c[world] for c in self.choices]).unsqueeze(-1)
        return self.slate_TBC(world).gather(2, choice_TB1).squeeze(-1)

    def y_TBL(self, world: int) -> Tensor:
        """The outcomes."""
        return torch.stack([s.y_WBL[world] for s in self.steps])

    def is_treated_TB(self, world: int) -> Tensor:
        """The arms."""
        return torch.stack([s.is_treated_WB[world] for s in self.steps])


def start_loop(
    setting: Setting, blocks: Sequence[Block], replications: Sequence[int]
) -> tuple[Loop, Watched, History]:
    """A loop before its first step, and a history that ``record`` fills."""
    n = n_networks(blocks, len(replications))
    learners = [make_learner(setting, i, n) for i in range(len(setting.labels))]
    world = Watched(make_world(setting, replications, len(blocks)))
    policies = [make_policy(x) for x in setting.labels]
    context = make_context(setting, replications)
    running = [b.design.start(replace(context, label=b.label, p=b.p)) for b in blocks]
    arms = make_arms(setting.labels)
    own = {"designs": running, "n_shown": setting.n_shown}
    loop = Loop(world, blocks, policies, arms, learners, setting.seed, **own)
    history = History(tuple(blocks), tuple(replications), learners)
    history.visits, history.slates, history.choices = world.visits, world.slates, world.choices
    return loop, world, history


def run(
    setting: Setting = Setting(),
    blocks: Sequence[Block] = BLOCKS,
    replications: Sequence[int] = (0,),
    **changes: Any,
) -> History:
    """Run all steps of a setting, with some of its fields changed."""
    setting = replace(setting, **changes)
    loop, _, history = start_loop(setting, blocks, replications)
    history.steps += loop.steps(0, setting.n_steps)
    return history


def same(a: Tensor, b: Tensor) -> bool:
    """Equal to the bit, NaN where the other is NaN."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def same_network(a: Learner, i: int, b: Learner, j: int) -> bool:
    """Whether two networks' parameters, moments and step counts are equal to the bit."""
    state_a, state_b = a.state(), b.state()
    return all(same(state_a[name][i], state_b[name][j]) for name in state_a)


def result_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def answer(folder: Path) -> dict[str, Any]:
    """All that threads and processes must not change: tables as bytes, and the result."""
    result = result_of(folder)
    for key in ("timing", "device", "versions"):
        del result[key]
    tables = {name: (folder / name).read_bytes() for name in TABLES if (folder / name).exists()}
    return {"result": json.dumps(result), **tables}


def assert_same_answer(a: Path, b: Path) -> None:
    one, other = answer(a), answer(b)
    assert len(one) >= 3 and one.keys() == other.keys()
    assert [name for name in one if one[name] != other[name]] == []
