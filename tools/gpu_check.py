"""Measure the package on this machine's accelerator: speed, waits, memory; JSON and Markdown.

Without an accelerator, or with ``--size small``, the same measurements run at a size that a CPU
does in seconds. ``tools/gpu_check.sh`` runs the conformance tests first, and then this. A part that
fails is reported with its error, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
import time
import traceback
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # bench/ is no part of the package

import realdataexp as rx
from bench.sizes import PROTOTYPE, SMALL, Place
from bench.sizes import Size as TableSize
from realdataexp.config import load_config
from realdataexp.data.synthetic import SyntheticConfig, write_synthetic
from realdataexp.device import Device, choose_device
from realdataexp.errors import Warnings
from realdataexp.learner import Learner
from realdataexp.pretrain import Pretraining, PretrainSettings
from realdataexp.runs import setup as runs_setup
from realdataexp.runs.setup import Setup
from realdataexp.runs.shard import Shard, Validator

SEED = 0
DESIGNS = ("pooling", "snapshot", "splitting", "weighting", "shadow")


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        table: of the synthetic KuaiRand-Pure.
        worlds: in lockstep; two of a replication, or one alone.
        seconds: least time of a measurement; n_steps: the most steps of it.
        batches: rows of a pretraining batch; n_batches: of each size.
        platform: replications, visits and candidates of the simulated platform.
        compare: replications and steps of the comparison of five designs.
    """

    table: TableSize
    worlds: tuple[int, ...]
    seconds: float
    n_steps: int
    batches: tuple[int, ...]
    n_batches: int
    platform: tuple[int, int, int]
    compare: tuple[int, int]


FULL = Size(
    PROTOTYPE,
    worlds=(1, 2, 16, 128, 512, 1024, 4096),
    seconds=1.5,
    n_steps=100,
    batches=(4096, 16_384, 65_536, 262_144),
    n_batches=16,
    platform=(100, 128, 100),
    compare=(100, 200),
)
TINY = Size(
    SMALL,
    worlds=(1, 4),
    seconds=0.0,
    n_steps=12,
    batches=(64, 256),
    n_batches=2,
    platform=(2, 8, 5),
    compare=(2, 4),
)
Row = dict[str, Any]


