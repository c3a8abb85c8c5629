"""Where each named component is: a name, or ``package.module:Name``, to a class or an object.

Names map to modules as strings, so that nothing is imported but what a config names. To add a
component to the package, write its file and its line here.
"""

from __future__ import annotations

import importlib
import re
import traceback
from typing import Any, Literal

from realdataexp.components import calling, reason
from realdataexp.errors import InputError, did_you_mean

Kind = Literal[
    "design", "weight model", "model", "loss", "policy", "world", "interval method", "metric",
    "executor", "tracker",
]  # fmt: skip

_OUTSIDE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

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
    "weight model": {
        "mlp": "realdataexp.designs.weight_models:MLPClassifier",
        "logistic": "realdataexp.designs.weight_models:LogisticClassifier",
        "random_forest": "realdataexp.designs.weight_models:RandomForest",
        "svm": "realdataexp.designs.weight_models:SVM",
        "gradient_boosting": "realdataexp.designs.weight_models:GradientBoosting",
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
    "policy": {
        "random": "realdataexp.arms:Random",
        "most_popular": "realdataexp.arms:MostPopular",
    },
    "world": {
        "KuaiRand-Pure": "realdataexp.worlds.kuairand:KuaiRand",
        "KuaiRand-1K": "realdataexp.worlds.kuairand:KuaiRand",
        "KuaiRand-27K": "realdataexp.worlds.kuairand:KuaiRand",
        "tables": "realdataexp.worlds.tables:Tables",
        "synthetic": "realdataexp.worlds.synthetic:Synthetic",
        "si2023": "realdataexp.worlds.si2023:Si2023",
    },
    "interval method": {
        "welch": "realdataexp.stats.inference:welch",
        "user_cluster": "realdataexp.stats.clustered:user_cluster",
        "cuped": "realdataexp.stats.clustered:cuped",
        "block": "realdataexp.stats.blocks:block",
        "bootstrap": "realdataexp.stats.resampling:bootstrap",
        "randomisation": "realdataexp.stats.resampling:randomisation",
        "always_valid": "realdataexp.stats.sequential:always_valid",
    },
    "metric": {
        "auc": "realdataexp.metrics:AUC",
        "accuracy": "realdataexp.metrics:ACCURACY",
        "log_loss": "realdataexp.metrics:LOG_LOSS",
        "calibration_error": "realdataexp.metrics:CALIBRATION_ERROR",
        "log_mae": "realdataexp.metrics:LOG_MAE",
        "mae": "realdataexp.metrics:MAE",
        "relative_error": "realdataexp.metrics:RELATIVE_ERROR",
        "spearman": "realdataexp.metrics:SPEARMAN",
        "picked": "realdataexp.metrics:PICKED",
        "ndcg": "realdataexp.metrics:NDCG",
    },
    "executor": {"fork": "realdataexp.runs.executors:Forked"},
    "tracker": {
        "tensorboard": "realdataexp.tracking.tensorboard:TensorBoard",
        "mlflow": "realdataexp.tracking.mlflow:MLflow",
    },
}


def names(kind: Kind) -> tuple[str, ...]:
    """The registered names of a kind of component."""
    return tuple(_REGISTERED[kind])


def name_fault(kind: Kind, name: str, *others: str, called: str = "") -> str | None:
    """What is wrong with a name: it is neither registered, one of ``others``, nor an import path.

    Whether there is anything at an import path, `find` tells.
    """
    known = (*others, *names(kind))
    if name in known or _OUTSIDE.fullmatch(name):
        return None
    listed = f"known are {', '.join(known)}, or " if known else ""
    listed += "give package.module:Name"
    return f"unknown {called or kind}{did_you_mean(name, known)}; {listed}"


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
    if fault := name_fault(kind, name):
        raise InputError(f"{where} = {name!r}: {fault}")
    module_name, _, attribute = _REGISTERED[kind].get(name, name).partition(":")
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


def is_registered(kind: Kind, component: type) -> bool:
    """Whether a class is one of the registered ones itself."""
    return f"{component.__module__}:{component.__qualname__}" in _REGISTERED[kind].values()


def is_outside(name: str) -> bool:
    """Whether a component's name is an import path."""
    return ":" in name
