"""Pretraining and the loop: rows and arm-steps a second, beside the products they consist of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from bench import peers
from bench.figures import Figure, Reference, memory, rates
from bench.process import Parts, measure
from bench.sizes import DESIGNS, Place
from realdataexp.api import run as run_config
from realdataexp.config import Config, load_config
from realdataexp.data.synthetic import SyntheticConfig, write_synthetic
from realdataexp.loop import Loop, n_networks
from realdataexp.models import FeatureSchema, SideSchema
from realdataexp.runs.setup import make_blocks, shares

_PRODUCTS = "its products at sgemm's rate"


def run(settings: dict[str, Any], out: str) -> dict[str, Any]:
    """Run a config: its ``timing``, its worlds, and its networks of each label."""
    config = load_config(settings)
    result = run_config(config, out=out)
    blocks, R = make_blocks(config), config.experiment.replications
    return {
        "timing": result.summary["timing"],
        "n_worlds": len(blocks) * R,
        "n_networks": n_networks(blocks, R),
    }


@dataclass(frozen=True)
class Products:
    """Floating-point operations of the networks' matrix products, of all labels together.

    Attributes:
        per_visit, per_candidate: of scoring: the user's part of the first layer, and the rest.
    """

    per_visit: int
    per_candidate: int

    def arm_step(self, n_visits: int, n_candidates: int) -> int:
        """Scoring every candidate, and learning (three times the forward pass) from one a visit."""
        scoring = n_visits * (self.per_visit + n_candidates * self.per_candidate)
        return scoring + n_visits * self.row()

    def row(self) -> int:
        """Learning from one row."""
        return 3 * (self.per_visit + self.per_candidate)


def products_of(schema: FeatureSchema, config: Config) -> Products:
    """What a config's MLPs multiply; a category's embedding counts as multiplied in every row."""
    per_visit = per_candidate = 0
    for label in config.labels:
        hidden, dim = label.model_params["hidden_layers"], label.model_params["embedding_dim"]

        def width(side: SideSchema, dim: int = dim) -> int:
            return side.n_numerical + len(side.fields) * dim

        per_visit += 2 * width(schema.user) * hidden[0]
        widths = [width(schema.video), *hidden, 1]
        per_candidate += 2 * sum(a * b for a, b in pairwise(widths))
    return Products(per_visit, per_candidate)


def at_best(settings: dict[str, Any], out: str) -> dict[str, Any]:
    """The floors of ``run``: the networks' products at the rate that sgemm has now.

    Returns:
        ``best_arm_steps`` and ``best_rows`` of the pretraining, a second.
    """
    config = load_config(settings)
    products = products_of(peers.open_table(config).schema, config)
    loop, flops = config.simulation, 1e9 * rates()["gflops"]
    return {
        "best_arm_steps": flops / products.arm_step(loop.batch_size, loop.n_candidate),
        "best_rows": flops / products.row(),
    }


def scoring_and_training(settings: dict[str, Any], out: str) -> dict[str, Any]:
    """Run a config on one thread: ``arm_steps_per_second`` of scoring and training by themselves.

    PyTorch keeps to one thread afterwards, so that ``at_best`` is that of one.
    """
    torch.set_num_threads(1)
    parts = Parts()
    parts.watch(Loop, "_predict", "scoring")
    parts.watch(Loop, "_learn", "training")
    n_worlds = run(settings, out)["n_worlds"]
    n_arm_steps = n_worlds * load_config(settings).simulation.n_steps
    return {"arm_steps_per_second": n_arm_steps / sum(parts.seconds.values()), "n_worlds": n_worlds}


def pretraining(place: Place) -> Iterator[Figure]:
    """Rows a second of both labels' networks."""
    size = place.size
    few = {"n_steps": 1, "n_candidate": 2, "batch_size": 8}
    settings = place.config(
        pretrain={"max_rows": size.n_pretrain},
        simulation=few,
        experiment={"replications": 1},
    )
    found = [
        measure(run, at_best, settings=settings, out=str(place.scratch / f"pretraining-{i}"))
        for i in range(size.n_repeats)
    ]
    other = measure(peers.load_and_train, settings=settings, n_rows=size.n_loaded, n_workers=2)
    yield Figure(
        "pretraining",
        median(x["timing"]["pretrain_rows_per_second"] for x in found),
        "rows/s",
        floor=Reference(_PRODUCTS, median(x["best_rows"] for x in found)),
        peer=Reference("a PyTorch DataLoader with 2 workers", other["rows_per_second"]),
        n_repeats=size.n_repeats,
        note=f"both labels, batches of {size.pretrain_batch:,}",
    )


