"""What would go wrong in a run of a config, as far as can be told before its data are imported."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence

import torch

from realdataexp.config import NO_MODEL, Config, LabelConfig
from realdataexp.data import schema
from realdataexp.data.integrity import check_shards
from realdataexp.data.kuairand import Files, find_files
from realdataexp.data.tables import TablesRequest
from realdataexp.device import Device, available_devices, choose_device
from realdataexp.errors import InputError
from realdataexp.runs.checks import data_faults
from realdataexp.runs.doctor_machine import installed
from realdataexp.runs.findings import Finding, ok, size, stop, stops, warning
from realdataexp.runs.machine import free_memory
from realdataexp.runs.memory_need import largest_setting, memory_need

_SKLEARN = ("random_forest", "svm", "gradient_boosting")
# about how far predictions scatter: a time in milliseconds, a probability
_RAW_TIME, _RAW_OTHER = 1e4, 0.3
_RULES_FROM = 30.0  # times the next label's spread
_TIGHT = 0.7
_DATA_REMEDY = "give the folder of a whole data set, or fetch one with realdataexp download"


def check_config(config: Config) -> list[Finding]:
    """All that can be said of a run before its data are imported."""
    return [
        *check_data(config),
        *check_alphas(config),
        *check_needed_packages(config),
        check_need(config),
    ]


def check_data(config: Config) -> Iterator[Finding]:
    """Whether the data set's files are there, whole, and with the columns that are asked for."""
    faults = data_faults(config)
    if faults:
        yield from stops("data", InputError(*faults), _DATA_REMEDY)
        return
    path = config.data_dir()
    if path is None or config.dataset.synthetic is not None:
        yield ok("data", "made by realdataexp: no files needed")
        return
    if config.dataset.tables is not None:
        own = TablesRequest.of(config)
        files = [file for _, file in own.logs().values()]
        files += [file for file, _ in own.sides.values()]
        names = [*own.logs(), *(name for name in (own.tables.videos, own.tables.users) if name)]
        yield ok("data", f"{path}: found {', '.join(names)}")
    else:
        shards = _kuairand(config)
        try:
            check_shards(shards.shards, shards.version)
        except InputError as error:
            yield from stops("data", error, _DATA_REMEDY)
            return
        files = [file for part in shards.shards.values() for file in part]
        missing = [stem for stem in schema.STEMS if stem not in shards.shards]
        not_needed = f"; not asked for: {', '.join(missing)}" if missing else ""
        found = f"found {', '.join(file.name for file in files)}"
        yield ok("data", f"{path}: KuaiRand {shards.version}, {found}{not_needed}")
    yield from _check_import(config, sum(file.stat().st_size for file in files))


def _kuairand(config: Config) -> Files:
    path = config.data_dir()
    assert config.feature is not None and path is not None  # data_faults sees to it
    names = (*config.feature.numerical, *config.feature.categorical)
    stems = {schema.resolve_feature(name).file for name in names}
    return find_files(path, config.dataset.logs, schema.VIDEO_STATISTIC in stems)


def _check_import(config: Config, n_bytes: int) -> Iterator[Finding]:
    """An import writes at most about what it reads."""
    cache = config.cache_dir().absolute()
    there = next(p for p in (cache, *cache.parents) if p.exists())
    free = shutil.disk_usage(there).free
    if free < n_bytes:
        text = f"the files take {size(n_bytes)}; {cache} has {size(free)} free for their import"
        yield warning("data", text, "free some, or set dataset.cache_path elsewhere")


def check_alphas(config: Config) -> Iterator[Finding]:
    """Whether the arms can rank differently, and every label's alphas do something."""
    learned = [label for label in config.labels if label.model != NO_MODEL]
    yield _compare_arms(learned, config.experiment.aa)
    for label in config.labels:
        if label.model == NO_MODEL and (label.alpha_T, label.alpha_C) != (1.0, 1.0):
            text = f"{label.name} has no model, so its alphas have no effect"
            yield warning("alphas", text, "leave them out, or give it a model")
    for arm in ("T", "C") if any(label.score_unit == "raw" for label in learned) else ():
        ruling = ruling_label(learned, arm)
        if ruling is not None:
            text = f"arm {arm}: {ruling.name} is likely to rule the score, in raw units"
            remedy = "set score_unit: standard, or smaller alphas for it"
            yield warning("score_unit", text, remedy)


