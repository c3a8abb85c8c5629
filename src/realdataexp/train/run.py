"""The command `train`: baselines, then a model's epochs, then all of them on held-out items."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeFloat
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from realdataexp.device import choose_device, own_arithmetic
from realdataexp.errors import InputError
from realdataexp.models.sequence import SequenceModel
from realdataexp.runs import Interrupts
from realdataexp.runs.checkpoint import LOOP, Checkpoint, Checkpoints, ForeignError, of_this_run
from realdataexp.runs.folder import Folder, RunLog, check_place, write_tensors
from realdataexp.runs.life import AnyRun, differences, new_run, resumed_run
from realdataexp.runs.progress import PhaseProgress
from realdataexp.sequences.counting import CountingRecommender, Fitted
from realdataexp.sequences.doubts import doubts
from realdataexp.sequences.formats import open_split
from realdataexp.sequences.histories import Histories, Questions
from realdataexp.sequences.ranking import Ranked, metrics, rank_all
from realdataexp.sequences.shown import shown_of
from realdataexp.train.config import TrainConfig, load_train
from realdataexp.train.ranks import Ranks, joined, of_torchrun, place_of
from realdataexp.train.recommenders import Catalogue, Mixture, Scorer, made
from realdataexp.train.results import write_results
from realdataexp.train.trainer import Passages, Progress, Trainer

logger = logging.getLogger("realdataexp")

_WEIGHTS = (0.1, 0.25, 0.5, 0.75, 0.9)  # of a count in a mixture
_KEPT = 2  # checkpoints
_ITEMS = "items.safetensors"
_MAY_DIFFER = ("config.logging.", "config.base_dir", "config.dataset.path")


def check_training(config: TrainConfig, out: Path | None = None) -> list[str]:
    """Check a config against the machine and the data; describe what would be trained.

    Raises:
        InputError: with every fault found, a line each.
    """
    check_place(out, config.path(config.logging.log_dir))
    with own_arithmetic():
        run = TrainRun(config, RunLog(config.logging.level), Interrupts())
    histories, split = run.split.histories, run.split
    others = ", ".join(x.name for x in config.baselines) or "nothing"
    lines = [
        f"mode train: {config.model.name}, compared with {others}",
        f"device {run.device.description}",
        f"data: {histories.n_users:,} users, {histories.n_items:,} items, "
        f"{len(histories.item_N):,} interactions; {len(split.validation):,} validation and "
        f"{len(split.test):,} test questions",
    ]
    if run.trainer is not None:
        n = sum(p.numel() for p in run.trainer.trained.values())
        lines.append(
            f"training: {n:,} parameters, {run.trainer.passages.n_positions:,} positions an epoch, "
            f"{config.training.epochs} epochs of {run.trainer.passages.n_batches:,} updates"
        )
    return lines


def train(config: TrainConfig, out: Path | None = None) -> Path:
    """Train and evaluate a recommender, and write its run folder; see ``new_run``."""
    with place_of(out) as place:
        return new_run(TrainRun, config, place)


def resume_training(folder: Path, data: Path | None = None) -> Path:
    """Go on with an interrupted training to its end, as if it had never been interrupted."""
    with place_of(folder, is_there=True) as place:
        return resumed_run(TrainRun, load_train, place or folder, data)


class _State(BaseModel):
    """What a checkpoint's state must be."""

    model_config = ConfigDict(strict=True)

    identity: dict[str, Any]
    progress: dict[str, int | float]
    table: list[dict[str, Any]]
    warnings: list[dict[str, str]]
    clock: dict[str, Any]
    seconds: NonNegativeFloat


