"""The two phases of a run: the starting models, one after the other, then all worlds' loops.

A run whose networks cannot learn or predict fails: it would answer nothing.

Axes: S stacked networks, J labels of a network.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from realdataexp import draws
from realdataexp.errors import RunError
from realdataexp.files import disk_faults
from realdataexp.learner import Learner, skipped_share
from realdataexp.metrics import LOSS, MetricValues, joined
from realdataexp.models.base import restore
from realdataexp.pretrain import Check, Pretraining, PretrainSettings
from realdataexp.registry import names
from realdataexp.runs.checkpoint import LOOP, PRETRAIN, Checkpoint, ForeignError, of_this_run
from realdataexp.runs.executors import Executor, OutsideExecutor
from realdataexp.runs.executors.merging import Shards
from realdataexp.runs.folder import DETAIL
from realdataexp.runs.labels import Starts
from realdataexp.runs.networks import START, STARTS, Networks, networks_of, write_networks
from realdataexp.runs.progress import PhaseProgress, effects_so_far
from realdataexp.runs.recorder import block_name
from realdataexp.runs.results import warn_of_updates
from realdataexp.runs.setup import LOCAL, executor_of
from realdataexp.runs.shard import Seen, Shard, Updates, Validation, next_stop
from realdataexp.worlds.base import RowSource

if TYPE_CHECKING:
    from realdataexp.runs.experiment import Run

logger = logging.getLogger("realdataexp")

_REMEDY = "mend the model, or lower the learning rate"
_FEW, _MANY = 20, 0.5  # updates that are too few to judge before a phase is over; then this share


class PretrainingPhase:
    """Trains, checks and saves the starting models.

    Attributes:
        untrained: parameters of each start's network before training, for each network.
    """

    def __init__(self, run: Run) -> None:
        self._run, setup = run, run.setup
        n_starts = run.config.experiment.n_starts
        self._seeds = [draws.start_seed(run.config.seed, start) for start in range(n_starts)]
        self.untrained: Starts = run.starting or [
            [x.model.init(draws.key(seed, f"init {x.draws_as}")) for seed in self._seeds]
            for x in setup.networks
        ]
        # starts, batches and rows that are done, and all starts' parameters, trained or not yet
        self._done = {"counts": torch.zeros(3, dtype=torch.int64)}
        for i, of_starts in enumerate(self.untrained):
            for name in of_starts[0]:
                self._done[f"params.{i}.{name}"] = torch.stack([p[name] for p in of_starts])
        self._learners: list[Learner] = []
        self._seen: Seen | None = None

    def run(self, checkpoint: Checkpoint | None) -> Starts:
        """The trained networks, from a checkpoint of this phase on."""
        run, config = self._run, self._run.config.pretrain
        if not config.enabled:
            return self.untrained
        environment, targets = run.setup.environment, run.setup.targets
        sources = [environment.pretraining(targets, start) for start in range(len(self._seeds))]
        n_rows = [min(rows.n_rows, config.max_rows or sys.maxsize) for rows in sources]
        if not all(n_rows):
            how = "as they were loaded" if run.starting else "untrained"
            run.warnings.add("no_pretraining_rows", f"no row to pretrain on: models start {how}")
            return self.untrained
        if checkpoint is not None:
            with of_this_run(checkpoint):
                restore(self._done, checkpoint.part("done"))
        first, _, n_done = self._done["counts"].tolist()
        if not 0 <= first < len(sources) or bool((self._done["counts"] < 0).any()):
            raise ForeignError(f"{first} of {len(sources)} starting models are done")
        with PhaseProgress(PRETRAIN, sum(n_rows) * config.epochs, "rows") as progress:
            progress.skip(n_done)
            for start in range(first, len(sources)):
                own = checkpoint if start == first else None
                self._train(start, sources[start], progress, own)
        return [
            [
                {name: self._done[f"params.{i}.{name}"][start] for name in of_starts[0]}
                for start in range(len(sources))
            ]
            for i, of_starts in enumerate(self.untrained)
        ]

    def _train(
        self, start: int, rows: RowSource, progress: PhaseProgress, checkpoint: Checkpoint | None
    ) -> None:
        """Train a start's networks, to the end; saves between checks where that is asked for."""
        run, setup, config = self._run, self._run.setup, self._run.config.pretrain
        _, n_iterations, n_rows = self._done["counts"].tolist()
        self._learners = [
            Learner.start(x.model, x.heads, setup.device, dict(of_starts[start]), 1, x.shared)
            for x, of_starts in zip(setup.networks, self.untrained, strict=True)
        ]
        names = [network.draws_as for network in setup.networks]
        training = Pretraining(
            self._learners,
            [network.pretrain_optimizer for network in setup.networks],
            rows,
            rows.n_rows,
            partial(self._validate, start),
            PretrainSettings(
                self._seeds[start], config.batch_size, config.epochs, config.max_rows,
                config.validate_every_iters, config.early_stopping,
            ),
            [network.labels for network in setup.networks],
            [names.index(name) for name in names],
        )  # fmt: skip
        if checkpoint is not None:
            with of_this_run(checkpoint):
                training.load_state(checkpoint.part("pretraining"))
                if checkpoint.name != f"{PRETRAIN}_{n_iterations + training.iteration}":
                    raise ValueError(f"is of iteration {n_iterations + training.iteration}")
            progress.skip(training.n_rows_done)
        while not training.is_done:
            with run.interrupts.postponed(may_insist=True):
                n_before = training.n_rows_done
                check = training.advance()
                progress.advance(training.n_rows_done - n_before)
                run.n_rows_pretrained = n_rows + training.n_rows_done
                if check is not None:
                    self._heed(start, check, is_over=training.is_done)
                    self._save(training)
                    run.track("pretrain_tracking")
                elif config.save_every_iters and training.iteration % config.save_every_iters == 0:
                    self._save(training)
            run.interrupts.check()
        training.finish()
        for i, learner in enumerate(self._learners):
            for name, p in learner.network(0).items():
                self._done[f"params.{i}.{name}"][start] = p
        self._done["counts"] += torch.tensor([1, training.iteration, training.n_rows_done])

    def _validate(self, start: int) -> tuple[float, ...]:
        with self._run.clock.timed("pretrain_validation"):
            self._seen = self._run.validator.validate(self._learners, torch.tensor([start]))
        return tuple(self._seen.loss_SJ[0].tolist())

    def _heed(self, start: int, check: Check, *, is_over: bool) -> None:
        """A check's metrics and lines of the log; refuses networks that cannot learn or predict."""
        run, at = self._run, check.iteration
        assert self._seen is not None  # a check validates
        predictions = list(run.validator.predictions(self._seen))
        is_only, held_out = len(self._seeds) == 1, run.validator.held_out[start]
        world, name = (None, "") if is_only else (start, f"starting model {start}, ")
        names = ["starting model" if is_only else f"starting model {start}"]
        size = f"{held_out.n_users:,} held-out users, {held_out.n_rows:,} rows"
        for i, found in enumerate(predictions):
            run.recorder.add_metric(
                PRETRAIN, at, "", world, "start", found.label, "train", LOSS, check.training_L[i],
                check.n_rows,
            )  # fmt: skip
            run.recorder.add_metrics(PRETRAIN, at, [("", world, "start")], "validation", found)
            text = ", ".join(f"{name} {float(v[0]):.4g}" for name, v in found.values.items())
            logger.info(
                "[pretrain] %siteration %d: %s: training loss %.4f; validation (%s): %s",
                name, at, found.label, check.training_L[i], size, text,
                extra=DETAIL if start else None,
            )  # fmt: skip
        for network, learner in zip(run.setup.networks, self._learners, strict=True):
            counts = learner.n_updates_S.cpu(), learner.n_skipped_S.cpu()
            share = run.config.pretrain.max_skipped_share, run.config.use_amp
            refuse_skips(*counts, network.name, names, PRETRAIN, *share, is_over=is_over)
            if is_over:
                warn_of_updates(network.name, int(counts[1].sum()), PRETRAIN, run.warnings)
        for label, found in zip(run.setup.labels, predictions, strict=True):
            refuse_predictions(found, names, label.components)
        values = {
            f"{x.label}.{metric}": float(v[0])
            for x in predictions
            for metric, v in x.values.items()
        }
        scope = f"start_{start}"
        with run.clock.timed("pretrain_checkpoint"), run.interrupts.postponed():
            params = [learner.params for learner in self._learners]
            make = partial(networks_of, run.setup, PRETRAIN, at, [("", start, START)], params)
            run.checkpoints.keep_best(scope, values, f"{scope}_{PRETRAIN}_{at}", make)

    def _save(self, training: Pretraining) -> None:
        run, at = self._run, int(self._done["counts"][1]) + training.iteration
        with run.clock.timed("pretrain_checkpoint"), run.interrupts.postponed():
            tensors = {f"pretraining.{k}": t for k, t in training.state().items()}
            tensors |= {f"done.{k}": t for k, t in self._done.items()}
            run.save(f"{PRETRAIN}_{at}", PRETRAIN, tensors)


