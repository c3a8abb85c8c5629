"""The command `diagnose`: every check of a subject, and what becomes of claims."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from realdataexp.config.load import read_draft
from realdataexp.device import own_arithmetic
from realdataexp.diagnose.claims import claims_of, judged
from realdataexp.diagnose.finding import Finding, Measured
from realdataexp.diagnose.of_training import subject_of
from realdataexp.diagnose.subject import CannotTell, Subject
from realdataexp.diagnose.usable import usable
from realdataexp.errors import InputError
from realdataexp.files import disk_faults, write_json
from realdataexp.registry import calling, find, is_outside, names, reason
from realdataexp.runs.folder import placed
from realdataexp.runs.machine import versions
from realdataexp.train.config import load_train

SCHEMA_VERSION = 1


def open_subject(
    source: str, overrides: Sequence[str] = (), data: Path | None = None
) -> tuple[Subject, dict[str, Any]]:
    """What is to be diagnosed, and its config: of a config, of a run folder, or of a callable.

    Raises:
        InputError: there is no such training, or it cannot be made.
    """
    folder = Path(source)
    if (folder / "config.yaml").is_file():
        config = placed(load_train(folder / "config.yaml"), folder, data)
        return subject_of(config, folder), config.resolved()
    if is_outside(source):
        made = find("subject", source, "diagnose")
        with calling(f"diagnose = {source!r}", "it", InputError):
            subject = made()
        if not isinstance(subject, Subject):
            raise InputError(f"diagnose = {source!r}: must return a realdataexp.diagnose.Subject")
        return subject, {}
    config = load_train(source, overrides, data=data)
    return subject_of(config), config.resolved()


@own_arithmetic()
def diagnose(
    subject: Subject,
    checks: Sequence[str] = (),
    claims: Path | None = None,
    seed: int = 0,
    *,
    config: dict[str, Any] | None = None,
    told: Callable[[Finding], object] = lambda finding: None,
) -> dict[str, Any]:
    """Run checks, all of them unless some are named; what diagnosis.json holds.

    Args:
        subject: what is looked at.
        checks: names of checks.
        claims: a claims file; the checks it names run too.
        seed: of what checks draw.
        config: of the subject, for the record.
        told: gets each finding as it comes.

    Raises:
        InputError: a check or a claim is unknown, or the subject cannot do what it must.
    """
    claimed = () if claims is None else claims_of(read_draft(claims).values, str(claims))
    wanted = checks or ([x.check for x in claimed] if claimed else names("check"))
    wanted = list(dict.fromkeys([*wanted, *(x.check for x in claimed)]))
    run = {name: find("check", name, "--check") for name in wanted}
    subject = usable(subject, seed)
    findings = {}
    for name, check in run.items():
        findings[name] = _finding(name, check, subject, seed)
        told(findings[name])
    return {
        "schema_version": SCHEMA_VERSION,
        "subject": subject.name,
        "seed": seed,
        "config": config,
        "checks": [vars(x) for x in findings.values()],
        "claims": judged(claimed, findings),
        "versions": versions(),
    }


def write_diagnosis(folder: Path, found: dict[str, Any]) -> None:
    """Write diagnosis.json in a folder, which is made where it is not there."""
    with disk_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "diagnosis.json", found)


def _finding(
    name: str, check: Callable[[Subject, int], Measured], subject: Subject, seed: int
) -> Finding:
    start = time.perf_counter()
    state = torch.random.get_rng_state()
    try:
        torch.manual_seed(seed)
        found = check(subject, seed)
        verdict = "fault" if found.is_fault else "ok"
        told = found.value, found.bound, found.said, found.advice * found.is_fault
    except CannotTell as error:
        verdict, told = "cannot tell", (None, None, str(error), "")
    except (InputError, KeyboardInterrupt):
        raise
    except Exception as error:
        verdict, told = "cannot tell", (None, None, f"the check failed: {reason(error)}", "")
    finally:
        torch.random.set_rng_state(state)
    value, bound, said, advice = told
    return Finding(name, verdict, value, bound, time.perf_counter() - start, said, advice)  # type: ignore[arg-type]
