"""The second phase of a run: all worlds' data-training loops."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from realdataexp.designs.base import Running
from realdataexp.learner import Learner
from realdataexp.loop import Loop, n_networks
from realdataexp.metrics import Figures, is_higher_better, joined
from realdataexp.models import Batch
from realdataexp.runs.checkpoint import Checkpoint
from realdataexp.runs.parts import Parts, of_this_run
from realdataexp.runs.progress import PhaseProgress, effects_so_far
from realdataexp.runs.recorder import block_name
from realdataexp.runs.skips import refuse_skips
from realdataexp.worlds.base import World, WorldSettings

logger = logging.getLogger("realdataexp")

PHASE = "loop"


class LoopPhase:
    """Runs, looks at, and saves all worlds."""

    def __init__(self, parts: Parts, starts: Sequence[dict[str, Tensor]]) -> None:
        """Make the worlds; ``starts`` are the parameters of each network's starting model."""
        self._parts, setup = parts, parts.setup
        settings = parts.config.simulation
        n = n_networks(setup.blocks, len(parts.recorder.replications))
        self.learners = [
            Learner.start(network.model, network.heads, setup.device, start, n)
            for network, start in zip(setup.networks, starts, strict=True)
        ]
        self._world = self._make_world()
        self._loop = Loop(
            self._world,
            setup.blocks,
            [label.policy for label in setup.labels],
            self.learners,
            parts.config.seed,
            diagnose_every=settings.validate_every,
            retrain_every=settings.retrain_every,
            running=setup.running,
            labels_of=[network.labels for network in setup.networks],
        )

    def _make_world(self) -> World:
        parts, loop = self._parts, self._parts.config.simulation
        settings = WorldSettings(
            seed=parts.config.seed,
            replications=parts.recorder.replications,
            n_blocks=len(parts.setup.blocks),
            batch_size=loop.batch_size,
            n_candidates=loop.n_candidate,
            n_steps=loop.n_steps,
            min_candidates=loop.min_candidates,
            assignment=parts.config.experiment.assignment,
        )
        return parts.setup.environment.world(tuple(parts.setup.outcomes.values()), settings)

    def run(self, checkpoint: Checkpoint | None) -> None:
        """Run the steps that are left.

        Args:
            checkpoint: of this phase, to go on from.
        """
        parts, config = self._parts, self._parts.config.simulation
        if checkpoint is None:
            self._save(0, self._validate(0))
        else:
            self._load(checkpoint)
        first = parts.n_steps_done
        with (
            PhaseProgress(PHASE, config.n_steps, "steps") as progress,
            parts.interrupts.postponed(may_insist=True),
        ):
            progress.skip(first)
            for step in self._loop.steps(first, config.n_steps):
                parts.recorder.add(step)
                parts.n_steps_done = done = step.visits.step + 1
                self._look_and_save(done, is_last=done == config.n_steps)
                progress.advance(1, self._effects_so_far)
                parts.interrupts.check()
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
        best = self._look(step) if is_due and step != parts.n_steps_at_look else {}
        if parts.checkpoints.kept[-1] == _name(step):  # nobody came after a step that was saved
            parts.checkpoints.mark(best)
        elif best or is_last or step % config.save_every == 0:
            self._save(step, best)
        if is_due or step % config.save_every == 0:
            parts.track()

    def _effects_so_far(self) -> list[str]:
        """What the truth, or the design, has come to, a text for each label."""
        return effects_so_far(self._parts.recorder.totals())

    # --- looking -----------------------------------------------------------------------------

    def _look(self, step: int) -> dict[str, float]:
        """Read out the steps since the last look, and validate; returns the new bests."""
        parts = self._parts
        parts.recorder.flush()
        for found in parts.recorder.training.values():
            self._log("loop", step, found, [name[2] for name in parts.recorder.networks])
        for block, design in zip(self._loop.blocks, self._loop.running, strict=True):
            figures = design.diagnostics()
            for name, value in figures.items():
                n = parts.recorder.n_visits(block.label)
                row = (PHASE, step, block.label, None, "G", "", "weights", name, value, n)
                parts.recorder.metric(*row)
            if figures:
                parts.weight_figures[block.label] = figures
                text = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                logger.info("[weights] step %d: %s: %s", step, block.label, text)
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
        return self._validate(step)

    def _validate(self, step: int) -> dict[str, float]:
        """Record how good networks and rankings are; returns the metrics that are the best yet."""
        parts, recorder = self._parts, self._parts.recorder
        parts.n_steps_at_look = step
        means: dict[str, list[Tensor]] = {}
        with parts.clock.timed("validation"):
            look = parts.validator.look(self.learners)
            self._adapt(look.loss_SK)
            for found in parts.validator.predictions(look):
                recorder.figures(PHASE, step, recorder.networks, "validation", found)
                models = [model for _, _, model in recorder.networks]
                self._log("validate", step, found, models)
                for metric, value_S in found.values.items():
                    means[f"{found.label}.{metric}"] = [value_S]
            by_arm: dict[tuple[str, int], list[Figures]] = {}
            for i, arm, found in parts.validator.rankings(look, self._loop.blocks):
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
        return parts.checkpoints.improvements(
            values, {name: is_higher_better(name.partition(".")[2]) for name in values}
        )

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
                logger.info(
                    "[%s] step %d: %s, %s: %s (%s)", part, step, found.label, model, text, rest
                )

    def _adapt(self, loss_SK: Tensor) -> None:
        """Tell the schedules, and refuse networks that skip too many updates."""
        parts = self._parts
        names = [" ".join(map(str, name)) for name in parts.recorder.networks]
        for network, learner in zip(parts.setup.networks, self.learners, strict=True):
            schedule = parts.setup.labels[network.labels[0]].policy.optimizer.schedule
            learner.look(loss_SK[:, list(network.labels)].sum(1), schedule)
            limit = parts.config.simulation.max_skipped_share
            use_amp = parts.config.use_amp
            refuse_skips(learner, network.name, names, "simulation", limit, use_amp)

    # --- checkpoints -------------------------------------------------------------------------

    def _stateful(self) -> dict[str, World | Loop | Learner | Running]:
        """Everything with a state, by name."""
        learners = {f"network.{i}": learner for i, learner in enumerate(self.learners)}
        designs = {f"design.{i}": design for i, design in enumerate(self._loop.running)}
        return {"world": self._world, "loop": self._loop, **learners, **designs}

    def _save(self, step: int, best: dict[str, float]) -> None:
        parts = self._parts
        with parts.clock.timed("checkpoint"), parts.interrupts.postponed():
            state = parts.state(PHASE)  # flushes the recorder first
            tensors = {f"recorder.{k}": t for k, t in parts.recorder.state().items()}
            for name, part in self._stateful().items():
                tensors.update({f"{name}.{k}": t for k, t in part.state().items()})
            parts.checkpoints.save(_name(step), tensors, state, best)

    def _load(self, checkpoint: Checkpoint) -> None:
        with of_this_run(checkpoint):
            self._check_lessons(checkpoint.part("loop"))
            for name, part in self._stateful().items():
                part.load_state(checkpoint.part(name))

    def _check_lessons(self, saved: Mapping[str, Tensor]) -> None:
        """The lessons that wait have shapes that only this phase knows; ValueError for others."""
        parts, config = self._parts, self._parts.config.simulation
        n = parts.n_steps_done % config.retrain_every
        shape = (len(parts.recorder.networks), config.batch_size)
        shapes: dict[str, tuple[int, ...]] = {
            "step": (), "weight": shape, "y": (*shape, len(parts.setup.labels)),
        }  # fmt: skip
        for field in fields(Batch):
            x = getattr(parts.validator.held_out.batch, field.name)
            shapes[f"batch.{field.name}"] = (*shape, *[1] * (x.dim() - 3), x.shape[-1])
        wanted = {"n_waiting": ()} | {f"{i}.{k}": s for i in range(n) for k, s in shapes.items()}
        if {name: tuple(tensor.shape) for name, tensor in saved.items()} != wanted:
            raise ValueError("loop: the outcomes that wait for training are others")


def _name(step: int) -> str:
    """The checkpoint of a step."""
    return f"step_{step}"
