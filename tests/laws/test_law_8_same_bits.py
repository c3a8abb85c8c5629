"""Law 8: config, data and seed decide a result, to the bit.

Neither the number of threads or processes nor what the program did before, nor how it set PyTorch
and NumPy up, changes a table.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import ensemble
from support import assert_same_answer
from threadpoolctl import threadpool_limits
from torch import nn

from realdataexp.api import run
from realdataexp.device import own_arithmetic
from realdataexp.models import FeatureSchema
from realdataexp.runs import results

Settings = Callable[..., dict[str, Any]]

N_PROCESSES = (1, 2, 3) if sys.platform == "linux" else (1,)
LABELS = [
    {
        "name": "play_time", "target": "play_time_ms", "type": "numerical", "loss_function": "MSE",
        "model_params": {"hidden_layers": [64, 16], "dropout": 0.1, "embedding_dim": 8},
        "alpha_T": 1.0, "alpha_C": 0.0,
    },
    {
        "name": "click", "target": "is_click", "type": "binary", "loss_function": "BCE",
        "model": f"{__name__}:ManyNumbers", "alpha_T": 0.0, "alpha_C": 1.0,
    },
]  # fmt: skip
DESIGNS = [
    "shadow", {"name": "cluster", "n_clusters": 8},
    {"name": "weighting", "model": "gradient_boosting", "refit_every": 2},
]  # fmt: skip


class ManyNumbers(nn.Module):
    """A linear model times the mean of so many numbers that PyTorch's threads share the sum."""

    def __init__(self, schema: FeatureSchema, n_outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(schema.user.n_numerical + schema.video.n_numerical, n_outputs)
        self.numbers = nn.Parameter(torch.rand(40_000))

    def forward(self, num_ND: torch.Tensor, cat_NK: torch.Tensor) -> torch.Tensor:
        return self.linear(num_ND) * self.numbers.mean()


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    """No plots and pages, which are made from the tables; and a fifth of scikit-learn's trees."""
    few = partial(ensemble.HistGradientBoostingClassifier, max_iter=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "HistGradientBoostingClassifier", few)
        for name in ("write_plot", "write_report"):
            patch.setattr(results, name, lambda folder: None)
        yield


@contextmanager
def threads(n: int) -> Iterator[None]:
    """While this is open, PyTorch, OpenMP and BLAS have so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        with threadpool_limits(n):
            yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder_of(
    small_settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], Path]:
    """Runs the experiment over so many processes; returns a new folder."""

    def make(n_processes: int) -> Path:
        settings = small_settings(
            labels=LABELS,
            pretrain={"batch_size": 128},
            simulation={"batch_size": 48, "n_steps": 4, "processes": n_processes},
            experiment={"replications": 6, "designs": DESIGNS},
        )
        return run(settings, out=tmp_path_factory.mktemp("run") / "r").folder

    return make


@pytest.fixture(scope="module")
def alone(folder_of: Callable[[int], Path]) -> Path:
    """The run in one process with one thread."""
    with threads(1):
        return folder_of(1)


@pytest.mark.parametrize("n_processes", N_PROCESSES)
@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_a_result_does_not_depend_on_threads_or_processes(
    n_threads: int, n_processes: int, folder_of: Callable[[int], Path], alone: Path
):
    with threads(n_threads):
        assert_same_answer(folder_of(n_processes), alone)
        assert torch.get_num_threads() == n_threads


@contextmanager
def setting(get: Callable[[], Any], put: Callable[[Any], object], value: Any) -> Iterator[None]:
    """While this is open, the program has set something; a run must leave it as it was."""
    before = get()
    put(value)
    try:
        yield
        assert get() == value
    finally:
        put(before)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    torch.set_flush_denormal(True)
    try:
        yield
        assert float(torch.tensor(1e-310, dtype=torch.float64) * 1.0) == 0.0
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def draws_taken() -> Iterator[None]:
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    yield


@contextmanager
def other_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
        assert torch.empty(1).device.type == "meta"
    finally:
        torch.set_default_device(None)


def default_dtype() -> AbstractContextManager[None]:
    return setting(torch.get_default_dtype, torch.set_default_dtype, torch.float64)


def low_precision() -> AbstractContextManager[None]:
    get, put = torch.get_float32_matmul_precision, torch.set_float32_matmul_precision
    return setting(get, put, "medium")


BEFORE: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "another default type": default_dtype,
    "products in low precision": low_precision,
    "random numbers drawn": draws_taken,
    "another default device": other_device,
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "mixed precision": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE)
def test_a_result_does_not_depend_on_what_the_program_did_before(
    before: Callable[[], AbstractContextManager[Any]],
    folder_of: Callable[[int], Path],
    alone: Path,
):
    with before():
        assert_same_answer(folder_of(1), alone)


def test_what_the_program_set_is_so_again_after_a_fault():
    small, numpy_default = torch.tensor(1e-310, dtype=torch.float64), np.geterr()
    with (
        threads(2), default_dtype(), low_precision(), denormals_flushed(), other_device(),
        np.errstate(all="raise"), pytest.raises(ZeroDivisionError), own_arithmetic(),
    ):  # fmt: skip
        assert (torch.get_num_threads(), torch.get_default_dtype()) == (1, torch.float32)
        assert torch.empty(1).device.type == "cpu"
        assert float(small * 1.0) > 0.0
        assert np.geterr() == numpy_default
        raise ZeroDivisionError
