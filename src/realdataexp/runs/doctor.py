"""What `realdataexp doctor` finds: what this machine offers, and what would go wrong in a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from realdataexp.config import load_config
from realdataexp.errors import InputError
from realdataexp.runs.doctor_config import check_config
from realdataexp.runs.doctor_machine import check_machine
from realdataexp.runs.findings import Finding, stops

_CONFIG_FOR_DATA = "kuairand-pure"  # as of prepare


def examine(
    source: str | None = None, data: Path | None = None, overrides: Sequence[str] = ()
) -> list[Finding]:
    """Everything that can be said of the machine and, with a config or data, of a run with them.

    Nothing is imported and no network is trained: that is what `validate` and `run` do.

    Args:
        source: a YAML file or the name of a built-in config.
        overrides: changes of the config, ``key.sub=value`` each.
        data: folder of a data set; without a config `kuairand-pure` says what is needed of it.
    """
    if source is None and data is None:
        return check_machine(None)
    try:
        config = load_config(source or _CONFIG_FOR_DATA, overrides, data=data)
    except InputError as error:
        return [*check_machine(None), *stops("config", error)]
    return [*check_machine(config), *check_config(config)]