class TrainRun(AnyRun):
    """One training: what was set up, and what it has come to.

    Attributes:
        trainer: of a network; None where the model is counted.
        table: the rows of metrics.parquet.
        ranked: what each recommender answered, by its name and the split.
        known: the items' codes and vectors, as far as asked for.
        seconds: that the epochs took, without validation.
        weight: a count's in the mixture, once it is chosen.
    """

    config: TrainConfig

    def __init__(
        self, config: TrainConfig, log: RunLog, interrupts: Interrupts, folder: Path | None = None
    ) -> None:
        """Open the data and make the recommenders."""
        super().__init__(config, log, interrupts)
        with self.clock.timed("setup"):
            self.device = choose_device(config.device, config.use_amp)
            data = config.data_dir()
            where = {"path": None if data is None else str(data)}
            self.split, self.items = open_split(config.dataset.model_copy(update=where))
            # made once, as another machine's last bits may differ
            known = self.known = _kept(folder) or shown_of(
                config.items, self.split, self.items, config.seed, self.warnings, config.path
            )
            given = known.get("vector") if "vectors" in config.items.given else None
            doubts(self.split, self.items, self.warnings, given)
            self.catalogue = Catalogue.of(self.split.histories.n_items, self.device, **known)
            self._check()
            self._make()
            self.trainer = self._trainer() if isinstance(self.model, SequenceModel) else None
        self.clock.device = self.device
        self.table: list[dict[str, Any]] = []
        self.ranked: dict[tuple[str, str], Ranked] = {}
        self.seconds = 0.0
        self.weight: float | None = None

    def _make(self) -> None:
        """Make the recommenders, not yet fitted."""
        config, catalogue = self.config, self.catalogue
        self.model = made(config.model, "model", catalogue, config.seed)
        self.baselines = {
            x.name: made(x, f"baselines.{i}", catalogue, config.seed)
            for i, x in enumerate(config.baselines)
        }
        mixture = config.mixture
        self.mixture = mixture and made(mixture, "mixture", catalogue, config.seed)
        if mixture and not isinstance(self.model, SequenceModel):
            raise InputError(f"mixture: {config.model.name} is counted itself: set it to null")
        for where, counted in {**self.baselines, "mixture": self.mixture}.items():
            if isinstance(counted, SequenceModel):
                raise InputError(f"{where} is trained: name it as the model")

    def _check(self) -> None:
        """Refuse settings that these data or this machine cannot do."""
        config, n = self.config, self.split.histories.n_items
        faults = []
        if max(config.evaluation.k) > n:
            faults.append(f"evaluation.k = {max(config.evaluation.k)}: there are {n:,} items")
        beam = config.model.options.get("beam")
        if isinstance(beam, int) and beam > n:
            faults.append(f"model.beam = {beam}: there are {n:,} items")
        if config.mixture and not len(self.split.validation):
            faults.append("mixture: no question validates, to choose its weight by: set it to null")
        if config.training.early_stopping and not len(self.split.validation):
            faults.append("training.early_stopping: no question validates: set it to null")
        processes, usable = config.training.processes, _n_cores()
        if processes > 1 and of_torchrun():
            faults.append(f"training.processes = {processes}: torchrun starts them: set it to 1")
        elif processes > 1 and not self.device.is_cpu:
            faults.append(
                f"training.processes = {processes}: of a CPU only; for several GPUs use torchrun"
            )
        elif processes > usable:
            faults.append(f"training.processes = {processes}: must be at most {usable}, as here")
        if faults:
            raise InputError(*faults)

    def _trainer(self) -> Trainer:
        assert isinstance(self.model, SequenceModel)
        options, seed = self.config.training, self.config.seed
        model = self.model.to(self.device.torch)
        passages = Passages(self.split, model.longest, options, seed, self.device)
        if not passages.n_batches:
            raise InputError("dataset: no user has two items to train on; use other data")
        return Trainer(model, self.catalogue.tensors, passages, options, seed, self.device)

    # --- what is done ------------------------------------------------------------------------

    def begin(self, made: Folder) -> None:
        """Take the run folder."""
        super().begin(made)
        if self.known:
            write_tensors(
                self.folder / _ITEMS, {k: torch.from_numpy(x) for k, x in self.known.items()}
            )
        self.checkpoints = Checkpoints(made.path, _KEPT, "validation.ndcg")

    def work(self, checkpoint: Checkpoint | None) -> None:
        """Fit and rank the baselines, train, rank the model."""
        with self.clock.timed("baselines"):
            for name, baseline in self.baselines.items():
                self.rank(name, self._fitted(baseline), Ranks())
        if self.trainer is None:
            with self.clock.timed("training"):
                fitted = self._fitted(self.model)
            self.rank(self.config.model.name, fitted, Ranks())
            return
        with joined(self.config.training.processes, self.device, self._share) as ranks:
            self._train(self.trainer, ranks)

    def _fitted(self, recommender: Any) -> Fitted:
        assert isinstance(recommender, CountingRecommender)
        return recommender.fit(self.split)

    def _share(self, ranks: Ranks) -> None:
        """What another process of this machine does."""
        logger.disabled = True
        assert self.trainer is not None
        self._train(self.trainer, ranks)

    def _train(self, trainer: Trainer, ranks: Ranks) -> None:
        """The epochs, and the ranking by the best parameters; the same in every process."""
        trainer.ranks = ranks
        ranks.agree(self._digests())
        devices = [] if self.device.is_cpu else [self.device.torch.index or 0]
        with torch.random.fork_rng(devices=devices), self.clock.timed("training"):
            try:
                with PhaseProgress("train", trainer.n_steps, "updates") as shown:
                    shown.skip(trainer.progress.step)
                    while not trainer.is_over:
                        self._epoch(trainer, shown)
            except KeyboardInterrupt:
                with self.interrupts.postponed():
                    self.save()
                raise
        trainer.use_best()
        scorer = Scorer(trainer.model, self.catalogue, self.device)
        self.rank(self.config.model.name, scorer, ranks)
        if self.mixture is not None:
            self._mix(scorer, ranks)

    def _mix(self, scorer: Scorer, ranks: Ranks) -> None:
        """Rank by the average with a count, whose weight is that which validates best."""
        assert self.config.mixture is not None
        name = f"{self.config.model.name}+{self.config.mixture.name}"
        counted, value = self._fitted(self.mixture), {}
        questions = self.split.validation[self._validated()]
        with self.clock.timed("validation"):
            # by itself first, so that what is wrong with it is told of it
            self._ranked(self.config.mixture.name, counted, questions, 0, ranks)
            for weight in _WEIGHTS:
                mixed = Mixture(scorer, counted, weight)
                found = self._ranked(name, mixed, questions, 0, ranks)
                value[weight] = primary(metrics(found.rank_Q, self.config.evaluation.k))
        self.weight = max(value, key=lambda x: value[x])
        logger.info("[result] %s: the count has the weight %g", name, self.weight)
        self.rank(name, Mixture(scorer, counted, self.weight), ranks)

    def _epoch(self, trainer: Trainer, shown: PhaseProgress) -> None:
        name, updates, is_going = self.config.model.name, trainer.updates(), True
        while is_going:
            with self.interrupts.postponed():
                since = self.clock.total
                is_going = next(updates, False)
                self.seconds += self.clock.total - since
            self.interrupts.check()
            shown.advance(is_going)
        questions = self.split.validation[self._validated()]
        scorer = Scorer(trainer.model, self.catalogue, self.device)
        with self.clock.timed("validation"):
            found = self._ranked(name, scorer, questions, 0, trainer.ranks)
        rows = metrics(found.rank_Q, self.config.evaluation.k)
        with self.interrupts.postponed():
            self._note(trainer, rows)
            is_best = trainer.end_epoch(primary(rows))
            if trainer.ranks.is_first:
                if is_best:
                    self._keep_best(trainer)
                self.save()
        self.interrupts.check()

    def _validated(self) -> np.ndarray:
        """Which questions validate after each epoch: spread over all users."""
        n = len(self.split.validation)
        wanted = min(self.config.evaluation.validation_users or n, n)
        return np.arange(wanted) * n // max(1, wanted)

    def _note(self, trainer: Trainer, rows: list[dict[str, Any]]) -> None:
        """Add an epoch's rows to the table, and log it."""
        now, n = trainer.progress, trainer.progress.batch
        means = {
            "loss": now.loss / n,
            "first_loss": now.first_loss,
            "gradient_norm": now.norm / n,
            "largest_gradient_norm": now.largest_norm,
            "learning_rate": trainer.learning_rate(now.step - 1),
        }
        common = {"step": now.step, "epoch": now.epoch + 1}
        self.table += [
            {**common, "split": "train", "metric": m, "k": None, "value": x}
            for m, x in means.items()
        ]
        self.table += [
            {**common, "split": "validation"} | {k: row[k] for k in ("metric", "k", "value")}
            for row in rows
        ]
        done = now.step * trainer.passages.n_positions / trainer.passages.n_batches
        logger.info(
            "[train] epoch %d of %d: loss %.4f, gradient norm %.3g, validation %s; %s positions/s",
            now.epoch + 1, self.config.training.epochs, means["loss"], means["gradient_norm"],
            ", ".join(f"{x['metric']}@{x['k']} {x['value']:.4f}" for x in rows if x["k"]),
            f"{done / self.seconds:,.0f}",
        )  # fmt: skip

    def rank(self, name: str, fitted: Fitted, ranks: Ranks) -> None:
        """Rank all items for all questions."""
        k = min(10, self.split.histories.n_items)
        with self.clock.timed("evaluation"):
            for kind in ("validation", "test"):
                questions = getattr(self.split, kind)
                if not len(questions):
                    continue
                found = self._ranked(name, fitted, questions, k, ranks)
                self.ranked[name, kind] = found
                rows = metrics(found.rank_Q, self.config.evaluation.k)
                logger.info(
                    "[result] %s, %s: %s", name, kind,
                    ", ".join(f"{x['metric']}@{x['k']} {x['value']:.4f}" for x in rows if x["k"]),
                )  # fmt: skip

    def _ranked(
        self, name: str, fitted: Fitted, questions: Questions, k: int, ranks: Ranks
    ) -> Ranked:
        """Every process ranks a share of the questions, and all get all answers."""
        own = np.arange(ranks.rank, len(questions), ranks.n)
        found = rank_all(fitted.scores, self.split, questions[own], k, name=name)
        if ranks.n == 1:
            return found
        rank_Q = np.zeros(len(questions))
        top_QK = np.zeros((len(questions), found.top_QK.shape[1]), dtype=np.int64)
        rank_Q[own], top_QK[own] = found.rank_Q, found.top_QK
        for array in (rank_Q, top_QK):
            ranks.add_up([torch.from_numpy(array)])
        return Ranked(rank_Q, top_QK)

    # --- what is kept ------------------------------------------------------------------------

    def _digests(self) -> dict[str, str]:
        config = self.config.to_yaml().encode()
        return self.identity() | {"config": hashlib.sha256(config).hexdigest()}

    def identity(self) -> dict[str, Any]:
        """What must be the same for a training to go on."""
        return {
            "config": self.config.resolved(),
            "data": digest(self.split.histories),
            "items": digest_of_tables(self.known),
        }

    def save(self) -> None:
        """Write a checkpoint."""
        trainer = self.trainer
        assert trainer is not None
        state = {
            "identity": self.identity(),
            "rows": [],
            "progress": vars(trainer.progress),
            "table": self.table,
            "warnings": self.warnings.items,
            "clock": self.clock.state(),
            "seconds": self.seconds,
        }
        self.checkpoints.save(f"step_{trainer.progress.step}", trainer.state(), state)

    def load(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint."""
        trainer = self.trainer
        with of_this_run(checkpoint):
            state = _State.model_validate(checkpoint.state | {"rows": None})
            found = differences(state.identity, self.identity())
        self.require_same(checkpoint.name, found, _MAY_DIFFER)
        if trainer is None:
            raise ForeignError(f"{checkpoint.name}: {self.config.model.name} has no checkpoints")
        with of_this_run(checkpoint):
            trainer.load_state(checkpoint.tensors)
            trainer.progress = Progress(**state.progress)  # type: ignore[arg-type]
        self.table, self.seconds = state.table, state.seconds
        self.checkpoints.best = checkpoint.state["best"]
        self.warnings.items += [x for x in state.warnings if x not in self.warnings.items]
        self.clock.load_state(state.clock)

    def _keep_best(self, trainer: Trainer) -> None:
        values = {"validation.ndcg": trainer.progress.best}
        name = f"step_{trainer.progress.step}"
        self.checkpoints.keep_best(LOOP, values, name, lambda: _Network(trainer.best))

    def write(self, status: str) -> None:
        """Write every file of the run folder."""
        write_results(self, status)

    @property
    def done(self) -> str:
        """How far the training came."""
        if self.trainer is None:
            return "before the end"
        now = self.trainer.progress
        return f"after {now.step} of {self.trainer.n_steps} updates"

    @property
    def to_lower(self) -> str:
        """What takes the most memory."""
        return f"training.users_per_batch, which is {self.config.training.users_per_batch:,}"


def _n_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Network:
    def __init__(self, params: Mapping[str, Tensor]) -> None:
        self._params = params

    def write(self, path: Path) -> None:
        """Write the parameters alone."""
        write_tensors(path, self._params)


def primary(rows: list[dict[str, Any]]) -> float:
    """What is best by: NDCG at 10, or at the longest list."""
    found = {row["k"]: row["value"] for row in rows if row["metric"] == "ndcg"}
    return float(found.get(10, found[max(found)]))


def _kept(folder: Path | None) -> dict[str, np.ndarray]:
    """The items' tables that an interrupted training has kept; none where it had not begun."""
    path = None if folder is None else folder / _ITEMS
    if path is None or not path.exists():
        return {}
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{path}: cannot be read: {error}; delete it, and the tables are made anew"
        ) from error


def digest_of_tables(known: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the items' codes and vectors."""
    found = hashlib.sha256()
    for name, array in sorted(known.items()):
        found.update(f"{name}{array.shape}{array.dtype.str}".encode() + array.tobytes())
    return found.hexdigest()


def digest(histories: Histories) -> str:
    """SHA-256 of who had what, in which order."""
    found = hashlib.sha256()
    for part in (histories.item_N.astype("<i4"), histories.offset_U1.astype("<i8")):
        found.update(part.tobytes())
    found.update("\0".join(histories.item_names).encode())
    return found.hexdigest()
