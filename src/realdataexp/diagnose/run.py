"""The command `diagnose`: every check of a subject, and what becomes of claims."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from realdataexp.config import Config, RunSettings, load_config
from realdataexp.config.load import read_draft
from realdataexp.data.csv_files import require_file
from realdataexp.device import own_arithmetic
from realdataexp.diagnose.claims import Claim, claims_of, judged
from realdataexp.diagnose.finding import Finding, Measured, Verdict
from realdataexp.diagnose.of_training import subject_of
from realdataexp.diagnose.subject import CannotTell, Subject
from realdataexp.diagnose.usable import usable
from realdataexp.errors import InputError
from realdataexp.files import disk_faults, write_json
from realdataexp.registry import calling, find, is_outside, names, reason
from realdataexp.report.page import write_diagnosis as write_page
from realdataexp.runs.folder import placed
from realdataexp.runs.machine import versions
from realdataexp.train.config import TrainConfig, is_train, load_train

SCHEMA_VERSION = 1
BEFORE_TRAINING = (
    "gradient_sync", "dead_parameter", "dead_input", "frozen", "mode_parity", "causality",
    "batch_invariance", "initial_loss", "initial_scale", "overfits_one_batch", "embedding_signal",
    "items_complete", "metric_reference", "text_match", "leaks", "data",
)  # fmt: skip
"""The checks that take seconds and need nothing learned."""


@own_arithmetic()
def open_subjects(
    source: str, overrides: Sequence[str] = (), data: Path | None = None
) -> tuple[list[Subject], RunSettings | None]:
    """What is to be diagnosed, and its config: of a config, of a run folder, or of a callable.

    Raises:
        InputError: there is no such training, or it cannot be made.
    """
    folder = Path(source)
    has_run = (folder / "config.yaml").is_file()
    if overrides and (has_run or is_outside(source)):
        raise InputError(f"--set: {source} is no config to change: leave it out")
    if has_run:
        return _of_folder(folder, data)
    if is_outside(source):
        made = find("subject", source, "diagnose")
        with calling(f"diagnose = {source!r}", "it", InputError):
            subject = made()
        if not isinstance(subject, Subject):
            raise InputError(
                f"diagnose = {source!r}: must return a realdataexp.diagnose.Subject, not "
                f"{type(subject).__name__}"
            )
        return [subject], None
    if is_train(source):
        training = load_train(source, overrides, data=data)
        return [subject_of(training)], training
    config = load_config(source, overrides, data=data, device="cpu")
    return _of_loop(config), config


def _of_folder(folder: Path, data: Path | None) -> tuple[list[Subject], RunSettings]:
    if is_train(folder / "config.yaml"):
        training = placed(load_train(folder / "config.yaml"), folder, data)
        return [subject_of(training, folder)], training
    config = placed(load_config(folder / "config.yaml", device="cpu"), folder, data)
    return _of_loop(config, folder), config


def _of_loop(config: Config, folder: Path | None = None) -> list[Subject]:
    from realdataexp.diagnose.of_loop import subjects_of  # which loads the loop

    return subjects_of(config, folder)


@own_arithmetic()
def diagnose(
    subjects: Subject | Sequence[Subject],
    checks: Sequence[str] = (),
    claims: Path | None = None,
    seed: int = 0,
    *,
    config: RunSettings | None = None,
    told: Callable[[Finding], object] = lambda finding: None,
) -> dict[str, Any]:
    """Run checks, all of them unless some are named; what diagnosis.json holds.

    Args:
        subjects: what is looked at.
        checks: names of checks.
        claims: a claims file; the checks it names run too.
        seed: of what checks draw.
        config: of the subjects, for the record.
        told: gets each finding as it comes.

    Raises:
        InputError: a check or a claim is unknown, or a subject cannot do what it must.
    """
    claimed = () if claims is None else _claims(claims)
    wanted = checks or ([x.check for x in claimed] if claimed else names("check"))
    wanted = list(dict.fromkeys([*wanted, *(x.check for x in claimed)]))
    run = {name: find("check", name, "--check") for name in wanted}
    asked = [subjects] if isinstance(subjects, Subject) else subjects
    found: list[Finding] = []
    for subject in [usable(x, seed) for x in asked]:
        for name, check in run.items():
            found.append(_finding(name, check, subject, seed))
            told(found[-1])
    return {
        "schema_version": SCHEMA_VERSION,
        "subjects": [x.name for x in asked],
        "seed": seed,
        "config": config and config.resolved(),
        "config_sha256": config and hashlib.sha256(config.to_yaml().encode()).hexdigest(),
        "data": [digest for x in asked if (digest := x.data)],
        "checks": [vars(x) for x in found],
        "claims": judged(claimed, found),
        "versions": versions(),
    }


def _claims(path: Path) -> tuple[Claim, ...]:
    require_file(path)
    return claims_of(read_draft(path).values, str(path))


@own_arithmetic()
def before_training(
    config: TrainConfig, told: Callable[[Finding], object] = lambda finding: None
) -> list[str]:
    """Run the checks that take seconds; the names of those that find a fault."""
    found = diagnose(subject_of(config), BEFORE_TRAINING, told=told)
    return [x["check"] for x in found["checks"] if x["verdict"] == "fault"]


def make_place(folder: Path) -> None:
    """Make a folder for the diagnosis where it is not there; InputError where it cannot be."""
    with disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_diagnosis(folder: Path, found: dict[str, Any]) -> None:
    """Write diagnosis.json and diagnosis.html in a folder."""
    write_json(folder / "diagnosis.json", found)
    write_page(folder / "diagnosis.html", found)


def _finding(
    name: str, check: Callable[[Subject, int], Measured], subject: Subject, seed: int
) -> Finding:
    start, verdict = time.perf_counter(), "cannot tell"
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        found = check(subject, seed)
        verdict = "fault" if found.is_fault else "ok"
    except CannotTell as error:
        found = Measured(False, None, None, str(error), "")
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:
        found = Measured(False, None, None, f"the check failed: {reason(error)}", "")
    finally:
        torch.random.set_rng_state(state)
    return Finding(
        name, subject.name, cast(Verdict, verdict), _finite(found.value), _finite(found.bound),
        time.perf_counter() - start, found.said, found.advice * found.is_fault,
    )  # fmt: skip


def _finite(value: float | None) -> float | None:
    """As JSON can have it."""
    return value if value is not None and math.isfinite(value) else None
