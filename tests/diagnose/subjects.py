"""Small subjects: trainings without a fault, and what plants one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from realdataexp.diagnose.finding import Finding
from realdataexp.diagnose.of_training import subject_of
from realdataexp.diagnose.run import diagnose
from realdataexp.diagnose.subject import Subject
from realdataexp.train.config import load_train
from realdataexp.train.run import train

CONFIG: dict[str, Any] = {
    "mode": "train",
    "seed": 0,
    "dataset": {"name": "sequences", "synthetic": {"users": 150, "items": 80, "clusters": 5}},
    "items": {
        "codes": {"n_codes": 8, "n_levels": 2, "vectors": {"kind": "svd", "size": 8}},
        "vectors": {"kind": "svd", "size": 8},
    },
    "model": {
        "name": "Generative", "width": 16, "n_layers": 1, "n_heads": 2, "longest": 8,
        "prefix": "items",
    },
    "training": {"epochs": 3, "users_per_batch": 40, "learning_rate": 0.003, "warmup_steps": 3},
}  # fmt: skip

LEARNED: dict[str, Any] = {
    "dataset": {"name": "sequences", "synthetic": {"users": 600, "items": 300}},
    "items": {
        "codes": {"n_codes": 8, "n_levels": 3, "vectors": {"kind": "svd", "size": 32}},
        "vectors": {"kind": "svd", "size": 32},
    },
    "model": {
        "name": "Generative", "width": 32, "n_layers": 1, "n_heads": 2, "prefix": "items",
    },
    "training": {"epochs": 12, "users_per_batch": 60, "learning_rate": 0.005, "warmup_steps": 3},
}  # fmt: skip


def config_of(**changes: Any) -> Any:
    """The small training, with other sections."""
    return load_train({**CONFIG, **changes})


def small_subject(**changes: Any) -> Subject:
    """The small training before its first step; with other sections of the config."""
    return subject_of(config_of(**changes))


def planted(subject: Subject, **parts: Any) -> Subject:
    """A subject with other parts."""
    return replace(subject, **parts)


def found(check: str, subject: Subject, seed: int = 0) -> Finding:
    """What a check says of a subject."""
    (said,) = diagnose(subject, [check], seed=seed)["checks"]
    return Finding(**said)


def trained_subject(folder: Path, **changes: Any) -> Subject:
    """The small training after its end, with what it left in a folder."""
    return subject_of(config := config_of(**changes), train(config, folder / "run"))


def with_recommended(subject: Subject, **parts: Any) -> Subject:
    """A subject whose recommender has other parts."""
    assert subject.recommended is not None
    return replace(subject, recommended=replace(subject.recommended, **parts))
