"""What a user would write without this package: a module for each label, and a DataLoader's loop.

And the loop as the prototype ran it: one user after the other, rows filtered from a data frame.
Both read the table that an experiment reads, opened without the experiment.

Axes: N rows, B rows of a batch or visits, C candidates, D numerical features, K category slots,
L labels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from bench.importing import request_of
from realdataexp import draws
from realdataexp.config import Config, LabelConfig, load_config
from realdataexp.data.features import Features, FeatureTable, fit_features
from realdataexp.data.kuairand import prepare
from realdataexp.data.log import DataSet, Split
from realdataexp.device import choose_device
from realdataexp.errors import InputError, Warnings
from realdataexp.models import LOSSES, MLP, FeatureSchema, LabelScale
from realdataexp.runs.labels import fit_scale
from realdataexp.worlds.logged import split_users_and_rows
from realdataexp.worlds.replay import ReplayEnvironment

if TYPE_CHECKING:
    import pandas as pd

Item = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Table:
    """A data set with its features, split as the experiment splits it."""

    config: Config
    data: DataSet
    split: Split
    features: Features
    environment: ReplayEnvironment

    @property
    def schema(self) -> FeatureSchema:
        """What a model sees."""
        return self.environment.schema

    def scales(self) -> list[LabelScale]:
        """Location and scale of each label."""
        return [
            fit_scale(
                label,
                label.name,
                self.environment.label_values(label.target),
                LOSSES[label.loss_function or ""],
                Warnings(),
            )
            for label in self.config.labels
        ]

    def pretraining_rows(self, n_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Users and log rows of the first ``n_rows`` rows of the pretraining, or of all: N."""
        rows = self.split.pretrain
        return rows.locate(np.arange(min(n_rows, rows.n_rows)))


def open_table(config: Config) -> Table:
    """Open a config's data on the CPU.

    Raises:
        InputError: something is wrong with them.
    """
    assert config.feature is not None  # the suite's configs replay logs
    data = prepare(request_of(config), config.cache_dir(), Warnings())
    split = split_users_and_rows(config, data, Warnings())
    features = fit_features(
        data,
        config.feature.numerical,
        config.feature.categorical,
        split.is_training_U,
        missing_indicator=config.feature.missing_indicator,
        warnings=Warnings(),
        missing=config.feature.missing,
    )
    environment = ReplayEnvironment(data, [split], features, choose_device("cpu"), config.seed)
    return Table(config, data, split, features, environment)


class Network(nn.Module):
    """A multilayer perceptron over numbers and embedded categories, for one label."""

    def __init__(
        self, schema: FeatureSchema, hidden: list[int], dropout: float, embedding_dim: int
    ) -> None:
        super().__init__()
        self._sides = (schema.user, schema.video)
        self.embeddings = nn.ModuleList(nn.Embedding(s.n_ids, embedding_dim) for s in self._sides)
        width = sum(s.n_numerical + len(s.fields) * embedding_dim for s in self._sides)
        layers: list[nn.Module] = []
        for n in hidden:
            layers += [nn.Linear(width, n), nn.ReLU(), nn.Dropout(dropout)]
            width = n
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Raw outputs B of numbers, categories and weights: three of the users, then videos."""
        parts = []
        for i, (side, embedding) in enumerate(zip(self._sides, self.embeddings, strict=True)):
            num_BD, cat_BK, weight_BK = inputs[3 * i : 3 * i + 3]
            vectors_BKE = embedding(cat_BK) * weight_BK.unsqueeze(-1)
            parts.append(num_BD)
            parts += [vectors_BKE[:, first:end].sum(1) for _, first, end in side.fields]
        return self.layers(torch.cat(parts, dim=1)).squeeze(1)

    def start_from(self, params: Mapping[str, Tensor]) -> None:
        """Take the parameters of the package's own MLP."""
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        with torch.no_grad():
            for embedding, side in zip(self.embeddings, ("user", "video"), strict=True):
                embedding.weight.copy_(params[f"{side}_embedding"])  # type: ignore[operator]
            first = torch.cat([params["user_weight"], params["video_weight"]])
            weights = [first, *(params[f"weight_{i}"] for i in range(1, len(linear)))]
            for i, (layer, weight) in enumerate(zip(linear, weights, strict=True)):
                layer.weight.copy_(weight.T)
                layer.bias.copy_(params[f"bias_{i}"])


