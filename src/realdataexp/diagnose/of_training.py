"""The subject of a diagnosis that is a training of this package.

Axes: B histories of a batch, T their items, X positions with a next item, V items, E width, K
places of a list.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from realdataexp.diagnose.subject import Recommended, Subject
from realdataexp.errors import InputError
from realdataexp.models.generative import Generative
from realdataexp.models.sequence import SequenceModel
from realdataexp.report.files import read_table
from realdataexp.runs import Interrupts
from realdataexp.runs.checkpoint import Checkpoints
from realdataexp.runs.folder import RunLog
from realdataexp.sequences.histories import Questions
from realdataexp.sequences.ranking import metrics, rank_all
from realdataexp.train.config import TrainConfig
from realdataexp.train.ranks import Ranks
from realdataexp.train.recommenders import Scorer
from realdataexp.train.run import TrainRun, digest
from realdataexp.train.trainer import Passage, Trainer, loss_of

BEAM, LISTED = 50, 10


@dataclass(frozen=True)
class Shown:
    """A batch, and the items' tables as the model sees them."""

    passage: Passage
    catalogue: dict[str, Tensor]


def subject_of(config: TrainConfig, folder: Path | None = None) -> Subject:
    """A training that has not begun or, in a folder, its best parameters.

    Raises:
        InputError: the model is counted, or the folder has no checkpoint.
    """
    run = TrainRun(config, RunLog(config.logging.level), Interrupts(), folder)
    trainer = run.trainer
    if trainer is None:
        raise InputError(f"model: {config.model.name} is counted, not trained: nothing to diagnose")
    initial = copy.deepcopy(trainer.model)
    if folder is not None:
        _load(run, folder)
    catalogue = dict(trainer.catalogue)

    def losses(model: nn.Module, batch: Shown) -> Tensor:
        assert isinstance(model, SequenceModel)
        return loss_of(model, batch.passage, batch.catalogue)

    def batches(n: int) -> Sequence[Shown]:
        found = itertools.islice(trainer.passages.epoch(0, 0, Ranks()), n)
        return [Shown(x, catalogue) for x in found]

    def trainer_of(model: nn.Module) -> Trainer:
        assert isinstance(model, SequenceModel)
        return Trainer(
            model, catalogue, trainer.passages, trainer.options, config.seed, trainer.device
        )

    def step(model: nn.Module, batch: Shown, rank: int, n: int) -> None:
        own, n_positions = trainer_of(model), batch.passage.n_positions
        own.ranks = Ranks(rank, n)
        share = rows_of_passage(batch, slice(rank, None, n)).passage
        own.gradients(replace(share, n_positions=n_positions))

    return Subject(
        name=config.model.name if folder is None else str(folder),
        model=lambda: copy.deepcopy(trainer.model),
        batches=batches,
        loss=losses,
        optimizer=lambda model: trainer_of(model).optimizer,
        rows=rows_of_passage,
        size=lambda batch: len(batch.passage.item_BT),
        changes={"history": _other_histories} | (
            {"vector": _other_vectors} if "vector" in catalogue and _reads_vectors(trainer) else {}
        ),
        outputs=_hidden,
        future=_later,
        step=step,
        entropy=_entropy(trainer),
        learning_rate=config.training.learning_rate,
        is_trained=folder is not None,
        fresh=None if folder is None else lambda: copy.deepcopy(initial),
        frozen=("scale", "bias"),
        adapters=("adapter",) if _reads_vectors(trainer) else (),
        recommended=_recommended(run, folder),
        folder=folder,
        data=digest(run.split.histories),
    )  # fmt: skip


def _load(run: TrainRun, folder: Path) -> None:
    assert run.trainer is not None
    run.folder, run.checkpoints = folder, Checkpoints(folder, 1, "validation.ndcg")
    checkpoint = run.checkpoints.newest(run.warnings)
    if checkpoint is None:
        raise InputError(f"{folder}: holds no checkpoint, so no parameters to diagnose")
    run.load(checkpoint)
    run.trainer.use_best()


# --- parts of a batch ----------------------------------------------------------------------------