class LoopPhase:
    """Runs, validates and saves all worlds; a context manager, which ends what runs them."""

    def __init__(self, run: Run, starts: Starts, n_processes: int) -> None:
        """Make the worlds; over how many processes they are spread changes no result."""
        self._run, setup, R = run, run.setup, len(run.recorder.replications)
        self._networks = [" ".join(map(str, name)) for name in run.recorder.networks]
        run.n_processes = n_processes
        self._shard: Shard | Shards
        name = run.config.simulation.executor
        if n_processes == 1 and name == LOCAL:
            own = tuple(range(R))
            self._shard = Shard(setup, run.validator, starts, own)
            return
        with run.interrupts.postponed():
            with disk_faults(run.folder):
                (run.folder / STARTS).parent.mkdir(exist_ok=True)
            write_networks(run.folder / STARTS, setup, starts)
        make = executor_of(run.config)
        executor: Executor
        if name in names("executor"):
            executor = make(run.folder, run.config.cluster, (setup, run.validator, starts))
        else:
            executor = OutsideExecutor(make, f"simulation.executor = {name!r}")
        self._shard = Shards(run.folder, setup, n_processes, executor, run.interrupts)

    def __enter__(self) -> LoopPhase:
        self._n_threads = torch.get_num_threads()
        if isinstance(self._shard, Shards):
            torch.set_num_threads(1)  # more would spin on the cores that the shards compute on
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        torch.set_num_threads(self._n_threads)
        self._shard.close(error)

    def run(self, checkpoint: Checkpoint | None) -> None:
        """Run the steps that are left, from a checkpoint of this phase on."""
        run, config = self._run, self._run.config.simulation
        if checkpoint is None:
            self._shard.begin()
        else:
            ours = ("recorder.", "shared.")  # and not the shards'
            own = {k: t for k, t in checkpoint.tensors.items() if not k.startswith(ours)}
            with of_this_run(checkpoint):
                self._shard.load_state(own, run.n_steps_done)
        if isinstance(self._shard, Shards):
            logger.info("[run] %d processes for the loop", run.n_processes)
        if checkpoint is None:
            self._record(0, self._validate_shard())
            self._save(0)
        else:
            self._heed(self._shard.updates())
        first = run.n_steps_done
        with (
            PhaseProgress(LOOP, config.n_steps, "steps") as progress,
            run.interrupts.postponed(may_insist=True),
        ):
            progress.skip(first)
            while first < config.n_steps:
                last = next_stop(config, first)
                for step in self._shard.steps(first, last):
                    run.recorder.add(step)
                    run.n_steps_done = step.visits.step + 1
                    if run.n_steps_done == last:
                        self._validate_and_save(last, is_last=last == config.n_steps)
                    progress.advance(1, self._effects_so_far)
                    run.interrupts.check()
                if run.n_steps_done < last:
                    break
                first = last
        if run.n_steps_done < config.n_steps:
            run.warnings.add(
                "data_exhausted",
                f"nobody had {config.min_candidates} unused rows left after step "
                f"{run.n_steps_done} of {config.n_steps}: the run ended there",
            )
            self._validate_and_save(run.n_steps_done, is_last=True)

    def _validate_and_save(self, step: int, *, is_last: bool) -> None:
        """Validate, save and tell the trackers, where due."""
        run, config = self._run, self._run.config.simulation
        is_due = is_last or step % config.validate_every == 0
        is_new = is_due and step != run.n_steps_validated
        is_better = is_new and self._validate_step(step)
        if is_last or not is_new:  # else that has just been validated
            self._heed(self._shard.updates(), is_over=is_last)
        is_saved = run.checkpoints.kept[-1] == _name(step)  # then nobody came afterwards
        if (is_last or step % config.save_every == 0) and not is_saved:
            self._save(step)
        elif is_better:
            run.checkpoints.write_index_and_prune()
        if is_due or step % config.save_every == 0:
            run.track()
        run.note("running")

    def _save(self, step: int) -> None:
        run = self._run
        with run.clock.timed("checkpoint"), run.interrupts.postponed():
            run.save(_name(step), LOOP, self._shard.state())
            self._shard.saved(step)

    def _effects_so_far(self) -> list[str]:
        """What the truth, or the design, has come to, a text for each label."""
        return effects_so_far(self._run.recorder.totals(), self._run.config.experiment.n_starts)

    # --- validation --------------------------------------------------------------------------

    def _validate_step(self, step: int) -> bool:
        """Read out the steps since the last validation, and validate; see ``_record``."""
        run, recorder = self._run, self._run.recorder
        recorder.flush()
        for found in recorder.training.values():
            self._log(LOOP, step, found, [name[2] for name in recorder.networks])
        validation = self._validate_shard()
        for block, evidence in zip(run.setup.blocks, validation.evidence, strict=True):
            values = block.design.diagnostics(evidence, block.p)
            if not values:
                continue
            n = recorder.n_visits(block.label)
            for name, value in values.items():
                recorder.add_metric(
                    LOOP, step, block.label, None, "G", "", "weights", name, value, n
                )
            run.weight_metrics[block.label] = values
            text = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
            logger.info("[weights] step %d: %s: %s", step, block.label, text, extra=DETAIL)
        if effects := self._effects_so_far():
            logger.info("[loop] step %d: so far, %s", step, "; ".join(effects))
        if (point := recorder.last_short) is not None:
            logger.info(
                "[loop] step %d: %.1f %% of training users and %.1f %% of slates have fewer than "
                "%d candidates",
                step, 100 * point["users_short"], 100 * point["slates_short"],
                run.config.simulation.n_candidate,
            )  # fmt: skip
        return self._record(step, validation)

    def _validate_shard(self) -> Validation:
        """Validate the networks, which takes time of its own."""
        with self._run.clock.timed("validation"):
            validation = self._shard.validate()
        self._run.clock.add("validation", self._shard.validation_seconds)
        return validation

    def _record(self, step: int, validation: Validation) -> bool:
        """Record how good networks and rankings are; whether any metric is the best so far."""
        run, recorder = self._run, self._run.recorder
        run.n_steps_validated = step
        means: dict[str, list[Tensor]] = {}
        with run.clock.timed("validation"):
            self._heed(self._shard.updates())
            for label, found in zip(run.setup.labels, validation.predictions, strict=True):
                refuse_predictions(found, self._networks, label.components)
                recorder.add_metrics(LOOP, step, recorder.networks, "validation", found)
                self._log("validate", step, found, [model for _, _, model in recorder.networks])
                for metric, value_S in found.values.items():
                    means[f"{found.label}.{metric}"] = [value_S]
            by_arm: dict[tuple[str, int], list[MetricValues]] = {}
            for i, arm, found in validation.rankings:
                by_arm.setdefault((found.label, arm), []).append(found)
                name = block_name(run.setup.blocks, i)
                names = [(name, r, "CT"[arm]) for r in recorder.replications]
                recorder.add_metrics(LOOP, step, names, "validation", found)
                for metric, value_R in found.values.items():
                    means.setdefault(f"{found.label}.{metric}", []).append(value_R)
        for (_, arm), of_arm in by_arm.items():
            found = joined(of_arm)
            models = [f"ranking of arm {'CT'[arm]}"] * len(found.n_nonfinite)
            self._log("validate", step, found, models)
        values = {name: float(torch.cat(x).nanmean()) for name, x in means.items()}
        with run.clock.timed("checkpoint"), run.interrupts.postponed():
            return run.checkpoints.keep_best(LOOP, values, _name(step), partial(self._best, step))

    def _best(self, step: int) -> Networks:
        """All networks as they are."""
        setup, tensors = self._run.setup, self._shard.networks()
        params = [
            {k.partition(".")[2]: t for k, t in tensors.items() if k.startswith(f"{i}.")}
            for i in range(len(setup.networks))
        ]
        return networks_of(setup, LOOP, step, self._run.recorder.networks, params)

    def _log(self, part: str, step: int, found: MetricValues, models: Sequence[str]) -> None:
        """A line for each model or arm: means over its networks, and what they rest on."""
        size = self._run.validator.size
        for model in dict.fromkeys(models):
            own_S = torch.tensor([name == model for name in models])
            means = {name: float(v[own_S].nanmean()) for name, v in found.values.items()}
            text = ", ".join(f"{k} {v:.4g}" for k, v in means.items() if math.isfinite(v))
            n = float(next(iter(found.counts.values()))[own_S].double().mean())
            rest = size if part == "validate" else f"training, {n:,.0f} rows a network"
            if text:
                words = (part, step, found.label, model, text, rest)
                logger.info("[%s] step %d: %s, %s: %s (%s)", *words, extra=DETAIL)

    def _heed(self, updates: Sequence[Updates], *, is_over: bool = False) -> None:
        """Count skipped updates, and refuse networks that cannot learn or predict."""
        run, setup = self._run, self._run.setup
        share = run.config.simulation.max_skipped_share, run.config.use_amp
        names, R = self._networks, len(run.recorder.replications)
        designs = [
            getattr(block.design, "who", f"design {block.label}")
            for block in setup.blocks
            for _ in range(block.design.n_models * R)
        ]
        for network, found in zip(setup.networks, updates, strict=True):
            run.n_skipped[network.name] = int(found.n_skipped_S.sum())
        for network, found in zip(setup.networks, updates, strict=True):
            refuse_extremes("", found.weight_S2, names, designs)
            counts = found.n_updates_S, found.n_skipped_S
            refuse_skips(*counts, network.name, names, "simulation", *share, is_over=is_over)
            for k, label in enumerate(setup.members(network)):
                models = [label.components] * len(names)
                refuse_extremes(label.config.name, found.prediction_SJ2[:, k], names, models)