class Trained:
    """A label's network, its loss and its optimizer."""

    def __init__(
        self, table: Table, label: LabelConfig, scale: LabelScale, rate: float, decay: float
    ) -> None:
        params, schema = label.model_params, table.schema
        self.label, self.scale = label, scale
        self.network = Network(
            schema, params["hidden_layers"], params.get("dropout", 0.0), params["embedding_dim"]
        )
        start = MLP(schema, 1, params, label.name).init(
            draws.key(table.config.seed, f"init {label.name}")
        )
        self.network.start_from(start)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=rate, weight_decay=decay)

    def learn(self, inputs: list[Tensor], y_B: Tensor) -> float:
        """One update; returns the mean loss."""
        self.network.train()
        self.optimizer.zero_grad()
        is_known_B = torch.isfinite(y_B)
        raw_B = self.network(*inputs)[is_known_B]
        loss = self.loss(raw_B, y_B[is_known_B])
        loss.backward()
        self.optimizer.step()
        return float(loss.detach())

    def loss(self, raw_B: Tensor, y_B: Tensor) -> Tensor:
        """Cross-entropy of a click, absolute error of the play time's logarithm."""
        if self.label.loss_function == "BCE":
            return F.binary_cross_entropy_with_logits(raw_B, y_B)
        return (raw_B * self.scale.sd + self.scale.mean - torch.log1p(y_B)).abs().mean()

    def predict(self, inputs: list[Tensor]) -> Tensor:
        """Predictions in the label's units, without dropout: B."""
        self.network.eval()
        with torch.no_grad():
            raw_B = self.network(*inputs)
            if self.label.loss_function == "BCE":
                return torch.sigmoid(raw_B)
            return torch.expm1((raw_B * self.scale.sd + self.scale.mean).clamp(0.0, 60.0))


class Rows(Dataset[Item]):
    """Rows of the log with the features of their users and videos, one at a time."""

    def __init__(self, table: Table, n_rows: int) -> None:
        log = table.data.log
        self._user_N, row_N = table.pretraining_rows(n_rows)
        self._video_N = np.asarray(log.video_N[row_N])
        targets = [label.target for label in table.config.labels]
        self._y_NL = np.stack([log.targets[name][row_N] for name in targets], axis=1)
        sides = (table.features.user, table.features.video)
        self._tables = [[np.asarray(x) for x in (t.num_XD, t.cat_XK, t.weight_XK)] for t in sides]

    def __len__(self) -> int:
        return len(self._user_N)

    def __getitem__(self, n: int) -> Item:
        user, video = self._tables
        u, v = self._user_N[n], self._video_N[n]
        return (*(x[u] for x in user), *(x[v] for x in video), self._y_NL[n])


def networks_of(table: Table, rate: float, decay: float | None) -> list[Trained]:
    """A network for each label, from the start that the package gives its own.

    Args:
        table: what they learn from.
        rate: Adam's learning rate.
        decay: Adam's weight decay; None: each label's own.
    """
    return [
        Trained(table, label, scale, rate, decay if decay is not None else label.weight_decay or 0)
        for label, scale in zip(table.config.labels, table.scales(), strict=True)
    ]


def load_and_train(settings: dict[str, Any], n_rows: int, n_workers: int) -> dict[str, Any]:
    """A DataLoader's loop over the pretraining's rows, which trains the config's networks.

    Args:
        settings: a config.
        n_rows: rows, at most; the first batch is not timed, as the workers start with it.
        n_workers: processes that make batches.

    Returns:
        ``rows_per_second``, and each batch's ``losses`` of the labels.

    Raises:
        InputError: there is only one batch.
    """
    config = load_config(settings)
    table = open_table(config)
    trained = networks_of(table, config.pretrain.learning_rate, config.pretrain.weight_decay)
    rows = Rows(table, n_rows)
    if len(rows) <= config.pretrain.batch_size:
        raise InputError(
            f"--data {config.dataset.path}: {len(rows)} rows to pretrain on, more than a batch of "
            f"{config.pretrain.batch_size} are needed; take --size small"
        )
    loader = DataLoader(
        rows,
        batch_size=config.pretrain.batch_size,
        shuffle=True,
        num_workers=n_workers,
        generator=torch.Generator().manual_seed(config.seed),
    )
    losses, n_timed, start = [], 0, 0.0
    for *inputs, y_BL in loader:
        losses.append([x.learn(inputs, y_BL[:, i]) for i, x in enumerate(trained)])
        if len(losses) == 1:
            start = time.perf_counter()
        else:
            n_timed += len(y_BL)
    return {"rows_per_second": n_timed / (time.perf_counter() - start), "losses": losses}


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
        import pandas as pd  # not above: it would count to the memory of every measurement

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
