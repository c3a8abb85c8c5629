"""The loop as the prototype ran it: one user after the other, rows filtered from a data frame.

Axes: C candidates, B visits.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from realdataexp.bench import loop
from realdataexp.bench.figures import Figure, Reference
from realdataexp.bench.importing import NO_PANDAS, has_pandas
from realdataexp.bench.peers import Trained, networks_of
from realdataexp.bench.process import measure
from realdataexp.bench.sizes import Place
from realdataexp.bench.table import Table, open_table
from realdataexp.config import load_config
from realdataexp.data.features import FeatureTable
from realdataexp.data.synthetic import write_synthetic

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Arm:
    """One arm's world: its networks, and the rows that it has used.

    Attributes:
        alphas: the labels' factors in the score.
    """

    networks: list[Trained]
    alphas: list[float]
    used: set[int] = field(default_factory=set)


class PandasLoop:
    """Users come, see rows of theirs, get the best one; then the networks learn."""

    def __init__(self, table: Table) -> None:
        import pandas as pd

        log, config = table.data.log, table.config
        user_N = np.repeat(np.arange(log.n_users), np.diff(log.offset_U1))
        columns = {"user_id": user_N, "video_id": np.asarray(log.video_N)}
        self._targets = [label.target for label in config.labels]
        columns |= {name: np.asarray(log.targets[name]) for name in self._targets}
        self._frame = pd.DataFrame(columns)
        self._sides = [_frames(t) for t in (table.features.user, table.features.video)]
        self._users = np.flatnonzero(table.split.is_training_U)
        self._settings, self._random = config.simulation, np.random.default_rng(config.seed)
        rate, decay = self._settings.learning_rate, self._settings.weight_decay
        assert rate is not None  # the suite's configs have one
        self.arms = [
            Arm(networks_of(table, rate, decay), [getattr(x, alpha) for x in config.labels])
            for alpha in ("alpha_T", "alpha_C")
        ]

    def step(self, arm: Arm) -> list[float]:
        """One arm's step; returns the mean loss of each label."""
        size = min(self._settings.batch_size, len(self._users))
        visits = [self._visit(arm, u) for u in self._random.choice(self._users, size)]
        taken = [visit for visit in visits if visit is not None]
        if not taken:
            raise RuntimeError("nobody has a row left")
        inputs = [torch.cat(x) for x in zip(*(inputs for inputs, _ in taken), strict=True)]
        y_BL = torch.stack([y for _, y in taken])
        return [x.learn(inputs, y_BL[:, i]) for i, x in enumerate(arm.networks)]

    def _visit(self, arm: Arm, user: int) -> tuple[list[Tensor], Tensor] | None:
        """Inputs and outcomes of the row that a user gets; None where none is left."""
        frame = self._frame
        rows = frame[frame["user_id"] == user]
        rows = rows[~rows.index.isin(arm.used)]
        if rows.empty:
            return None
        n = min(self._settings.n_candidate, len(rows))
        slate = rows.sample(n, random_state=self._random)
        found = []
        for video in slate["video_id"]:
            same = (frame["user_id"] == user) & (frame["video_id"] == video)
            found.append(self._features(frame[same].iloc[0]))
        inputs = [torch.from_numpy(np.stack(x)) for x in zip(*found, strict=True)]
        score_C = torch.zeros(n)
        for alpha, x in zip(arm.alphas, arm.networks, strict=True):
            score_C += alpha * x.predict(inputs) / x.scale.unit_sd
        best = int(score_C.argmax())
        arm.used.add(int(slate.index[best]))
        y_L = slate.iloc[best][self._targets].to_numpy(np.float32)
        return [x[best : best + 1] for x in inputs], torch.from_numpy(y_L)

    def _features(self, row: pd.Series) -> list[np.ndarray]:
        """The six inputs of a network for one row of the log."""
        parts = []
        for name, side in zip(("user_id", "video_id"), self._sides, strict=True):
            parts += [x.loc[int(row[name])].to_numpy() for x in side]
        return parts


def _frames(table: FeatureTable) -> list[pd.DataFrame]:
    """A side's numbers, categories and their weights."""
    import pandas as pd

    arrays = (table.num_XD, table.cat_XK, table.weight_XK)
    return [pd.DataFrame(np.asarray(x)) for x in arrays]


def run_loop(settings: dict[str, Any], n_steps: int) -> dict[str, Any]:
    """Both arms in turn: ``arm_steps_per_second``, and the labels' ``losses`` of each arm-step."""
    world = PandasLoop(open_table(load_config(settings)))
    start = time.perf_counter()
    losses = [world.step(arm) for _ in range(n_steps) for arm in world.arms]
    return {
        "arm_steps_per_second": len(losses) / (time.perf_counter() - start),
        "losses": losses,
    }


def figures(place: Place) -> Iterator[Figure]:
    """The same two worlds on a table that the pandas loop can manage."""
    size, data = place.size, place.scratch / "small-table"
    write_synthetic(
        data,
        version="pure",
        n_users=size.loop_users,
        n_videos=size.n_videos,
        n_rows=size.loop_rows,
        seed=0,
    )
    settings = place.config(
        data=data,
        simulation={"n_steps": size.n_steps_varied},
        experiment={"replications": 1},
    )
    out = str(place.scratch / "pandas-loop")
    found = measure(loop.run, loop.at_best, settings=settings, out=out)
    note, peer = f"{size.loop_rows:,} rows", None
    if has_pandas():
        other = measure(run_loop, settings=settings, n_steps=size.loop_steps)
        peer = Reference("a pandas loop over users", other["arm_steps_per_second"])
    else:
        note += f"; {NO_PANDAS}"
    yield loop.speed("arm-steps, one replication", found, peer, note)
