"""The second phase of a run: all worlds' data-training loops."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from realdataexp.files import disk_faults
from realdataexp.metrics import Figures, joined
from realdataexp.runs.checkpoint import LOOP, Checkpoint
from realdataexp.runs.executors import Executor, Forked, OutsideExecutor, Shards, work
from realdataexp.runs.folder import DETAIL
from realdataexp.runs.networks import STARTS, networks_of, write_networks
from realdataexp.runs.parts import Parts, of_this_run
from realdataexp.runs.progress import PhaseProgress, effects_so_far
from realdataexp.runs.recorder import block_name
from realdataexp.runs.shard import Look, Shard, Updates, next_stop
from realdataexp.runs.sharing import FORK, executor_of
from realdataexp.runs.skips import refuse_extremes, refuse_predictions, refuse_skips

logger = logging.getLogger("realdataexp")

PHASE: Final = "loop"


class LoopPhase:
    """Runs, looks at, and saves all worlds."""

    def __init__(
        self, parts: Parts, starts: Sequence[Sequence[dict[str, Tensor]]], n_processes: int
    ) -> None:
        """Make the worlds.

        Args:
            parts: the run.
            starts: parameters of each start's network, for each of the run's networks.
            n_processes: over how many the replications are spread; it changes no result.
        """
        self._parts, setup, R = parts, parts.setup, len(parts.recorder.replications)
        parts.n_processes = n_processes
        self._shard: Shard | Shards
        if n_processes == 1 and parts.config.simulation.executor == FORK:
            own = tuple(range(R))
            designs = setup.start_designs(own)
            self._shard = Shard(setup, parts.validator, starts, own, designs)
            return
        with parts.interrupts.postponed():
            with disk_faults(parts.folder):
                (parts.folder / STARTS).parent.mkdir(exist_ok=True)
            write_networks(parts.folder / STARTS, setup, starts)
        self._shard = Shards(
            parts.folder, setup, n_processes, self._executor(starts), parts.interrupts
        )

    def _executor(self, starts: Sequence[Sequence[dict[str, Tensor]]]) -> Executor:
        parts = self._parts
        if (name := parts.config.simulation.executor) != FORK:
            make, who = executor_of(parts.config), f"simulation.executor = {name!r}"
            return OutsideExecutor(make, who)
        run = partial(work, setup=parts.setup, validator=parts.validator, starts=starts)
        return Forked(run)

    def _told(self) -> None:
        if isinstance(self._shard, Shards):
            logger.info("[run] %d processes for the loop", self._parts.n_processes)

    def __enter__(self) -> LoopPhase:
        return self

    def __exit__(self, *_: object) -> None:
        self._shard.close()

    def run(self, checkpoint: Checkpoint | None) -> None:
        """Run the steps that are left.

        Args:
            checkpoint: of this phase, to go on from.
        """
        parts, config = self._parts, self._parts.config.simulation
        if checkpoint is None:
            self._shard.begin()
            self._told()
            self._validate(0, self._look_at_shard())
            self._save(0)
        else:
            self._load(checkpoint)
        first = parts.n_steps_done
        with (
            PhaseProgress(PHASE, config.n_steps, "steps") as progress,
            parts.interrupts.postponed(may_insist=True),
        ):
            progress.skip(first)
            while first < config.n_steps:
                last = next_stop(config, first)
                for step in self._shard.steps(first, last):
                    parts.recorder.add(step)
                    parts.n_steps_done = step.visits.step + 1
                    if parts.n_steps_done == last:
                        self._look_and_save(last, is_last=last == config.n_steps)
                    progress.advance(1, self._effects_so_far)
                    parts.interrupts.check()
                if parts.n_steps_done < last:
                    break
                first = last
        if parts.n_steps_done < config.n_steps:
            parts.warnings.add(
                "data_exhausted",
                f"nobody had {config.min_candidates} unused rows left after step "
                f"{parts.n_steps_done} of {config.n_steps}: the run ended there",
            )
            self._look_and_save(parts.n_steps_done, is_last=True)

    def _look_and_save(self, step: int, *, is_last: bool) -> None:
        """Validate, save and tell the trackers, where due."""
        parts, config = self._parts, self._parts.config.simulation
        is_due = is_last or step % config.validate_every == 0
        is_look = is_due and step != parts.n_steps_at_look
        is_better = is_look and self._look(step)
        if is_last or not is_look:  # else that has just been looked at
            self._heed(self._shard.updates(), is_over=is_last)
        is_saved = parts.checkpoints.kept[-1] == _name(step)  # then nobody came afterwards
        if (is_last or step % config.save_every == 0) and not is_saved:
            self._save(step)
        elif is_better:
            parts.checkpoints.write_index_and_prune()
        if is_due or step % config.save_every == 0:
            parts.track()

    def _effects_so_far(self) -> list[str]:
        """What the truth, or the design, has come to, a text for each label."""
        n_starts = self._parts.config.experiment.n_starts
        return effects_so_far(self._parts.recorder.totals(), n_starts)

    # --- looking -----------------------------------------------------------------------------

    def _look(self, step: int) -> bool:
        """Read out the steps since the last look, and validate; see ``_validate``."""
        parts = self._parts
        parts.recorder.flush()
        for found in parts.recorder.training.values():
            self._log("loop", step, found, [name[2] for name in parts.recorder.networks])
        look = self._look_at_shard()
        for block, evidence in zip(parts.setup.blocks, look.evidence, strict=True):
            figures = block.design.diagnostics(evidence, block.p)
            for name, value in figures.items():
                n = parts.recorder.n_visits(block.label)
                row = (PHASE, step, block.label, None, "G", "", "weights", name, value, n)
                parts.recorder.metric(*row)
            if figures:
                parts.weight_figures[block.label] = figures
                text = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                logger.info("[weights] step %d: %s: %s", step, block.label, text, extra=DETAIL)
        if effects := self._effects_so_far():
            logger.info("[loop] step %d: so far, %s", step, "; ".join(effects))
        point = parts.recorder.last_short
        if point is not None:
            logger.info(
                "[loop] step %d: %.1f %% of training users and %.1f %% of slates have fewer than "
                "%d candidates",
                step, 100 * point["users_short"], 100 * point["slates_short"],
                parts.config.simulation.n_candidate,
            )  # fmt: skip
        return self._validate(step, look)

    def _look_at_shard(self) -> Look:
        """Validate the networks, which takes time of its own."""
        with self._parts.clock.timed("validation"):
            look = self._shard.look()
        self._parts.clock.add("validation", self._shard.look_seconds)
        return look

    def _validate(self, step: int, look: Look) -> bool:
        """Record how good networks and rankings are; whether any metric is the best so far."""
        parts, recorder = self._parts, self._parts.recorder
        parts.n_steps_at_look = step
        means: dict[str, list[Tensor]] = {}
        with parts.clock.timed("validation"):
            self._heed(look.updates)
            for label, found in zip(parts.setup.labels, look.predictions, strict=True):
                refuse_predictions(found, self._network_names, label.components)
                recorder.figures(PHASE, step, recorder.networks, "validation", found)
                models = [model for _, _, model in recorder.networks]
                self._log("validate", step, found, models)
                for metric, value_S in found.values.items():
                    means[f"{found.label}.{metric}"] = [value_S]
            by_arm: dict[tuple[str, int], list[Figures]] = {}
            for i, arm, found in look.rankings:
                by_arm.setdefault((found.label, arm), []).append(found)
                name = block_name(parts.setup.blocks, i)
                names = [(name, r, "CT"[arm]) for r in recorder.replications]
                recorder.figures(PHASE, step, names, "validation", found)
                for metric, value_R in found.values.items():
                    means.setdefault(f"{found.label}.{metric}", []).append(value_R)
        for (_, arm), of_arm in by_arm.items():
            found = joined(of_arm)
            models = [f"ranking of arm {'CT'[arm]}"] * len(found.n_nonfinite)
            self._log("validate", step, found, models)
        values = {name: float(torch.cat(x).nanmean()) for name, x in means.items()}

        def write(path: Path) -> None:
            tensors = self._shard.networks()
            params = [
                {k.partition(".")[2]: t for k, t in tensors.items() if k.startswith(f"{i}.")}
                for i in range(len(parts.setup.networks))
            ]
            networks_of(parts.setup, PHASE, step, recorder.networks, params).write(path)

        with parts.clock.timed("checkpoint"), parts.interrupts.postponed():
            return parts.checkpoints.keep_best(LOOP, values, _name(step), write)

    def _log(self, part: str, step: int, found: Figures, models: Sequence[str]) -> None:
        """A line for each model or arm: means over its networks, and what they rest on."""
        size = self._parts.validator.size
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
        parts, setup = self._parts, self._parts.setup
        names, loop = self._network_names, parts.config.simulation
        R = len(parts.recorder.replications)
        designs = [
            getattr(block.design, "who", f"design {block.label}")
            for block in setup.blocks
            for _ in range(block.design.n_models * R)
        ]
        for network, found in zip(setup.networks, updates, strict=True):
            parts.n_skipped[network.name] = int(found.n_skipped_S.sum())
        for network, found in zip(setup.networks, updates, strict=True):
            refuse_extremes("", found.weight_S2, names, designs)
            refuse_skips(
                found.n_updates_S,
                found.n_skipped_S,
                network.name,
                names,
                "simulation",
                loop.max_skipped_share,
                parts.config.use_amp,
                is_over=is_over,
            )
            for k, place in enumerate(network.labels):
                label = setup.labels[place]
                models = [label.components] * len(names)
                refuse_extremes(label.config.name, found.prediction_SK2[:, k], names, models)

    @property
    def _network_names(self) -> list[str]:
        return [" ".join(map(str, name)) for name in self._parts.recorder.networks]

    # --- checkpoints -------------------------------------------------------------------------

    def _save(self, step: int) -> None:
        parts = self._parts
        with parts.clock.timed("checkpoint"), parts.interrupts.postponed():
            state = parts.state(PHASE)  # flushes the recorder first
            tensors = parts.tensors() | self._shard.state()
            parts.checkpoints.save(_name(step), tensors, state)

    def _load(self, checkpoint: Checkpoint) -> None:
        ours = ("recorder.", "shared.")  # and not the shards'
        own = {k: t for k, t in checkpoint.tensors.items() if not k.startswith(ours)}
        with of_this_run(checkpoint):
            self._shard.load_state(own, self._parts.n_steps_done)
        self._told()
        self._heed(self._shard.updates())


def _name(step: int) -> str:
    """The checkpoint of a step."""
    return f"step_{step}"
