"""Next-item recommenders beside those of another library, for equal seconds of training.

    python bench/sequence_peers.py --data DIR --peers PYTHON [--seconds 300] [--questions 2000]

DIR holds histories and their items; PYTHON is the interpreter of an environment of its own:

    python -m venv peers && peers/bin/pip install cornac==3.0.1 transformers torch

Every model trains on the same histories for the same seconds, on one thread, and ranks all items
for the same test users; ranks and metrics are this package's. TIGER's codes are k-means on the
vectors that our codes are made from. TIGER's published run on Beauty took 4,341 s and SASRec's
2,455 s: fewer seconds tell which is faster, not which is better in the end.

Axes: V items, Q questions, T items of a history, B histories at once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from realdataexp.device import choose_device, own_arithmetic
from realdataexp.models.sequence import SequenceModel
from realdataexp.sequences.codes import residual_kmeans
from realdataexp.sequences.formats import SequenceData, open_split
from realdataexp.sequences.item_options import CodeOptions, VectorOptions
from realdataexp.sequences.ranking import metrics, ranks
from realdataexp.sequences.vectors import make_vectors
from realdataexp.train.config import Recommender
from realdataexp.train.recommenders import Catalogue, Scorer, made
from realdataexp.train.trainer import Passages, Trainer, Training

OURS = ("SASRec", "Generative", "TextToText")
PEERS = ("SASRec", "TIGER")
_KS = (5, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of histories")
    parser.add_argument("--peers", help="the interpreter that has cornac; none: ours alone")
    parser.add_argument("--seconds", type=float, default=300.0, help="of training, for each model")
    parser.add_argument("--questions", type=int, default=2000, help="test users that are ranked")
    parser.add_argument("--only", nargs="+", choices=[*OURS, "TIGER"], default=[*OURS, "TIGER"])
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    bench = Bench(args)
    cells = [f"{metric}@{k}" for k in _KS for metric in ("hit", "ndcg")]
    print("| model | positions/s | s an epoch | trained s | ranked/s |", " | ".join(cells), "|")
    print("|---|" + "---:|" * (4 + len(cells)), flush=True)
    for name in OURS:
        if name in args.only:
            bench.train(name)
    for name in PEERS if args.peers else ():
        if name in args.only:
            bench.train_peer(name)


class Bench:
    """One split, its codes and vectors, and the test users that all models rank for."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.split, items = open_split(SequenceData(path=str(args.data)))
        with own_arithmetic():
            column = "attributes" if "attributes" in items.table.columns else None
            options = VectorOptions(kind=("svd", "text"), categories=column)
            self.vector_VD = make_vectors(self.split, items, options, args.seed)
            self.codes = residual_kmeans(self.vector_VD, CodeOptions(), args.seed)
        drawn = np.random.default_rng(args.seed).permutation(len(self.split.test))
        self.questions = self.split.test[np.sort(drawn[: args.questions])]

    def train(self, name: str) -> None:
        """Train one of ours, and print its row."""
        args, device = self.args, choose_device("cpu", False)
        known = {"codes": self.codes.code_VL, "vector": self.vector_VD}
        with own_arithmetic():
            catalogue = Catalogue.of(self.split.histories.n_items, device, **known)
            model = made(Recommender(name=name), "model", catalogue, args.seed)
            assert isinstance(model, SequenceModel)
            options = Training(epochs=10**6, users_per_batch=32 if name == "TextToText" else 256)
            passages = Passages(self.split, model.longest, options, args.seed, device)
            trainer = Trainer(model, catalogue.tensors, passages, options, args.seed, device)
            n_positions, start = 0.0, time.perf_counter()
            with torch.random.fork_rng():
                while (seconds := time.perf_counter() - start) < args.seconds:
                    for _ in trainer.updates():
                        n_positions += passages.n_positions / passages.n_batches
                        if time.perf_counter() - start > args.seconds:
                            break
                    else:
                        trainer.end_epoch(0.0)
            scorer = Scorer(model, catalogue, device)
            self._row(f"ours, {name}", scorer.scores, n_positions, seconds)

    def train_peer(self, name: str) -> None:
        """Train one of cornac's in its environment, and print its row."""
        with tempfile.TemporaryDirectory() as folder:
            histories = self.split.histories
            np.savez(
                Path(folder) / "histories.npz",
                item_N=histories.item_N,
                offset_U1=histories.offset_U1,
                train_end_U=self.split.train_end_U,
                vector_VD=self.vector_VD,
                past_QT=self.split.past_BT(self.questions),
            )
            script = Path(__file__).with_name("cornac_peer.py")
            words = [self.args.peers, str(script), name, folder, str(self.args.seconds)]
            done = subprocess.run(
                [*words, str(self.args.seed)],
                env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                sys.exit(f"{name}: {done.stderr}")
            found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
            rows = iter(np.load(Path(folder) / "scores.npy", mmap_mode="r"))
            self._row(
                f"cornac, {name}",
                lambda past_BT: np.stack([next(rows) for _ in past_BT]),
                found["n_positions"],
                found["seconds"],
                found["ranked_per_second"],
            )

    def _row(
        self, name: str, scores: Any, n_positions: float, seconds: float, ranked: float = 0.0
    ) -> None:
        start = time.perf_counter()
        rank_Q = ranks(scores, self.split, self.questions, name=name)
        ranked = ranked or len(rank_Q) / (time.perf_counter() - start)
        found = {(x["metric"], x["k"]): f"{x['value']:.4f}" for x in metrics(rank_Q, _KS)}
        cells = [found[metric, k] for k in _KS for metric in ("hit", "ndcg")]
        rate = n_positions / seconds
        n_all = int((self.split.train_end_U - self.split.histories.offset_U1[:-1] - 1).sum())
        speed = f"{rate:,.0f} | {n_all / rate:,.0f} | {seconds:,.0f} | {ranked:,.0f}"
        print(f"| {name} | {speed} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
