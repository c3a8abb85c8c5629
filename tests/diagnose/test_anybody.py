"""Trainings that have nothing to do with this package; and what is no training."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from diagnose import outside
from torch import Tensor, nn

from realdataexp import cli
from realdataexp.diagnose.run import diagnose
from realdataexp.diagnose.subject import changes_of, rows_of, tensors_of
from realdataexp.diagnose.usable import usable

Say = pytest.CaptureFixture[str]


def checks(capsys: Say, *words: str) -> dict[str, dict[str, object]]:
    code = cli.main(["diagnose", *words, "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    return {x["check"]: x for x in json.loads(said.out)["checks"]}


def assert_refused(capsys: Say, said: list[str], *words: str) -> None:
    code = cli.main(["diagnose", *words])
    lines = capsys.readouterr().err.splitlines()
    assert (code, len(lines)) == (2, 1), lines
    assert [text for text in said if text not in lines[0]] == [], lines[0]


def test_every_check_looks_at_a_plain_network(capsys: Say) -> None:
    found = checks(capsys, "diagnose.outside:mlp")
    assert [x for x in found.values() if x["verdict"] == "fault"] == []
    assert [x["said"] for x in found.values() if "the check failed" in str(x["said"])] == []
    assert found["dead_parameter"]["verdict"] == found["gradient_sync"]["verdict"] == "ok"


def test_every_check_looks_at_a_t5_of_transformers(capsys: Say) -> None:
    pytest.importorskip("transformers", reason="transformers is an extra")
    found = checks(capsys, "diagnose.outside:t5")
    assert [x for x in found.values() if x["verdict"] == "fault"] == []
    assert [x["said"] for x in found.values() if "the check failed" in str(x["said"])] == []
    assert found["dead_parameter"]["verdict"] == "ok"


@pytest.fixture
def cornac(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The adapter that docs/diagnose.md shows."""
    pytest.importorskip("cornac", reason="cornac is an extra")
    page = (Path(__file__).parents[2] / "docs" / "diagnose.md").read_text()
    (code,) = re.findall(r"```python\n(# cornac_sasrec\.py\n.*?)```", page, re.DOTALL)
    (tmp_path / "cornac_sasrec.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "cornac_sasrec", raising=False)
    return importlib.import_module("cornac_sasrec")


def test_a_sound_recommender_of_another_library_is_blamed_for_nothing(
    cornac: ModuleType, capsys: Say
) -> None:
    found = checks(capsys, "cornac_sasrec:subject")
    assert [x for x in found.values() if x["verdict"] == "fault"] == []
    assert {k for k, x in found.items() if x["verdict"] == "ok"} == {
        "dead_parameter", "leaks", "dead_input", "mode_parity", "initial_loss",
        "overfits_one_batch", "batch_invariance", "learning_rate",
    }  # fmt: skip
    assert "no mean over examples" in str(found["gradient_sync"]["said"])


def detached(model: Any) -> nn.Module:
    model.item_emb.register_forward_hook(lambda module, read, vector_BTD: vector_BTD.detach())
    return model


def of_batch(model: Any) -> nn.Module:
    """Normalised by the whole batch, in evaluation too."""
    model.last_layernorm = nn.BatchNorm1d(20, track_running_stats=False)
    return model


def unread(model: Any) -> nn.Module:
    model.register_forward_pre_hook(lambda module, read: (None, torch.ones_like(read[1]), read[2]))
    return model


@pytest.mark.parametrize(
    ("plant", "check", "said"),
    [
        (detached, "dead_parameter", "item_emb.weight"),
        (unread, "dead_input", "past: dead"),
        (of_batch, "batch_invariance", "differ from those together"),
    ],
)
def test_a_fault_in_it_is_found(
    cornac: ModuleType, plant: Callable[[Any], nn.Module], check: str, said: str
) -> None:
    sound = cornac.subject()
    faulty = replace(sound, model=lambda: plant(sound.model()))
    (found,) = diagnose(faulty, [check])["checks"]
    assert found["verdict"] == "fault" and said in found["said"], found


@pytest.mark.parametrize("name", outside.FAULTY)
def test_what_cannot_be_learned_from_is_one_line(name: str, capsys: Say) -> None:
    assert_refused(capsys, outside.FAULTY[name][1], f"diagnose.outside:{name}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one_model", "the same module twice: return a new one"),
        ("two_models", "two calls of model differ in bias"),
        ("no_subject", "must return a realdataexp.diagnose.Subject, not str"),
        ("impossible", "raised FileNotFoundError: weights.pt"),
        ("absent", "has no 'absent'"),
        ("", "unknown subject"),
    ],
)
def test_what_makes_no_subject_is_one_line(name: str, said: str, capsys: Say) -> None:
    assert_refused(capsys, [said], f"diagnose.outside:{name}")


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ("[{claim: it learns, check: dead_parametr, value: ok}]", "did you mean dead_parameter?"),
        ("[{claim: it learns, check: dead_parameter}]", "claims.0.value: missing"),
        ("[{claim: it learns, check: dead_parameter, value: }]", "claims.0.value"),
        ("[{claim: it learns, check: dead_parameter, value: maybe}]", "claims.0.value"),
        ("[{check: dead_parameter, value: ok}]", "claims.0.claim: missing"),
        ("[{claims: it learns, claim: x, check: dead_parameter, value: ok}]", "claims.0.claims"),
        ("[]", "claims"),
    ],
)
def test_a_claims_file_is_held_to_what_it_must_be(
    claims: str, said: str, tmp_path: Path, capsys: Say
) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(f"claims: {claims}\n")
    assert_refused(capsys, [str(path), said], "diagnose.outside:mlp", "--claims", str(path))


