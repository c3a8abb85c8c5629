"""What a user would write without this package: a module for each label, and a DataLoader's loop.

Axes: N rows, B rows of a batch, D numerical features, K category slots, L labels.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from realdataexp import draws
from realdataexp.bench.table import Table, open_table
from realdataexp.config import LabelConfig, load_config
from realdataexp.errors import InputError
from realdataexp.models import MLP, FeatureSchema, LabelScale

Item = tuple[np.ndarray, ...]


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
