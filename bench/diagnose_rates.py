"""How often checks blame sound trainings, and how often they find a fault: the docs' table.

    python -m bench.diagnose_rates --out rates.jsonl --table docs/diagnose.md

makes sound trainings of other seeds, models and sizes until every check has told of 200, then
plants each fault in trainings of three sizes, and writes the table between two comments of a page.
Every answer is a line of the file, and none is asked for twice: an interrupted sweep goes on, and
after a change of a check its lines are to be deleted (of what checks share, the file).
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MethodType
from typing import Any
from unittest.mock import patch

import numpy as np
import polars as pl
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from realdataexp.diagnose.of_training import Shown, rows_of_passage, subject_of
from realdataexp.diagnose.run import diagnose
from realdataexp.diagnose.subject import Recommended, Subject
from realdataexp.errors import InputError
from realdataexp.files import write_text
from realdataexp.registry import find, names
from realdataexp.sequences.histories import Questions
from realdataexp.sequences.item_options import VectorOptions
from realdataexp.sequences.items import Items
from realdataexp.sequences.ranking import metrics, rank_all
from realdataexp.sequences.vectors import make_vectors
from realdataexp.train.config import load_train
from realdataexp.train.run import train

SIZES = {"small": (150, 80), "middle": (600, 300), "large": (2000, 1000)}
BEGIN, END = "<!-- rates: begin -->", "<!-- rates: end -->"
_RATES = {"SASRec": 0.003, "GRU4Rec": 0.01, "Generative": 0.01}
_GIVEN, _COUNTED = {"kind": "column"}, {"kind": "svd", "size": 16}
_SOUND = "sound"
_LEVEL = 0.95
_Key = tuple[str, str, int, str]


def config_of(
    model: str, size: str, seed: int, prefix: str = "items", vectors: Mapping[str, Any] = _GIVEN
) -> dict[str, Any]:
    """A sound training."""
    users, n_items = SIZES[size]
    values: dict[str, Any] = {
        "mode": "train", "seed": seed, "model": {"name": model, "width": 32},
        "dataset": {
            "name": "sequences", "synthetic": {"users": users, "items": n_items, "seed": seed}
        },
        "training": {
            "epochs": 6, "users_per_batch": users // 6, "warmup_steps": 3,
            "learning_rate": _RATES[model],
        },
        "logging": {"level": "ERROR"},
    }  # fmt: skip
    if model == "Generative":
        values["model"] |= {"n_layers": 1, "n_heads": 2, "prefix": prefix}
        coded = {k: x for k, x in vectors.items() if k != "control"}
        codes = {"n_codes": 8, "n_levels": 3, "vectors": coded}
        values["items"] = {"codes": codes, "vectors": dict(vectors)}
    return values


def made(values: Mapping[str, Any], folder: Path | None = None) -> Subject:
    """A training before its first step, or one that has ended in a folder."""
    config = load_train(values)
    if folder is not None and not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        with patch("realdataexp.train.results.write_plot"):  # half of the time
            train(config, unfinished).rename(folder)
    return subject_of(config, folder)


# --- sound trainings -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """Of sound trainings."""

    model: str
    size: str
    is_trained: bool = False
    prefix: str = "items"
    vectors: Mapping[str, Any] = field(default_factory=lambda: _COUNTED)

    @property
    def checks(self) -> list[str]:
        """Those that may not blame it: counting is better than models that know no vectors."""
        return [x for x in names("check") if x != "counting_baseline" or self.vectors is _GIVEN]


_LEARNED = (
    Kind("Generative", "small", True, "items", _GIVEN),
    Kind("Generative", "middle", True, "user", _GIVEN),
    Kind("Generative", "middle", True, "items", _GIVEN),
)
_OTHERS = (
    Kind("SASRec", "small"),
    Kind("GRU4Rec", "middle", True),
    Kind("Generative", "small", prefix="user"),
    Kind("SASRec", "middle", True),
    Kind("GRU4Rec", "small"),
    Kind("Generative", "middle"),
)


def kind_of(i: int) -> Kind:
    """Of the i-th sound training: two that every check can tell of, then one of the others."""
    turn, place = divmod(i, 3)
    return _OTHERS[turn % len(_OTHERS)] if place == 2 else _LEARNED[(2 * turn + place) % 3]


def sound(i: int, folder: Path) -> Subject:
    """The i-th sound training."""
    kind = kind_of(i)
    values = config_of(kind.model, kind.size, i, kind.prefix, kind.vectors)
    return made(values, folder / f"{_SOUND}-{i}" if kind.is_trained else None)


# --- faults --------------------------------------------------------------------------------------


def _changed(change: Callable[[Any], object]) -> Callable[[Subject], Subject]:
    """With a model that is changed once it is made."""

    def plant(subject: Subject) -> Subject:
        def model() -> nn.Module:
            model = subject.model()
            with torch.no_grad():
                change(model)
            return model

        return replace(subject, model=model)

    return plant


def _hooked(part: str, change: Callable[[nn.Module, Tensor], Tensor]) -> Any:
    """With a change of what a part of the model puts out."""
    return _changed(
        lambda model: getattr(model, part).register_forward_hook(
            lambda module, args, output: change(module, output)
        )
    )


def _encoding(encode: Callable[[Any, Tensor], Tensor]) -> Callable[[Subject], Subject]:
    """With hidden states of the encoder and its inputs."""
    return _changed(
        lambda model: setattr(
            model, "encode", MethodType(lambda self, x_BTE: encode(self.encoder, x_BTE), model)
        )
    )


def _recommending(change: Callable[[Recommended], Mapping[str, Any]]) -> Any:
    """With other parts of what it recommends."""

    def plant(subject: Subject) -> Subject:
        assert subject.recommended is not None
        changed = replace(subject.recommended, **change(subject.recommended))
        return replace(subject, recommended=changed)

    return plant


def _large(model: nn.Module) -> None:
    for p in model.parameters():
        p.mul_(5)


def _not_averaged(subject: Subject) -> Subject:
    def step(model: nn.Module, batch: Shown, rank: int, n: int) -> None:
        subject.loss(model, rows_of_passage(batch, slice(rank, None, n))).backward()

    return replace(subject, step=step)


def _without_vectors(subject: Subject) -> Subject:
    def loss(model: nn.Module, batch: Shown) -> Tensor:
        zeros = torch.zeros_like(batch.catalogue["vector"])
        return subject.loss(model, replace(batch, catalogue=batch.catalogue | {"vector": zeros}))

    return replace(subject, loss=loss)


def _other_targets(subject: Subject) -> Subject:
    def loss(model: nn.Module, batch: Shown) -> Tensor:
        x = batch.passage
        target_X = x.target_X[torch.randperm(len(x.target_X))]
        return subject.loss(model, replace(batch, passage=replace(x, target_X=target_X)))

    return replace(subject, loss=loss)


def _an_epoch_later(subject: Subject) -> Subject:
    def change(model: nn.Module) -> None:
        assert subject.optimizer is not None
        optimizer = subject.optimizer(model)
        for i, batch in enumerate(subject.batches(6)):
            torch.manual_seed(i)
            optimizer.zero_grad()
            with torch.enable_grad():
                subject.loss(model.train(), batch).backward()
            optimizer.step()

    return _changed(change)(subject)


def _added_behind(encoder: nn.Module, item_BTE: Tensor) -> Tensor:
    item_BTE, vector_BTE = item_BTE.chunk(2, -1)
    found: Tensor = encoder(item_BTE) + vector_BTE
    return found


def _same_codes(known: Recommended) -> dict[str, Any]:
    assert known.codes_VL is not None
    codes_VL = known.codes_VL.copy()
    codes_VL[3] = codes_VL[5]
    return {"codes_VL": codes_VL}


def _narrow(known: Recommended) -> dict[str, Any]:
    search: Any = known.search
    return {"search": lambda model, past_BT, k: search(model, past_BT, k, width=10)}


def _from_1(known: Recommended) -> dict[str, Any]:
    def judged(model: nn.Module, questions: Questions) -> tuple[dict[str, float], np.ndarray]:
        found = rank_all(lambda past_BT: known.scores(model, past_BT), known.split, questions, 10)
        rows = metrics(found.rank_Q + 1, [10])
        values = {f"{x['metric']}@{x['k']}" if x["k"] else x["metric"]: x["value"] for x in rows}
        return values, found.top_QK

    return {"judged": judged}


def _shortened(known: Recommended) -> dict[str, Any]:
    assert known.written is not None
    return {"written": [text.rpartition("<")[0] for text in known.written]}


def _filled_up(known: Recommended) -> dict[str, Any]:
    judge = known.judged
    assert judge is not None

    def judged(model: nn.Module, questions: Questions) -> tuple[Mapping[str, float], np.ndarray]:
        values, list_QK = judge(model, questions)
        list_QK[:, -1] = list_QK[:, 0]
        return values, list_QK

    return {"judged": judged}


def _all_pairs(known: Recommended) -> dict[str, Any]:
    h = known.split.histories
    second = np.flatnonzero(h.user_N[1:] == h.user_N[:-1]) + 1
    return {"learned": lambda: (h.item_N[second - 1], h.item_N[second])}


def _fitted_on_all(known: Recommended) -> dict[str, Any]:
    everything = replace(known.split, train_end_U=known.split.histories.offset_U1[1:])
    items = Items(known.split.histories.item_names, pl.DataFrame(), "no table")
    vector_VD = make_vectors(everything, items, VectorOptions(kind=("svd",)), 0)
    return {"vector_VD": vector_VD, "is_given": True}


def _dropped(known: Recommended) -> dict[str, Any]:
    assert known.learned is not None
    read_X, target_X = known.learned()
    n = len(read_X) * 5 // 6
    return {"learned": lambda: (read_X[:n], target_X[:n])}


@dataclass(frozen=True)
class Fault:
    """What a check is to find, in a generative recommender if the config names no other model.

    Attributes:
        check: its name.
        words: what is wrong.
        plant: makes it wrong.
        is_trained: whether it is planted in a training that has ended.
        config: of the training, what is different; SASRec is cheaper, where a check trains long.
    """

    check: str
    words: str
    plant: Callable[[Subject], Subject] = lambda subject: subject
    is_trained: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)


_SASREC = {"model": "SASRec"}
_DETACHED = _hooked("encoder", lambda _, x: x.detach())
FAULTS = (
    Fault("gradient_sync", "nobody averages the gradients", _not_averaged),
    Fault(
        "dead_parameter", "the adapter's output is detached",
        _hooked("adapter", lambda _, x: x.detach()),
    ),
    Fault("dead_parameter", "the encoder's output is detached", _DETACHED, config=_SASREC),
    Fault(
        "embedding_signal", "vectors are noise",
        config={"vectors": {**_GIVEN, "control": "noise"}},
    ),
    Fault("items_complete", "two items have the same codes", _recommending(_same_codes)),
    Fault("beam_recall", "a beam of 10", _recommending(_narrow), is_trained=True),
    Fault("metric_reference", "ranks begin at 1", _recommending(_from_1)),
    Fault("text_match", "texts lack the last code", _recommending(_shortened)),
    Fault("distinct_lists", "lists end with their first item", _recommending(_filled_up)),
    Fault(
        "counting_baseline", "the parameters of before the first step",
        lambda x: replace(x, is_trained=True),
    ),
    Fault("leaks", "held-out pairs are learned", _recommending(_all_pairs)),
    Fault(
        "leaks", "given vectors were fitted on held-out pairs too", _recommending(_fitted_on_all)
    ),
    Fault(
        "planted_signal", "the encoder puts out zeros",
        _hooked("encoder", lambda _, x: 0 * x), config=_SASREC,
    ),
    Fault(
        "best_is_tested", "the parameters of an epoch later", _an_epoch_later, is_trained=True
    ),
    Fault("data", "a sixth of an epoch is dropped", _recommending(_dropped)),
    Fault("dead_input", "vectors are zeros when they arrive", _without_vectors),
    Fault(
        "frozen", "a frozen adapter is in the optimiser",
        lambda x: replace(x, frozen=(*x.frozen, "adapter")),
    ),
    Fault(
        "mode_parity", "evaluation leaves the adapter out",
        _hooked("adapter", lambda module, x: x * module.training),
    ),
    Fault("initial_loss", "initial parameters five times as large", _changed(_large)),
    Fault(
        "initial_scale", "vectors are added behind the norm", _encoding(_added_behind),
        config={"prefix": "user"},
    ),
    Fault(
        "overfits_one_batch", "targets of other examples at each update", _other_targets,
        config=_SASREC,
    ),
    Fault("overfits_one_batch", "the encoder's output is detached", _DETACHED, config=_SASREC),
    Fault(
        "causality", "a hundredth of the next item is seen",
        _encoding(lambda encoder, x_BTE: encoder(x_BTE + 0.01 * x_BTE.roll(-1, 1))),
    ),
    Fault(
        "batch_invariance", "a tenth of the batch's mean is added",
        _encoding(lambda encoder, x_BTE: encoder(x_BTE) + 0.1 * x_BTE[:, :1].mean(0, True)),
    ),
    Fault("learning_rate", "a learning rate of 1e-4", lambda x: replace(x, learning_rate=1e-4)),
)  # fmt: skip


def faulty(fault: Fault, size: str, seed: int, folder: Path) -> Subject:
    """A training with a fault."""
    values = config_of(**{"model": "Generative", "size": size, "seed": seed, **fault.config})
    return fault.plant(made(values, folder / f"{size}-{seed}" if fault.is_trained else None))


# --- answers -------------------------------------------------------------------------------------


class Answers:
    """Lines of a file: what a check said of a subject."""

    def __init__(self, path: Path) -> None:
        """Read those that are there, but for a last one that was torn."""
        self.path, self.rows = path, dict[_Key, dict[str, Any]]()
        text = path.read_bytes() if path.exists() else b""
        if whole := text.rpartition(b"\n")[0]:
            for line in whole.splitlines():
                row = json.loads(line)
                self.rows[row["of"], row["size"], row["seed"], row["check"]] = row
        if text and not text.endswith(b"\n"):
            os.truncate(path, len(whole) + bool(whole))

    def ask(
        self, of: str, size: str, seed: int, checks: Sequence[str], make: Callable[[], Subject]
    ) -> list[dict[str, Any]]:
        """What checks say of a subject, which is made if one has not been asked."""
        asked = [x for x in checks if (of, size, seed, x) not in self.rows]
        if asked:
            said = diagnose(make(), asked, seed=seed)["checks"]
            new = [{"of": of, "size": size, "seed": seed} | x for x in said]
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(x, ensure_ascii=False) + "\n" for x in new)
            self.rows |= {(of, size, seed, x["check"]): x for x in new}
        return [self.rows[of, size, seed, x] for x in checks]

    def verdicts(self, check: str, of: str, size: str | None = None) -> Counter[str]:
        """How often a check said what."""
        return Counter(
            x["verdict"]
            for x in self.rows.values()
            if (x["check"], x["of"]) == (check, of) and size in (None, x["size"])
        )


def ask_of_sound(
    answers: Answers, n: int, folder: Path, checks: Sequence[str] | None = None
) -> None:
    """Ask each check of sound trainings until it has told of n."""
    told = dict.fromkeys(names("check") if checks is None else checks, 0)
    for i in range(3 * n):
        kind = kind_of(i)
        asked = [x for x in kind.checks if told.get(x, n) < n]
        for x in answers.ask(_SOUND, kind.size, i, asked, partial(sound, i, folder)):
            told[x["check"]] += x["verdict"] != "cannot tell"
        if min(told.values()) >= n:
            return


def ask_of_faulty(answers: Answers, n: int, folder: Path, faults: Sequence[Fault] = FAULTS) -> None:
    """Ask the check of each fault of n trainings of each size that have it."""
    for size in SIZES:
        for seed in range(n):
            for fault in faults:
                make = partial(faulty, fault, size, seed, folder)
                answers.ask(fault.words, size, seed, [fault.check], make)


# --- the table -----------------------------------------------------------------------------------


def table(answers: Answers) -> str:
    """A row for each check, and for each further fault of a check."""
    columns = ["check", "whether", "false alarms", "planted fault", *(f"found: {x}" for x in SIZES)]
    lines = [columns, ["---"] * len(columns)]
    for check in names("check"):
        head = [f"`{check}`", _whether(check), _alarms(answers.verdicts(check, _SOUND))]
        for fault in [x for x in FAULTS if x.check == check]:
            found = [_found(answers.verdicts(check, fault.words, size)) for size in SIZES]
            lines.append([*head, fault.words, *found])
            head = [""] * len(head)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _alarms(verdicts: Counter[str]) -> str:
    k, n = verdicts["fault"], verdicts["fault"] + verdicts["ok"]
    if not n:
        return "none asked"
    limit = binomtest(k, n, alternative="less").proportion_ci(_LEVEL).high
    return f"{k} of {n} (≤ {limit:.1%})".replace("%", " %")


def _found(verdicts: Counter[str]) -> str:
    k, n = verdicts["fault"], verdicts.total()
    if not n:
        return "none asked"
    if verdicts["cannot tell"] == n:
        return "cannot tell"
    limit = binomtest(k, n, alternative="greater").proportion_ci(_LEVEL).low
    told = f", {verdicts['cannot tell']} cannot tell" if verdicts["cannot tell"] else ""
    return f"{k} of {n}{told} (≥ {limit:.0%})".replace("%", " %")


def _whether(check: str) -> str:
    """The first sentence of a check's docstring, without its first word."""
    doc = importlib.import_module(find("check", check, "").__module__).__doc__ or ""
    line = " ".join(doc.split("\n\n")[0].split())
    return line.removeprefix("Whether ").removesuffix(".")