def rows_of_passage(batch: Shown, rows: slice | Tensor) -> Shown:
    """Some histories of a batch, without padding that none of them needs."""
    whole = batch.passage
    B, T = whole.item_BT.shape
    n_B = torch.bincount(whole.place_X // T, minlength=B)
    start_B = n_B.cumsum(0) - n_B
    some = torch.arange(B)[rows]
    item_BT, n_some = whole.item_BT[some, : int(n_B[some].max())], n_B[some]
    place_T = torch.arange(item_BT.shape[1])
    is_there_BT = place_T < n_some.unsqueeze(1)
    target_X = whole.target_X[(start_B[some].unsqueeze(1) + place_T)[is_there_BT]]
    place_X = is_there_BT.flatten().nonzero().squeeze(1)
    return Shown(Passage(item_BT, place_X, target_X, len(target_X)), batch.catalogue)


def _other_histories(batch: Shown, generator: torch.Generator) -> Shown:
    """Items of histories permuted among all places."""
    x = batch.passage
    item_N = x.item_BT.flatten().clone()
    order_X = torch.randperm(len(x.place_X), generator=generator)
    item_N[x.place_X] = item_N[x.place_X[order_X]]
    return replace(batch, passage=replace(x, item_BT=item_N.view_as(x.item_BT)))


def _other_vectors(batch: Shown, generator: torch.Generator) -> Shown:
    vector_VD = batch.catalogue["vector"]
    order_V = torch.randperm(len(vector_VD), generator=generator)
    return replace(batch, catalogue=batch.catalogue | {"vector": vector_VD[order_V]})


def _later(batch: Shown, generator: torch.Generator) -> tuple[Shown, Tensor]:
    """Other items in each history's second half; positions of the first half."""
    x = batch.passage
    B, T = x.item_BT.shape
    half_B = (torch.bincount(x.place_X // T, minlength=B) + 1) // 2
    other_BT = torch.randint(len(batch.catalogue["cat"]), (B, T), generator=generator)
    is_early_BT = torch.arange(T) < half_B.unsqueeze(1)
    item_BT = torch.where(is_early_BT, x.item_BT, other_BT)
    return replace(batch, passage=replace(x, item_BT=item_BT)), is_early_BT.flatten()[x.place_X]


def _hidden(model: nn.Module, batch: Shown) -> Tensor:
    """Hidden states of positions with a next item: X, E."""
    assert isinstance(model, SequenceModel)
    shown = {k: x[batch.passage.item_BT] for k, x in batch.catalogue.items()}
    return model.encode(model.embed(shown)).flatten(0, 1)[batch.passage.place_X]


# --- what is known -------------------------------------------------------------------------------


def _reads_vectors(trainer: Trainer) -> bool:
    return getattr(trainer.model, "adapter", None) is not None


def _entropy(trainer: Trainer) -> float:
    """Nats of a guess that knows which items there are, over the first batch's targets."""
    model, V = trainer.model, len(trainer.catalogue["cat"])
    if not isinstance(model, Generative):
        return math.log(V)
    target_X = next(trainer.passages.epoch(0, 0, Ranks())).target_X
    nats_X, parent_X = torch.zeros(len(target_X)), torch.zeros_like(target_X)
    for level in model.trie(trainer.catalogue).levels:
        nats_X = nats_X + level.children(parent_X)[1].sum(1).log()
        parent_X = level.node_V[target_X]
    return float(nats_X.mean())


def _ranks(folder: Path | None, split: str, model: str) -> np.ndarray | None:
    """What a run has reported, if anything."""
    if folder is None or not (folder / "ranks.parquet").exists():
        return None
    table = read_table(folder, "ranks").filter(split=split, model=model)
    return table.sort("question")["rank"].to_numpy()


def _recommended(run: TrainRun, folder: Path | None) -> Recommended:
    reported, validated = (_ranks(folder, x, run.config.model.name) for x in ("test", "validation"))

    def scores(model: nn.Module, past_BT: np.ndarray) -> np.ndarray:
        assert isinstance(model, SequenceModel)
        return Scorer(model, run.catalogue, run.device).scores(past_BT)

    def search(model: nn.Module, past_BT: np.ndarray, k: int, width: int = BEAM) -> np.ndarray:
        assert isinstance(model, Generative)
        hidden_BE = Scorer(model, run.catalogue, run.device).hidden(past_BT)
        trie = model.trie(run.catalogue.tensors)
        with torch.inference_mode():
            return model.beam(hidden_BE, trie, min(width, trie.n_items), k)[0].numpy()

    def judged(model: nn.Module, questions: Questions) -> tuple[dict[str, float], np.ndarray]:
        found = rank_all(lambda past_BT: scores(model, past_BT), run.split, questions, LISTED)
        rows = metrics(found.rank_Q, [LISTED])
        values = {f"{x['metric']}@{x['k']}" if x["k"] else x["metric"]: x["value"] for x in rows}
        return values, found.top_QK

    def learned() -> tuple[np.ndarray, np.ndarray]:
        assert run.trainer is not None
        batches = list(run.trainer.passages.epoch(0, 0, Ranks()))
        read = [x.item_BT.flatten()[x.place_X] for x in batches]
        return torch.cat(read).cpu().numpy(), torch.cat([x.target_X for x in batches]).cpu().numpy()

    def batch_of(item_BT: Tensor) -> Shown:
        target_X = item_BT[:, 1:].flatten()
        place_X = torch.arange(len(target_X))
        passage = Passage(item_BT[:, :-1], place_X, target_X, len(target_X))
        return Shown(passage, dict(run.catalogue.tensors))

    is_generative, codes_VL = isinstance(run.model, Generative), run.known.get("codes")
    return Recommended(
        split=run.split,
        scores=scores,
        codes_VL=codes_VL,
        vector_VD=run.known.get("vector"),
        is_likelihood=is_generative,
        search=search if is_generative else None,
        reported=reported,
        validated=validated,
        is_given="vectors" in run.config.items.given,
        judged=judged,
        learned=learned,
        batch_of=batch_of,
        written=None if codes_VL is None else _written(codes_VL),
    )


def _written(code_VL: np.ndarray) -> list[str]:
    """Items as texts of their codes."""
    return ["".join(f"<{i}_{code}>" for i, code in enumerate(row)) for row in code_VL.tolist()]