def _compare_arms(learned: Sequence[LabelConfig], is_aa: bool) -> Finding:
    alpha_TL, alpha_CL = ([getattr(x, f"alpha_{arm}") for x in learned] for arm in "TC")
    for arm, alphas in (("T", alpha_TL), ("C", alpha_CL)):
        if not any(alphas) and not (is_aa and arm == "C"):
            text = f"arm {arm}: every alpha is 0, so all candidates tie and the first is shown"
            return warning("alphas", text, f"give a label an alpha_{arm} other than 0")
    if is_aa:
        return ok("alphas", "an A/A test: both arms rank with alpha_T")
    if alpha_TL == alpha_CL:
        text = "equal in both arms: they rank alike, and every effect is 0"
        return warning("alphas", text, "change an alpha_T or alpha_C, or set experiment.aa: true")
    t, c = next((t, c) for t, c in zip(alpha_TL, alpha_CL, strict=True) if t or c)
    is_multiple = all(x * c == y * t for x, y in zip(alpha_TL, alpha_CL, strict=True))
    if is_multiple and t * c > 0:
        text = f"those of T are {t / c:g} times those of C: both arms rank alike"
        return warning("alphas", text, "change the alphas' proportions")
    return ok("alphas", "the arms can rank differently")


def ruling_label(learned: Sequence[LabelConfig], arm: str) -> LabelConfig | None:
    """The label that alone decides an arm's ranking, judged by about how far its term scatters.

    A standardised prediction scatters by less than 1, a raw time in milliseconds by about 10,000,
    another raw number or probability by about 0.3; a label rules with 30 times the next one's.
    """
    spreads = sorted(
        ((abs(getattr(x, f"alpha_{arm}")) * _spread(x), x) for x in learned),
        key=lambda pair: pair[0],
        reverse=True,
    )
    if len(spreads) < 2 or spreads[1][0] == 0 or spreads[0][0] < _RULES_FROM * spreads[1][0]:
        return None
    return spreads[0][1]


def _spread(label: LabelConfig) -> float:
    if label.score_unit == "standard":
        return 1.0
    high = schema.LABEL_COLUMNS.get(label.target, (0.0, 0.0))[1]
    return _RAW_TIME if math.isinf(high) or label.target.endswith("_ms") else _RAW_OTHER


def check_needed_packages(config: Config) -> Iterator[Finding]:
    """Optional packages that the config's designs cannot do without."""
    for design in config.designs():
        needs = design.name == "cluster" or design.options.get("model") in _SKLEARN
        if needs and installed("scikit-learn") is None:
            text = f"design {design.label} needs scikit-learn, which is not installed"
            yield stop("packages", text, "pip install 'realdataexp[sklearn]'")


def check_need(config: Config) -> Finding:
    """Whether the run's memory fits, by the estimate of `memory_need`."""
    kind = config.device if config.device in available_devices() else "auto"
    device = choose_device(kind)  # check_devices tells where the one that is asked for is missing
    try:
        need = memory_need(config, device)
    except InputError as error:
        return stops("memory need", error)[0]
    except (Exception, SystemExit) as error:  # a model from outside, which only a run can judge
        text = f"not known: {type(error).__name__}: {' '.join(str(error).split())}"
        return warning("memory need", text, "see what the run says: timing.peak_memory_mb")
    text = f"about {size(need.host)} for {need.networks:,} networks of {need.parameters:,} numbers"
    tight: list[tuple[int, float, str]] = [(need.host, free_memory(), "memory")]
    if need.device:
        text += f", {size(need.device)} of them on {device.torch.type}"
        tight.append((need.device, device_free(device), "device memory"))
    key, value = largest_setting(config)
    remedy = f"lower {key}, which is {value:,}, or the number of designs"
    for wanted, free, what in tight:
        if wanted > free:
            return stop("memory need", f"{text}; {size(free)} of {what} are free", remedy)
        if wanted > _TIGHT * free:
            return warning("memory need", f"{text}; {size(free)} of {what} are free", remedy)
    return ok("memory need", text)


def device_free(device: Device) -> float:
    """Bytes that an accelerator has left; infinite where PyTorch does not tell."""
    ask = getattr(getattr(torch, device.torch.type, None), "mem_get_info", None)
    return math.inf if ask is None else float(ask()[0])
