"""Components: found by name, called with care, and blamed by name.

A component is known by a registered name, or as ``package.module:Name``. Names map to modules as
strings, so that nothing is imported but what a config names; to add a component to the package,
write its file and its line here. Whatever one from outside raises, and whatever it returns that is
not what was asked for, becomes one line that names it.
"""

from __future__ import annotations

import dis
import importlib
import os
import re
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from realdataexp.errors import InputError, RunError, did_you_mean, one_line

Kind = Literal[
    "design", "weight model", "model", "loss", "policy", "world", "interval method", "estimator",
    "detector", "metric", "executor", "tracker", "recommender", "check", "subject",
    "off-policy estimator", "archive",
]  # fmt: skip

_OUTSIDE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

_REGISTERED: dict[Kind, dict[str, str]] = {
    "design": {
        "pooling": "realdataexp.designs.pooling:Pooling",
        "snapshot": "realdataexp.designs.snapshot:Snapshot",
        "splitting": "realdataexp.designs.splitting:Splitting",
        "sharing": "realdataexp.designs.sharing:Sharing",
        "weighting": "realdataexp.designs.weighting:Weighting",
        "shadow": "realdataexp.designs.shadow:Shadow",
        "oracle": "realdataexp.designs.oracle:Oracle",
        "cluster": "realdataexp.designs.cluster:Cluster",
        "switchback": "realdataexp.designs.switchback:Switchback",
        "codiverted": "realdataexp.designs.codiverted:Codiverted",
        "data_diverted": "realdataexp.designs.data_diverted:DataDiverted",
        "holdout": "realdataexp.designs.holdout:Holdout",
        "rollout": "realdataexp.designs.rollout:Rollout",
        "interleave": "realdataexp.designs.interleave:Interleave",
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
        "SASRec": "realdataexp.models.sasrec:SASRec",
        "GRU4Rec": "realdataexp.models.gru4rec:GRU4Rec",
        "Generative": "realdataexp.models.generative:Generative",
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
        "synthetic": "realdataexp.worlds.kuairand:Synthetic",
        "si2023": "realdataexp.worlds.si2023:Si2023",
        "sequences": "realdataexp.worlds.sequences:Sequences",
    },
    "interval method": {
        "welch": "realdataexp.stats.inference:welch",
        "user_cluster": "realdataexp.stats.clustered:user_cluster",
        "cuped": "realdataexp.stats.clustered:cuped",
        "block": "realdataexp.stats.blocks:block",
        "bootstrap": "realdataexp.stats.resampling:bootstrap",
        "randomisation": "realdataexp.stats.resampling:randomisation",
        "always_valid": "realdataexp.stats.clustered:always_valid",
    },
    "estimator": {
        "rollout_last": "realdataexp.stats.rollout:rollout_last",
        "rollout_linear": "realdataexp.stats.rollout:rollout_linear",
        "rollout_quadratic": "realdataexp.stats.rollout:rollout_quadratic",
        "rollout_jackknife": "realdataexp.stats.rollout:rollout_jackknife",
        "differences_in_qs": "realdataexp.stats.differences_in_qs:differences_in_qs",
        "paired": "realdataexp.stats.paired:paired",
        "paired_visit": "realdataexp.stats.paired:paired_visit",
        "aipw": "realdataexp.stats.aipw:aipw",
        "cupac": "realdataexp.stats.cupac:cupac",
    },
    "detector": {
        "retraining": "realdataexp.stats.detectors.retraining:retraining",
        "training_share": "realdataexp.stats.detectors.training_share:training_share",
        "ramp_up": "realdataexp.stats.detectors.ramp_up:ramp_up",
        "disagreement": "realdataexp.stats.detectors.disagreement:disagreement",
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
    "executor": {
        "local": "realdataexp.runs.executors.local:local",
        "ray": "realdataexp.runs.executors.ray:Ray",
        "slurm": "realdataexp.runs.executors.slurm:Slurm",
    },
    "recommender": {
        "SASRec": "realdataexp.models.sasrec:SASRec",
        "GRU4Rec": "realdataexp.models.gru4rec:GRU4Rec",
        "Popularity": "realdataexp.sequences.popularity:Popularity",
        "ItemKNN": "realdataexp.sequences.item_knn:ItemKNN",
        "Markov": "realdataexp.sequences.markov:Markov",
        "EASE": "realdataexp.sequences.ease:EASE",
        "Generative": "realdataexp.models.generative:Generative",
        "TextToText": "realdataexp.models.text_to_text:TextToText",
    },
    "check": {
        "gradient_sync": "realdataexp.diagnose.checks.gradient_sync:check",
        "dead_parameter": "realdataexp.diagnose.checks.dead_parameter:check",
        "embedding_signal": "realdataexp.diagnose.checks.embedding_signal:check",
        "items_complete": "realdataexp.diagnose.checks.items_complete:check",
        "beam_recall": "realdataexp.diagnose.checks.beam_recall:check",
        "metric_reference": "realdataexp.diagnose.checks.metric_reference:check",
        "text_match": "realdataexp.diagnose.checks.text_match:check",
        "distinct_lists": "realdataexp.diagnose.checks.distinct_lists:check",
        "counting_baseline": "realdataexp.diagnose.checks.counting_baseline:check",
        "leaks": "realdataexp.diagnose.checks.leaks:check",
        "planted_signal": "realdataexp.diagnose.checks.planted_signal:check",
        "best_is_tested": "realdataexp.diagnose.checks.best_is_tested:check",
        "data": "realdataexp.diagnose.checks.data:check",
        "dead_input": "realdataexp.diagnose.checks.dead_input:check",
        "frozen": "realdataexp.diagnose.checks.frozen:check",
        "mode_parity": "realdataexp.diagnose.checks.mode_parity:check",
        "initial_loss": "realdataexp.diagnose.checks.initial_loss:check",
        "initial_scale": "realdataexp.diagnose.checks.initial_scale:check",
        "overfits_one_batch": "realdataexp.diagnose.checks.overfits_one_batch:check",
        "causality": "realdataexp.diagnose.checks.causality:check",
        "batch_invariance": "realdataexp.diagnose.checks.batch_invariance:check",
        "learning_rate": "realdataexp.diagnose.checks.learning_rate:check",
    },
    "subject": {},
    "off-policy estimator": {
        "ips": "realdataexp.observe.ips:IPS",
        "snips": "realdataexp.observe.snips:SNIPS",
        "dr": "realdataexp.observe.dr:DR",
        "switch_dr": "realdataexp.observe.switch_dr:SwitchDR",
        "mips": "realdataexp.observe.mips:MIPS",
    },
    "archive": {
        "pure": "realdataexp.data.archives.kuairand:PURE",
        "1k": "realdataexp.data.archives.kuairand:ONE_K",
        "27k": "realdataexp.data.archives.kuairand:TWENTY_SEVEN_K",
        "kuairec": "realdataexp.data.archives.kuairec:ARCHIVE",
        "open-bandit": "realdataexp.data.archives.open_bandit:ARCHIVE",
        "movielens": "realdataexp.data.archives.movielens:SMALL",
        "movielens-25m": "realdataexp.data.archives.movielens:TWENTY_FIVE_M",
        "movielens-32m": "realdataexp.data.archives.movielens:THIRTY_TWO_M",
        "vk-lsvd": "realdataexp.data.archives.vk_lsvd:ARCHIVE",
        "yambda": "realdataexp.data.archives.yambda:ARCHIVE",
    },
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
    return f"unknown {called or kind}{did_you_mean(name, known)}; {listed}give package.module:Name"


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
    who = f"{where} = {name!r}"
    if fault := name_fault(kind, name):
        raise InputError(f"{who}: {fault}")
    module_name, _, attribute = _REGISTERED[kind].get(name, name).partition(":")
    with calling(who, "its import", InputError):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            is_itself = f"{module_name}.".startswith(f"{error.name}.")
            remedy = "its folder" if is_itself else f"the folder of {error.name}"
            raise InputError(
                f"{who}: cannot import module {module_name!r} "
                f"({reason(error).partition(': ')[2]}); install it, or put {remedy} on PYTHONPATH"
            ) from error
        if not hasattr(module, attribute):
            raise InputError(f"{who}: {module_name!r} has no {attribute!r}")
        return getattr(module, attribute)


def is_registered(kind: Kind, component: type) -> bool:
    """Whether a class is one of the registered ones itself."""
    return f"{component.__module__}:{component.__qualname__}" in _REGISTERED[kind].values()


def is_outside(name: str) -> bool:
    """Whether a component's name is an import path."""
    return ":" in name


# --- calling one ---------------------------------------------------------------------------------

_PACKAGE = f"{Path(__file__).parent}{os.sep}"
_LIBRARIES = (sysconfig.get_path("stdlib"), "site-packages", "dist-packages", "<")
_RAISE = dis.opmap["RAISE_VARARGS"]
_MAX_TEXT = 300  # characters of what a component says


class ComponentError(RunError):
    """A component from outside the package failed, or returned what it must not."""


def faults_of(error: InputError | ComponentError) -> tuple[str, ...]:
    """The lines of an error, which a set-up gathers."""
    return error.faults if isinstance(error, InputError) else (str(error),)


class Unfit(Exception):
    """What a component returned is not what was wanted; the message says both."""


@contextmanager
def calling(who: str, call: str, kind: type[Exception] = ComponentError) -> Iterator[None]:
    """Turn whatever a component from outside raises into one line.

    Args:
        who: the config path and the name of the component.
        call: what is asked of it, such as ``forward()``.
        kind: of the error to raise: InputError while a run is set up.

    Raises:
        InputError, RunError: as the component raised them, or one of ``kind``.
    """
    try:
        yield
    except (InputError, RunError):
        raise
    except Unfit as error:
        raise kind(f"{who}: {call} {error}") from error
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) and not _is_raised_by_code(error):
            raise
        if type(error).__name__ == "OutOfMemoryError":  # PyTorch's: the run says what helps
            raise
        raise kind(f"{who}: {call} raised {reason(error)}; mend it or name another") from error


def reason(error: BaseException) -> str:
    """What an error says, in a line: type, first line, and where a user's file raised it."""
    from pydantic import ValidationError  # a bare command line does without

    try:
        text = str(error.msg if isinstance(error, SyntaxError) else error)
        if isinstance(error, ValidationError):  # whose first line only counts the faults
            first = error.errors()[0]
            text = f"{error.title}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        lines = text.split("\n")
    except Exception:  # an error of one's own may fail at that too
        lines = []
    said = next((line for line in lines if line.strip()), "")
    said = one_line(said.strip())
    said = said if len(said) <= _MAX_TEXT else f"{said[: _MAX_TEXT - 3]}..."
    place = _place(error)
    return f"{type(error).__name__}{': ' if said else ''}{said}{f' ({place})' if place else ''}"


def _place(error: BaseException) -> str:
    """File and line of the user's code that raised an error; empty where none is known."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(part in frame.filename for part in (_PACKAGE, *_LIBRARIES)):
            return f"{frame.filename}:{frame.lineno}"
    return ""


def _is_raised_by_code(error: KeyboardInterrupt) -> bool:
    """Whether a ``raise`` of a component made it; else a signal did."""
    innermost = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    if innermost is None:
        return False
    code = innermost.tb_frame.f_code
    is_own = code.co_filename.startswith(_PACKAGE)  # ours raises it for a signal
    return not is_own and code.co_code[innermost.tb_lasti] == _RAISE
