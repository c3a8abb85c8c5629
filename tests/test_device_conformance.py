"""One tiny experiment on every device that is found, and in mixed precision, against the CPU.

Devices round differently, so now and then two candidates of nearly equal score swap places; from
there on that world goes its own way. So what is drawn must be equal, and what is learned near:

- who visits and which arm they get: equal;
- the losses of pretraining, before any pick: within 0.1 %, in mixed precision 1 %;
- each design's total of each outcome: within 2 %, in mixed precision 5 %;
- the estimates: on average over designs and outcomes within 0.1 standard deviations of one test, in
  mixed precision 0.3 (0.04 to 0.30 with 16 seeds; a single one is up to 0.7 apart, as four
  replications whose picks part ways are).

With fp16 a network loses an update or two of its ten to the search for its scale: twice as much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import polars as pl
import pytest

import realdataexp as rx
from realdataexp.device import available_devices, choose_device
from realdataexp.runs import setup

SMALL = [
    "simulation.n_steps=10",
    "simulation.batch_size=32",
    "simulation.n_candidate=8",
    "simulation.validate_every=5",
    "experiment.replications=4",
    "experiment.starts=1",
    "logging.pictures=false",
]
EXPERIMENTS = {
    "demo": [f"dataset.synthetic.{x}" for x in ("users=300", "videos=200", "rows=9000")],
    "si2023": ["dataset.si2023.pretrain_rows=2000"],
}
ACCELERATORS = [kind for kind in available_devices() if kind != "cpu"]
Run = Callable[[str, str, bool], rx.Result]


@dataclass(frozen=True)
class Tolerance:
    loss: float
    total: float
    estimate: float


EXACT, MIXED, FP16 = (
    Tolerance(0.001, 0.02, 0.1),
    Tolerance(0.01, 0.05, 0.3),
    Tolerance(0.02, 0.1, 0.6),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a tiny experiment on a device, once."""
    made: dict[tuple[str, str, bool], rx.Result] = {}
    folder = tmp_path_factory.mktemp("devices")

    def make(name: str, kind: str, use_amp: bool) -> rx.Result:
        key = (name, kind, use_amp)
        if key not in made:
            settings = [*SMALL, *EXPERIMENTS[name], f"device={kind}", f"use_amp={use_amp}"]
            settings.append(f"dataset.cache_path={folder / 'cache'}")
            made[key] = rx.run(name, settings, out=folder / "-".join(map(str, key)))
        return made[key]

    return make


def compare(a: rx.Result, b: rx.Result, allowed: Tolerance) -> None:
    """``b`` must be as ``a`` within what is allowed."""
    keys = ["step", "design", "world", "arm", "label"]
    counts_a, counts_b = (x.outcomes.select(*keys, "n").sort(keys) for x in (a, b))
    assert counts_a.equals(counts_b)

    is_early = (pl.col("phase") == "pretrain") & (pl.col("split") == "train")
    loss_a, loss_b = (
        x.metrics.filter(is_early & (pl.col("metric") == "loss"))["value"].to_list() for x in (a, b)
    )
    assert loss_a and loss_b == pytest.approx(loss_a, rel=allowed.loss)

    total_a, total_b = (
        x.outcomes.group_by("design", "label").agg(pl.col("sum").sum()).sort("design", "label")
        for x in (a, b)
    )
    assert total_b["sum"].to_list() == pytest.approx(total_a["sum"].to_list(), rel=allowed.total)

    both = a.comparison.join(b.comparison, on=["design", "label"], suffix="_b")
    assert len(both) == len(a.comparison) > 0
    apart = ((pl.col("estimate_b") - pl.col("estimate")).abs() / pl.col("sd")).mean()
    assert both.select(apart).item() <= allowed.estimate, both


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_mixed_precision_on_the_cpu_changes_little_but_something(run: Run, name: str) -> None:
    exact, mixed = run(name, "cpu", False), run(name, "cpu", True)
    compare(exact, mixed, MIXED)
    assert not exact.metrics.equals(mixed.metrics)
    assert "bf16" in mixed.summary["device"]["reason"]


@pytest.mark.skipif(not ACCELERATORS, reason="this machine has no accelerator, the CPU only")
@pytest.mark.parametrize("name", EXPERIMENTS)
@pytest.mark.parametrize("kind", ACCELERATORS)
@pytest.mark.parametrize("use_amp", [False, True])
def test_every_accelerator_answers_as_the_cpu_does(
    run: Run, name: str, kind: str, use_amp: bool
) -> None:
    if kind == "dml" and use_amp:
        pytest.skip("DirectML has no mixed precision")
    found = run(name, kind, use_amp)
    says = found.summary["device"]["reason"]
    compare(run(name, "cpu", False), found, FP16 if "fp16" in says else MIXED if use_amp else EXACT)


@pytest.mark.skipif("cuda" not in ACCELERATORS, reason="this machine has no CUDA device")
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_cuda_gives_the_same_bits_again(run: Run, name: str) -> None:
    first = run(name, "cuda", False)
    again = rx.run(first.folder / "config.yaml", out=first.folder.with_name(f"{name}-again"))
    assert first.outcomes.equals(again.outcomes)
    assert first.metrics.equals(again.metrics)


@pytest.mark.skipif("cuda" not in ACCELERATORS, reason="this machine has no CUDA device")
@pytest.mark.parametrize("use_amp", [False, True])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_recorded_operations_give_the_bits_of_operations_one_by_one(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str, use_amp: bool
) -> None:
    recorded = run(name, "cuda", use_amp)
    device = replace(choose_device("cuda", use_amp), has_graphs=False)
    monkeypatch.setattr(setup, "choose_device", lambda *_: device)
    out = recorded.folder.with_name(f"{name}-{use_amp}-one-by-one")
    one_by_one = rx.run(recorded.folder / "config.yaml", out=out)
    assert recorded.outcomes.equals(one_by_one.outcomes)
    assert recorded.metrics.equals(one_by_one.metrics)