def _name(step: int) -> str:
    """The checkpoint of a step."""
    return f"step_{step}"


# --- what ends a run -----------------------------------------------------------------------------


def refuse_skips(
    n_updates_S: Tensor,
    n_skipped_S: Tensor,
    labels: str,
    networks: Sequence[str],
    section: str,
    max_share: float,
    use_amp: bool,
    *,
    is_over: bool = False,
) -> None:
    """RunError where one of the networks skipped more than ``max_share`` of its due updates.

    Of fewer than 20 more than half; none is judged by so few before the phase, which is the
    config's ``section``, is over. ``networks`` are S names.
    """
    n_due_S = n_updates_S + n_skipped_S
    share_S = skipped_share(n_updates_S, n_skipped_S, 1 if is_over else _FEW)
    limits = max_share, max(max_share, _MANY)
    worst = int((share_S - torch.where(n_due_S < _FEW, limits[1], limits[0])).argmax())
    n_due, n_skipped = int(n_due_S[worst]), int(n_skipped_S[worst])
    limit = limits[n_due < _FEW]
    # in Python's numbers: float32's share of 2 in 20 is above 0.1
    if not float(share_S[worst]) or n_skipped / n_due <= limit:
        return
    amp = ", or set use_amp: false" if use_amp else ""
    allowed = f"{section}.max_skipped_share = {max_share:g} allows"
    raise RunError(
        f"label {labels}, network {networks[worst]}: {100 * n_skipped / n_due:.0f} % of its "
        f"{n_due} updates were skipped because a loss or gradient was not finite, "
        f"more than {allowed if limit == max_share else 'half'}: lower the "
        f"learning rate, set {section}.gradient_clip{amp}"
    )


