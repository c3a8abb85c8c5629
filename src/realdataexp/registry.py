"""Where each named component is: a name, or ``package.module:Name``, to a class or an object.

Names map to modules as strings, so that nothing is imported but what a config names. To add a
component to the package, write its file and its line here.
"""

from __future__ import annotations

import difflib
import importlib
import traceback
from typing import Any, Literal

from realdataexp.components import calling, reason
from realdataexp.errors import InputError

Kind = Literal["design", "model", "loss", "world", "interval", "tracker"]

_REGISTERED: dict[Kind, dict[str, str]] = {
    "design": {
        "pooling": "realdataexp.designs.pooling:Pooling",
        "snapshot": "realdataexp.designs.snapshot:Snapshot",
        "splitting": "realdataexp.designs.splitting:Splitting",
        "weighting": "realdataexp.designs.weighting:Weighting",
        "shadow": "realdataexp.designs.shadow:Shadow",
        "oracle": "realdataexp.designs.oracle:Oracle",
        "cluster": "realdataexp.designs.cluster:Cluster",
        "switchback": "realdataexp.designs.switchback:Switchback",
        "codiverted": "realdataexp.designs.codiverted:Codiverted",
        "data_diverted": "realdataexp.designs.data_diverted:DataDiverted",
    },
    "model": {
        "MLP": "realdataexp.models.mlp:MLP",
        "Linear": "realdataexp.models.linear:Linear",
        "WideDeep": "realdataexp.models.wide_deep:WideDeep",
        "DCNv2": "realdataexp.models.dcn_v2:DCNv2",
        "DLRM": "realdataexp.models.dlrm:DLRM",
        "MMoE": "realdataexp.models.mmoe:MMoE",
    },
    "loss": {
        "logMAE": "realdataexp.models.losses:LOG_MAE",
        "logMSE": "realdataexp.models.losses:LOG_MSE",
        "MSE": "realdataexp.models.losses:MSE",
        "MAE": "realdataexp.models.losses:MAE",
        "BCE": "realdataexp.models.losses:BCE",
        "CE": "realdataexp.models.losses:CE",
    },
    "world": {
        "KuaiRand-Pure": "realdataexp.worlds.replay:ReplayEnvironment",
        "KuaiRand-1K": "realdataexp.worlds.replay:ReplayEnvironment",
        "KuaiRand-27K": "realdataexp.worlds.replay:ReplayEnvironment",
        "tables": "realdataexp.worlds.replay:ReplayEnvironment",
        "synthetic": "realdataexp.worlds.replay:ReplayEnvironment",
        "si2023": "realdataexp.worlds.si2023:Si2023Environment",
    },
    "interval": {
        "welch": "realdataexp.stats.inference:welch",
        "user_cluster": "realdataexp.stats.clustered:user_cluster",
        "cuped": "realdataexp.stats.clustered:cuped",
        "block": "realdataexp.stats.blocks:block",
        "bootstrap": "realdataexp.stats.resampling:bootstrap",
        "randomisation": "realdataexp.stats.resampling:randomisation",
        "always_valid": "realdataexp.stats.sequential:always_valid",
    },
    "tracker": {
        "tensorboard": "realdataexp.tracking.tensorboard:TensorBoard",
        "mlflow": "realdataexp.tracking.mlflow:MLflow",
    },
}


def names(kind: Kind) -> tuple[str, ...]:
    """The registered names of a kind of component."""
    return tuple(_REGISTERED[kind])


def find(kind: Kind, name: str, where: str) -> Any:
    """The component called ``name``, or what ``package.module:Name`` names.

    Args:
        kind: what it is.
        name: a registered name, or an import path.
        where: the config path that names it.

    Raises:
        InputError: there is no such component, module or attribute, or the module cannot be
            imported.
    """
    module_name, colon, attribute = _REGISTERED[kind].get(name, name).partition(":")
    if not colon:
        near = difflib.get_close_matches(name, names(kind), n=1, cutoff=0.0)
        raise InputError(
            f"{where} = {name!r}: unknown; use one of {', '.join(names(kind))} "
            f"(nearest: {near[0]}), or package.module:Name"
        )
    if not (module_name and attribute) or module_name.startswith("."):
        raise InputError(f"{where} = {name!r}: is no import path; write package.module:Name")
    with calling(f"{where} = {name!r}", "its import", InputError):
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except ModuleNotFoundError as error:
            is_itself = f"{module_name}.".startswith(f"{error.name}.")
            remedy = "its folder" if is_itself else f"the folder of {error.name}"
            raise InputError(
                f"{where} = {name!r}: cannot import module {module_name!r} "
                f"({reason(error).partition(': ')[2]}); install it, or put {remedy} on PYTHONPATH"
            ) from error
        except AttributeError as error:
            if traceback.extract_tb(error.__traceback__)[-1].filename != __file__:
                raise  # raised in the module, not by the look-up in it
            raise InputError(f"{where} = {name!r}: {module_name!r} has no {attribute!r}") from error


def is_outside(name: str) -> bool:
    """Whether a component's name is an import path."""
    return ":" in name