def arm_steps(place: Place) -> Iterator[Figure]:
    """Arm-steps a second of the main job, and where one of its sizes varies; memory."""
    size = place.size
    for i, (what, blocks) in enumerate(_variants(place)):
        settings, n = place.config(**blocks), size.n_repeats if i == 0 else 1
        runs = [
            measure(run, at_best, settings=settings, out=str(place.scratch / f"steps-{i}-{j}"))
            for j in range(n)
        ]
        figures = [speed(f"arm-steps, {what}", found, n_repeats=n) for found in runs]
        yield sorted(figures, key=lambda figure: figure.ratios()["floor"])[n // 2]
        if what in ("the main job", f"{max(size.many_replications)} replications"):
            worlds = f"{runs[0]['n_worlds']} worlds"
            yield memory(f"peak memory, {what}", runs[0], note=worlds)
    yield _scoring_and_training(place)


def _scoring_and_training(place: Place) -> Figure:
    """Scoring and training in one of the main job's processes, while the others do the same."""
    n = torch.get_num_threads()
    own = max(map(len, shares(place.size.replications, n)))
    settings = place.config(experiment={"replications": own}, simulation={"processes": 1})

    def one(i: int) -> dict[str, Any]:
        out = str(place.scratch / f"parts-{i}")
        return measure(scoring_and_training, at_best, settings=settings, out=out)

    with ThreadPoolExecutor(n) as pool:
        found = list(pool.map(one, range(n)))
    rate, best = (
        median(x[name] for x in found) for name in ("arm_steps_per_second", "best_arm_steps")
    )
    return Figure(
        "arm-steps, scoring and training alone",
        rate,
        "arm-steps/s",
        floor=Reference(f"{_PRODUCTS}, on one thread", best),
        n_repeats=n,
        note=f"one of {n} processes of the main job; {found[0]['n_worlds']} worlds",
    )


def _variants(place: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is varied, and the blocks of the config that do it."""
    size = place.size
    few = {"n_steps": size.n_steps_varied}
    yield "the main job", {}
    for n in size.many_replications:
        what = f"{n} replication{'s' if n > 1 else ''}"
        yield what, {"experiment": {"replications": n}, "simulation": few}
    for n in size.many_designs:
        experiment = {"replications": size.compared_replications, "designs": list(DESIGNS[:n])}
        what = f"truth and {n} design{'s' if n > 1 else ''}"
        yield what, {"mode": "compare", "experiment": experiment, "simulation": few}
    for n in size.many_candidates:
        yield f"{n} candidates", {"simulation": {**few, "n_candidate": n}}
    for n in size.many_visits:
        yield f"{n} visits a step", {"simulation": {**few, "batch_size": n}}


def speed(
    name: str,
    found: Mapping[str, Any],
    peer: Reference | None = None,
    note: str = "",
    n_repeats: int = 1,
) -> Figure:
    """Arm-steps a second of a run, beside its products at sgemm's rate.

    Args:
        name: the figure's.
        found: what ``run`` and ``at_best`` say.
        peer: the figure's.
        note: the figure's, in front of the run's size.
        n_repeats: the figure's.
    """
    size = f"{found['n_worlds']} worlds, {found['n_networks']} networks a label"
    return Figure(
        name,
        found["timing"]["arm_steps_per_second"],
        "arm-steps/s",
        floor=Reference(_PRODUCTS, found["best_arm_steps"]),
        peer=peer,
        n_repeats=n_repeats,
        note=f"{note}; {size}" if note else size,
    )


def beside_pandas(place: Place) -> Iterator[Figure]:
    """The same two worlds on a table that the pandas loop can manage."""
    size, data = place.size, place.scratch / "small-table"
    write_synthetic(
        data,
        SyntheticConfig(
            version="pure", users=size.loop_users, videos=size.n_videos, rows=size.loop_rows, seed=0
        ),
    )
    settings = place.config(
        data=data,
        simulation={"n_steps": size.n_steps_varied},
        experiment={"replications": 1},
    )
    out = str(place.scratch / "pandas-loop")
    found = measure(run, at_best, settings=settings, out=out)
    other = measure(peers.run_loop, settings=settings, n_steps=size.loop_steps)
    peer = Reference("a pandas loop over users", other["arm_steps_per_second"])
    yield speed("arm-steps, one replication", found, peer, f"{size.loop_rows:,} rows")