def refuse_predictions(found: MetricValues, networks: Sequence[str], model: str) -> None:
    """RunError where predictions for held-out users, by networks of a model, are not finite."""
    worst = int(found.n_nonfinite.argmax())
    n_bad = int(found.n_nonfinite[worst])
    if n_bad:
        n = int(found.count("n_nonfinite")[worst])
        raise RunError(
            f"label {found.label}, network {networks[worst]} ({model}): {n_bad} of {n} predictions "
            f"for held-out users are not finite: {_REMEDY}"
        )


def refuse_extremes(
    label: str, extreme_S2: Tensor, networks: Sequence[str], models: Sequence[str]
) -> None:
    """RunError where the least or greatest of a label's predictions is not finite.

    Without a label they are those of weights, which must not be negative either. ``networks`` are
    S names, ``models`` what gave the numbers of each, as the config names it.
    """
    is_bad_S = ~extreme_S2.isfinite().all(1)
    if not label:
        is_bad_S |= extreme_S2[:, 0] < 0
    if not bool(is_bad_S.any()):
        return
    worst = int(is_bad_S.int().argmax())
    least, greatest = extreme_S2[worst].tolist()
    what = f"label {label}, network" if label else "weights of network"
    wanted = f"finite numbers: {_REMEDY}" if label else "finite numbers, 0 or more: mend the design"
    raise RunError(
        f"{what} {networks[worst]} ({models[worst]}): {'predicted ' if label else ''}values from "
        f"{least:g} to {greatest:g} so far; wanted {wanted}"
    )