def write_table(page: Path, answers: Answers) -> None:
    """Put the table between a page's two comments.

    Raises:
        InputError: the page lacks them.
    """
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or END not in text.partition(BEGIN)[2]:
        raise InputError(f"{page}: needs the lines {BEGIN} and {END}, where the table is to stand")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    write_text(page, f"{before}{BEGIN}\n{table(answers)}{END}{after}", "choose another --table")


def main(words: Sequence[str] | None = None) -> None:
    """The sweep, or what is left of it; and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="answers, a line each; added to")
    parser.add_argument("--table", type=Path, help="write the table into this page")
    parser.add_argument("--sound", type=int, default=200, help="sound trainings for each check")
    parser.add_argument("--faulty", type=int, default=10, help="trainings for each fault and size")
    parser.add_argument("--runs", type=Path, help="keep run folders here, and reuse them")
    args = parser.parse_args(words)
    answers = Answers(args.out)
    with tempfile.TemporaryDirectory() as folder:
        runs = args.runs or Path(folder)
        ask_of_sound(answers, args.sound, runs)
        ask_of_faulty(answers, args.faulty, runs)
    print(f"{sum(os.times()[:4]):.0f} s of a processor's time", file=sys.stderr)
    if args.table is None:
        print(table(answers), end="")
    else:
        write_table(args.table, answers)


if __name__ == "__main__":
    main()
