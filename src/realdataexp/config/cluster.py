"""What a run asks of a cluster: Slurm's partition and resources, Ray's address."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from realdataexp.config.sections import Section, setting
from realdataexp.options import MOST, Count, Text

_Lines = Annotated[tuple[Text, ...], Field(strict=False)]


class ClusterConfig(Section):
    """What the executors slurm and ray ask for each part of a run; changes no result.

    `n_clusters` is an option of the design `cluster`, in every mode; it stands here as that design
    has the section's name.
    """

    partition: Text | None = setting(None, "Slurm's partition; null: its default")
    account: Text | None = setting(None, "Slurm's account; null: the user's default")
    gpus: Annotated[float, Field(ge=0, le=MOST)] = setting(
        0, "GPUs of a part; Ray takes fractions, Slurm whole numbers"
    )
    cpus: Count = setting(1, "CPU cores of a part")
    memory_gb: Annotated[float, Field(gt=0, le=MOST)] | None = setting(
        None, "memory of a part, in GB; null: the cluster's default"
    )
    hours: Annotated[float, Field(gt=0, le=MOST)] | None = setting(
        None, "Slurm's time limit of a job, in hours; null: the partition's"
    )
    warn_seconds: Count = setting(
        120, "how long before the time limit a part saves what it has, to go on in another job"
    )
    directives: _Lines = setting((), "further lines for sbatch, such as --constraint=a100")
    setup: _Lines = setting(
        (), "shell lines before the command, such as module load or conda activate"
    )
    retries: Annotated[int, Field(ge=0, le=MOST)] = setting(
        3, "how often a part whose process or node was lost is started again"
    )
    scripts: Text | None = setting(
        None, "folder where Slurm's script is written, not submitted; once there, it is submitted"
    )
    address: Text | None = setting(
        None, "of a Ray cluster that runs; null: RAY_ADDRESS, or one that is started here"
    )
    n_clusters: Annotated[int, Field(ge=2, le=10**6)] | None = setting(
        None, "groups of users of like taste, of the design cluster; null: that design's default"
    )

    @field_validator("directives")
    @classmethod
    def _options_of_sbatch(cls, lines: tuple[str, ...]) -> tuple[str, ...]:
        for line in lines:
            if not line.startswith("-") or "\n" in line:
                raise ValueError(f"{line!r}: must be one option of sbatch, such as --qos=high")
        return lines

    def of_design(self) -> dict[str, int]:
        """The options of the design `cluster`."""
        return {} if self.n_clusters is None else {"n_clusters": self.n_clusters}