@pytest.mark.parametrize(
    ("text", "said"), [("", "claims"), ("claims: [", ""), ("- a list", ""), ("\x00", "")]
)
def test_a_file_that_is_no_claims_file_is_one_line(
    text: str, said: str, tmp_path: Path, capsys: Say
) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    assert_refused(capsys, [str(path), said], "diagnose.outside:mlp", "--claims", str(path))


def test_a_loader_is_read_no_further_than_it_is_asked() -> None:
    def loader(n: int) -> Iterator[tuple[Tensor, Tensor]]:
        return map(outside.rows, itertools.count())

    subject = usable(replace(outside.mlp(), batches=loader), seed=0)
    assert [len(subject.batches(n)) for n in (1, 3)] == [1, 3]


@pytest.mark.parametrize("module", ["nowhere", "no.where"])
def test_a_module_that_cannot_be_imported_is_one_line(module: str, capsys: Say) -> None:
    assert_refused(capsys, [f"'{module}:subject'", "on PYTHONPATH"], f"{module}:subject")


def test_a_place_or_a_change_that_cannot_be_is_one_line_before_any_check(
    tmp_path: Path, capsys: Say
) -> None:
    (taken := tmp_path / "taken").write_text("")
    assert_refused(capsys, [str(taken), "--out"], "diagnose.outside:mlp", "--out", str(taken))
    absent = str(tmp_path / "claims.yaml")
    assert_refused(capsys, [absent, "no such file"], "diagnose.outside:mlp", "--claims", absent)
    assert_refused(capsys, ["no config to change"], "diagnose.outside:mlp", "--set", "seed=1")


def test_an_unknown_check_is_one_line(capsys: Say) -> None:
    assert_refused(
        capsys, ["dead_input?", "--check"], "diagnose.outside:mlp", "--check", "dead_input?"
    )


def test_a_model_is_the_same_whatever_was_drawn_before() -> None:
    subject = usable(outside.mlp(), seed=3)
    first = subject.model().state_dict()
    torch.rand(5)
    assert all(torch.equal(x, first[k]) for k, x in subject.model().state_dict().items())


def test_looking_at_a_subject_leaves_pytorch_s_draws_as_they_were() -> None:
    """Though its loss and batches draw, as dropout does."""
    subject = outside.mlp()

    def loss(model: nn.Module, batch: Any) -> Tensor:
        return subject.loss(model, batch) * (1 + 0 * torch.rand(()))

    drawing = replace(subject, loss=loss)
    for look in (lambda: usable(drawing, 0), lambda: diagnose(drawing, ["dead_parameter"])):
        before = torch.random.get_rng_state()
        look()
        assert torch.equal(torch.random.get_rng_state(), before)


class Pair(NamedTuple):
    x: Tensor
    parts: dict[str, list[Tensor]]


def test_batches_of_whatever_nesting_are_cut_and_permuted_by_name() -> None:
    x_N, same_N = torch.arange(6), torch.ones(6)
    batch = Pair(x_N, {"y": [same_N, x_N + 10]})
    assert list(tensors_of(batch)) == ["x", "parts.y.0", "parts.y.1"]
    some = rows_of(batch, slice(1, 3))
    assert type(some) is Pair
    assert some.parts["y"][1].tolist() == [11, 12]
    changes = changes_of(batch)
    assert list(changes) == ["x", "parts.y.1"]  # a constant is the same in any order
    other = changes["parts.y.1"](batch, torch.Generator().manual_seed(0))
    assert torch.equal(other.x, x_N) and sorted(other.parts["y"][1].tolist()) == [*range(10, 16)]
    assert not torch.equal(other.parts["y"][1], x_N + 10)
    assert list(changes_of(x_N)) == ["batch"]