class Check:
    """One machine's figures, measured part by part."""

    def __init__(self, size: Size, kind: str, scratch: Path) -> None:
        self.size, self.scratch = size, scratch
        self.device = choose_device(kind)
        self.place = Place(size.table, scratch / "data", False, scratch, ())

    @property
    def is_cuda(self) -> bool:
        """Whether PyTorch can tell kernels and waits apart here."""
        return self.device.torch.type == "cuda"

    def config(self, **blocks: Any) -> dict[str, Any]:
        """The benchmark's main job on this device."""
        return self.place.config(device=self.device.torch.type, **blocks)

    # --- parts -------------------------------------------------------------------------------

    def machine(self) -> list[Row]:
        """What it is, and its rates: products in float32, and copies (bytes read and written)."""
        n = 8192 if self.is_cuda else 256
        a, b = (torch.rand(n, n, device=self.device.torch) for _ in range(2))
        flops = 2 * n**3 / self._typical(lambda: a @ b)
        x = torch.rand(n * n, device=self.device.torch)
        y = torch.empty_like(x)
        rate = 8 * n * n / self._typical(lambda: y.copy_(x))
        return [
            {
                "device": self.device.description,
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "torch": torch.__version__,
                "float32 TFLOP/s": flops / 1e12,
                "GB/s": rate / 1e9,
            }
        ]

    def table(self) -> list[Row]:
        """Make the synthetic table and import it."""
        t, start = self.size.table, time.perf_counter()
        write_synthetic(
            self.place.data,
            SyntheticConfig(users=t.n_users, videos=t.n_videos, rows=t.n_rows, seed=SEED),
        )
        made = time.perf_counter()
        self._set_up(self.config())
        return [{"making s": made - start, "import s": time.perf_counter() - made}]

    def lockstep(self) -> Iterator[Row]:
        """Arm-steps a second against worlds."""
        for n in self.size.worlds:
            settings = self.config(
                mode="pooling" if n == 1 else "global",
                experiment={"replications": max(1, n // 2)},
                simulation={"n_steps": self.size.n_steps},
            )
            yield {"worlds": n, "graphs": self.device.has_graphs, **self._stepping(settings)}
            if self.device.has_graphs and n in self.size.worlds[1::2]:
                yield {"worlds": n, "graphs": False, **self._stepping(settings, has_graphs=False)}

    def designs(self) -> Iterator[Row]:
        """The same with the truth and five designs: seven blocks."""
        for n in sorted({max(1, n // 7) for n in self.size.worlds[-2:]}):
            settings = self.config(
                mode="compare",
                experiment={"replications": n, "designs": list(DESIGNS)},
                simulation={"n_steps": self.size.n_steps},
            )
            yield {"worlds": 7 * n, **self._stepping(settings)}

    def platform(self) -> Iterator[Row]:
        """The simulated platform of the paper's size."""
        R, B, C = self.size.platform
        config = load_config(
            "si2023",
            [
                f"device={self.device.torch.type}",
                f"simulation.batch_size={B}",
                f"simulation.n_candidate={C}",
                f"simulation.n_steps={self.size.n_steps}",
                f"experiment.replications={R}",
                "dataset.si2023.pretrain_rows=2000",
            ],
        )
        yield {"replications": R, "visits": B, "candidates": C, **self._stepping(config)}

    def starts(self) -> Iterator[Row]:
        """What the host needs to start an operation, a copy to the device, and a recording."""
        x, n = torch.zeros(1, device=self.device.torch), 1000
        y = torch.zeros(1000).numpy()
        for what, call in (
            ("operation", lambda: x.add_(1)),
            ("copy", lambda: self.device.tensor(y)),
        ):
            for _ in range(10):
                call()
            self.device.synchronize()
            start = time.perf_counter()
            for _ in range(n):
                call()
            told = time.perf_counter() - start
            self.device.synchronize()
            yield {"start of": what, "us": 1e6 * told / n}

    def equality(self) -> Iterator[Row]:
        """Whether recorded operations give the same bits as without."""
        for mode in ("global", "compare"):
            experiment = {"replications": 4, "designs": list(DESIGNS)}
            steps = {"n_steps": self.size.n_steps}
            settings = self.config(mode=mode, experiment=experiment, simulation=steps)
            found = []
            for has_graphs in (True, False):
                shard, _ = self._shard(settings, has_graphs)
                y = [shard.step(step).y_WBL for step in range(8)]
                params = [p for x in shard._learners for p in x.params.values()]
                found.append([x.cpu() for x in (*y, *params)])
            pairs = list(zip(*found, strict=True))
            same = [torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0)) for a, b in pairs]
            apart = max(float((a - b).nan_to_num(0.0).abs().max()) for a, b in pairs)
            yield {"mode": mode, "equal tensors": sum(same), "of": len(same), "most apart": apart}

    def pretraining(self) -> Iterator[Row]:
        """Rows a second of both labels' networks, against the rows of a batch."""
        setup = self._set_up(self.config())
        rows = setup.environment.pretraining(setup.targets, 0)
        for size in self.size.batches:
            learners = [
                Learner.start(x.model, x.heads, self.device, x.model.init(torch.tensor(SEED)), 1)
                for x in setup.networks
            ]
            optimizers = [x.pretrain_optimizer for x in setup.networks]
            settings = PretrainSettings(SEED, size, 10**6, None, None, None)
            training = Pretraining(
                learners, optimizers, rows, rows.n_rows,
                lambda: (0.0,) * len(setup.labels), settings, [x.labels for x in setup.networks],
            )  # fmt: skip
            self._reset_memory()
            for _ in range(5):
                training.advance()
            seconds, n = self._repeat(training.advance, self.size.n_batches)
            yield {
                "rows a batch": size,
                "rows/s": n * size / seconds,
                "ms a batch": 1000 * seconds / n,
                **self._kernels(training.advance, seconds / n),
                "MiB": self.device.memory_mb(),
            }

    def waits(self) -> Iterator[Row]:
        """Where a step waits for the device, if anywhere."""
        if not self.is_cuda:
            return
        for name in ("demo data", "si2023"):
            if name == "si2023":
                config: Any = load_config("si2023", ["device=cuda", "experiment.replications=4"])
            else:
                designs = [*DESIGNS, "cluster", "switchback", "codiverted", "data_diverted"]
                designs += ["sharing", "holdout", "rollout"]
                config = self.config(
                    mode="compare", experiment={"replications": 4, "designs": designs}
                )
            shard, _ = self._shard(config)
            for step in range(5):
                shard.step(step)
            torch.cuda.synchronize()
            with warnings.catch_warnings(record=True) as found:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                for step in range(5, 8):
                    shard.step(step)
                torch.cuda.set_sync_debug_mode("default")
            found = [w for w in found if "called a synchronizing" in str(w.message)]
            places = sorted({f"{Path(w.filename).name}:{w.lineno}" for w in found})
            yield {"steps of": name, "waits in 3 steps": len(found), "at": ", ".join(places)}

    def profile(self) -> Iterator[Row]:
        """Where a step's time on the device goes, kernel by kernel, with the most worlds."""
        settings = self.config(
            experiment={"replications": self.size.worlds[-1] // 2},
            simulation={"n_steps": self.size.n_steps},
        )
        shard, _ = self._shard(settings)
        for i in range(5):
            shard.step(i)
        n = 3
        events = self._profiled(lambda i: shard.step(5 + i), n)
        if not events:
            return
        by_name: dict[str, list[float]] = defaultdict(list)
        for name, start, end in events:
            by_name[name[:90]].append(end - start)
        total = sum(map(sum, by_name.values()))
        for name, times in sorted(by_name.items(), key=lambda x: -sum(x[1]))[:25]:
            yield {
                "kernel": name,
                "calls a step": len(times) / n,
                "ms a step": sum(times) / n / 1000,
                "share": sum(times) / total,
            }

    def compare(self) -> Iterator[Row]:
        """Whole runs, results and report included: as configured, and without what costs most."""
        R, T = self.size.compare
        lean = ["experiment.intervals=[welch]", f"simulation.save_every={T}"]
        for what, settings in {"as configured": [], "Welch's intervals only": lean}.items():
            start = time.perf_counter()
            result = rx.run(
                "kuairand-pure",
                [
                    f"dataset.path={self.place.data}",
                    f"dataset.cache_path={self.place.cache}",
                    f"device={self.device.torch.type}",
                    f"experiment.replications={R}",
                    f"simulation.n_steps={T}",
                    *settings,
                ],
                out=self.scratch / what,
            )
            seconds = time.perf_counter() - start
            timing = {k: v for k, v in result.summary["timing"].items() if k != "total_seconds"}
            yield {"run": what, "seconds": seconds, **timing}

    # --- how ---------------------------------------------------------------------------------

    def _set_up(self, settings: Any, has_graphs: bool = True) -> Setup:
        config = load_config(settings) if isinstance(settings, Mapping) else settings

        def choose(*arguments: Any) -> Device:
            device = choose_device(*arguments)
            return replace(device, has_graphs=has_graphs and device.has_graphs)

        with patch.object(runs_setup, "choose_device", choose):
            return runs_setup.set_up(config, Warnings())

    def _shard(self, settings: Any, has_graphs: bool = True) -> tuple[Shard, Setup]:
        """All replications of a config, with networks that have not been trained."""
        setup = self._set_up(settings, has_graphs)
        n_starts = setup.config.experiment.n_starts
        starts = [[x.model.init(torch.tensor(SEED))] * n_starts for x in setup.networks]
        replications = tuple(range(setup.config.experiment.replications))
        return Shard(setup, Validator(setup), starts, replications), setup

    def _stepping(self, settings: Any, has_graphs: bool = True) -> Row:
        """Steps of a config: their speed, kernels, waits and memory."""
        self._reset_memory()
        shard, setup = self._shard(settings, has_graphs)
        n_worlds = len(setup.blocks) * len(shard.replications)
        world = shard._world
        seen = {"drawing": 0.0, "n": 0}
        draw = world.draw

        def timed_draw(step: int) -> Any:
            start = time.perf_counter()
            visits = draw(step)
            seen["drawing"] += time.perf_counter() - start
            return visits

        world.draw = timed_draw  # type: ignore[method-assign]
        last = self.size.n_steps - 4
        done = 0

        def step() -> None:
            nonlocal done
            shard.step(done)
            done += 1

        for _ in range(5):  # recordings are made in the third
            step()
        self.device.synchronize()
        seen["drawing"], start = 0.0, time.perf_counter()
        n = 0
        while n == 0 or (done < last and time.perf_counter() - start < self.size.seconds):
            step()
            n += 1
        told = time.perf_counter() - start
        self.device.synchronize()
        seconds = time.perf_counter() - start
        row = {
            "arm-steps/s": n_worlds * n / seconds,
            "ms a step": 1000 * seconds / n,
            "host ms": 1000 * told / n,
            "of it drawing ms": 1000 * seen["drawing"] / n,
        }
        row |= self._kernels(step, seconds / n)
        return row | {"MiB": self.device.memory_mb()}

    def _kernels(self, call: Callable[[], Any], seconds: float) -> Row:
        """How many kernels a call starts, and for which share of its time the device is busy."""
        n = 2
        events = self._profiled(lambda _: call(), n)
        if not events:
            return {}
        busy, until = 0.0, 0.0
        for _, start, end in sorted(events, key=lambda e: e[1]):
            busy += max(0.0, end - max(start, until))
            until = max(until, end)
        return {
            "kernels": len(events) / n,
            "device ms": busy / n / 1000,
            "busy share": min(1.0, busy / n / 1e6 / seconds),
        }

    def _profiled(self, call: Callable[[int], Any], n: int) -> list[tuple[str, float, float]]:
        """Kernels and copies of ``n`` calls: name, start and end in microseconds."""
        if not self.is_cuda:
            for i in range(n):
                call(i)
            return []
        activities = [torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profile:
            for i in range(n):
                call(i)
            torch.cuda.synchronize()
        events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
        return [
            (e.name(), e.start_ns() / 1e3, e.end_ns() / 1e3)
            for e in events
            if "CUDA" in str(e.device_type()) and e.end_ns() > e.start_ns()
        ]

    def _repeat(self, call: Callable[[], Any], most: int) -> tuple[float, int]:
        """Seconds of some calls, waited for at the end."""
        self.device.synchronize()
        start, n = time.perf_counter(), 0
        while n == 0 or (n < most and time.perf_counter() - start < self.size.seconds):
            call()
            n += 1
        self.device.synchronize()
        return time.perf_counter() - start, n

    def _typical(self, call: Callable[[], Any]) -> float:
        """Seconds of one of several calls."""
        for _ in range(3):
            call()
        seconds, n = self._repeat(call, 20)
        return seconds / n

    def _reset_memory(self) -> None:
        if self.is_cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


PARTS = (
    "machine", "starts", "table", "waits", "equality", "lockstep", "designs", "platform",
    "pretraining", "compare", "profile",
)  # fmt: skip


def markdown(found: Mapping[str, Any]) -> str:
    """All parts as tables."""
    lines = []
    for name, part in found["parts"].items():
        lines += ["", f"## {name} ({part['seconds']:.0f} s)"]
        columns = [*dict.fromkeys(k for row in part["rows"] for k in row)]
        if columns:
            lines += ["", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
            for row in part["rows"]:
                lines.append(f"| {' | '.join(_text(row.get(k)) for k in columns)} |")
        if part["error"]:
            lines += ["", "```", part["error"].strip(), "```"]
    return "\n".join(lines[1:]) + "\n"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "/")
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@contextmanager
def _scratch(folder: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=folder, prefix="realdataexp-") as made:
        yield Path(made)


def main() -> None:
    """Run the parts, and write ``gpu.json`` and ``gpu.md`` after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json, gpu.md")
    parser.add_argument("--device", default="auto", help="as in a config")
    parser.add_argument("--size", choices=("full", "small"), help="small without an accelerator")
    parser.add_argument("--scratch", type=Path, help="where data and runs are written")
    given = parser.parse_args()
    if wrong := [x for x in given.parts if x not in PARTS]:
        parser.error(f"no part is called {wrong[0]}: choose from {', '.join(PARTS)}")
    size = given.size or ("small" if choose_device(given.device).is_cpu else "full")
    found: dict[str, Any] = {"seed": SEED, "size": size, "parts": {}}
    logging.getLogger("realdataexp").setLevel(logging.ERROR)
    given.out.mkdir(parents=True, exist_ok=True)
    with _scratch(given.scratch) as scratch:
        check = Check({"full": FULL, "small": TINY}[size], given.device, scratch)
        for name in given.parts or PARTS:
            part: dict[str, Any] = {"rows": [], "error": None}
            start = time.perf_counter()
            try:
                for row in getattr(check, name)():
                    part["rows"].append(row)
                    print(name, " ".join(f"{k}={_text(v)}" for k, v in row.items()), flush=True)
            except Exception:
                part["error"] = traceback.format_exc(limit=-6)
                print(name, part["error"], flush=True)
            part["seconds"] = time.perf_counter() - start
            found["parts"][name] = part
            (given.out / "gpu.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
            (given.out / "gpu.md").write_text(markdown(found), encoding="utf-8")
    sys.exit(any(part["error"] for part in found["parts"].values()))


if __name__ == "__main__":
    main()
