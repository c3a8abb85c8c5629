"""A model of cornac 3.0.1, trained for some seconds in its own environment; see sequence_peers.

    PYTHON bench/cornac_peer.py NAME FOLDER SECONDS SEED

Axes: N interactions, U users, V items, D numbers of a vector, Q questions, T items of a history.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cornac.data import FeatureModality, SequentialDataset


class _TimeIsUp(Exception):
    pass


def _peer(name: str, folder: Path, seconds: float, seed: int) -> None:
    """Train a peer on ``histories.npz``, and write its scores of all items for the questions."""
    torch.set_num_threads(1)
    data = np.load(folder / "histories.npz")
    V, end_U, item_N = len(data["vector_VD"]), data["train_end_U"], data["item_N"]
    rows = [
        (str(u), str(u), str(item), t)
        for u, (a, b) in enumerate(zip(data["offset_U1"], end_U, strict=False))
        for t, item in enumerate(item_N[a:b])
    ]
    iid_map = {str(v): v for v in range(V)}
    train = SequentialDataset.build(rows, fmt="USIT", global_iid_map=iid_map, seed=seed)
    train.add_modalities(
        item_feature=FeatureModality(features=data["vector_VD"], ids=[*iid_map]).build(iid_map)
    )
    module: Any = import_module(f"cornac.models.{name.lower()}.recom_{name.lower()}")
    watch = _Watch(module.session_seq_iter, seconds)
    module.session_seq_iter = watch.batches
    options = {"tokenizer": "rkmeans", "device": "cpu"} if name == "TIGER" else {}
    model = getattr(module, name)(n_epochs=10**9, seed=seed, **options)
    try:
        model.fit(train)
    except _TimeIsUp:
        model.model.eval()
    shape = (len(data["past_QT"]), V)
    scores_QV = np.lib.format.open_memmap(folder / "scores.npy", "w+", np.float32, shape)
    start = time.perf_counter()
    for q, past_T in enumerate(data["past_QT"]):
        scores_QV[q] = model.score(0, past_T[past_T >= 0].tolist())
    ranked = len(scores_QV) / (time.perf_counter() - start)
    found = {"n_positions": watch.n_positions, "seconds": watch.seconds}
    print(json.dumps({**found, "ranked_per_second": ranked}))


class _Watch:
    """Batches until the seconds are over, from the first batch on."""

    def __init__(self, batches: Any, seconds: float) -> None:
        self._real, self._most = batches, seconds
        self.n_positions, self.seconds, self._since = 0, 0.0, 0.0

    def batches(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        for batch in self._real(*args, **kwargs):
            self._since = self._since or time.perf_counter()
            yield batch
            self.n_positions += len(batch[1])
            self.seconds = time.perf_counter() - self._since
            if self.seconds > self._most:
                raise _TimeIsUp


if __name__ == "__main__":
    _peer(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]))
