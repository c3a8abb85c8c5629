"""A training is the same to the bit however it was run, and its files say what came of it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import yaml
from processes import Popen
from support import CPU

from realdataexp import cli
from realdataexp.device import own_arithmetic
from realdataexp.errors import InputError, RunError
from realdataexp.runs.checkpoint import file_digest
from realdataexp.sequences.histories import Histories, leave_one_out
from realdataexp.sequences.synthetic import SyntheticSequences, make_sequences
from realdataexp.train import ablation
from realdataexp.train.config import Recommender, TrainConfig, load_train
from realdataexp.train.ranks import Ranks, joined
from realdataexp.train.recommenders import Catalogue, Mixture, Scorer, made
from realdataexp.train.run import TrainRun, resume_training, train
from realdataexp.train.trainer import Passage, Passages, Trainer, Training, loss_of

N_ITEMS = 80
SMALL: dict[str, Any] = {
    "mode": "train",
    "seed": 3,
    "dataset": {"name": "sequences", "synthetic": {"users": 150, "items": N_ITEMS, "clusters": 5}},
    "model": {"name": "SASRec", "width": 16, "n_layers": 1, "n_heads": 2, "longest": 8},
    "baselines": ["Popularity"],
    "training": {"epochs": 3, "users_per_batch": 40, "learning_rate": 0.003, "warmup_steps": 3},
    "logging": {"pictures": False},
}
MODELS = ["SASRec", "GRU4Rec"]
TIMED = ("timing", "device", "versions")


def config(**changes: Any) -> TrainConfig:
    return load_train({**SMALL, **changes})


def training(**changes: Any) -> dict[str, Any]:
    return {**SMALL["training"], **changes}


def written(tmp_path: Path, **changes: Any) -> str:
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}))
    return str(path)


def what_it_said(folder: Path) -> tuple[Any, ...]:
    """All that a run folder says, but for times."""
    result = json.loads((folder / "result.json").read_text())
    rows = pl.read_parquet(folder / "metrics.parquet").rows()
    best = sorted((folder / "checkpoints").glob("*best*"))
    files = [file_digest(x) for b in best for x in ([b] if b.is_file() else sorted(b.iterdir()))]
    return {k: v for k, v in result.items() if k not in TIMED}, rows, files


def a_trainer(name: str = "SASRec", n_users: int = 60, **options: Any) -> Trainer:
    histories, _ = make_sequences(SyntheticSequences(users=n_users, items=N_ITEMS, clusters=5))
    catalogue = Catalogue.of(histories.n_items, CPU)
    given = {"name": name, "width": 16, "longest": 8, "dropout": 0.0}
    if name == "SASRec":
        given |= {"n_layers": 1, "n_heads": 2}
    model: Any = made(Recommender.model_validate(given), "model", catalogue, 0)
    settings = Training(**{"users_per_batch": 20, "warmup_steps": 0, **options})
    passages = Passages(leave_one_out(histories), model.longest, settings, 0, CPU)
    return Trainer(model, catalogue.tensors, passages, settings, 0, CPU)


def batches(trainer: Trainer, ranks: Ranks | None = None) -> list[Passage]:
    return list(trainer.passages.epoch(0, 0, ranks or Ranks()))


# --- the same bits -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config(), tmp_path_factory.mktemp("whole") / "run")


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    number: signal.Signals, whole: Path, tmp_path: Path
):
    out = tmp_path / "run"
    command = [sys.executable, "-c", SLOW, "train", written(tmp_path), "--out", str(out)]
    with Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert any("NOW" in line for line in process.stderr)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    at = "step_6" if number == signal.SIGINT else "step_4"  # of 4 updates an epoch
    assert (out / "checkpoints" / at).is_dir()
    resume_training(out)
    assert what_it_said(out) == what_it_said(whole)


SLOW = """
import sys, time
from realdataexp import cli
from realdataexp.train import trainer
real = trainer.Trainer.step
def slow(self, batch):
    if self.progress.step == 5:
        print("NOW", file=sys.stderr, flush=True)
        time.sleep(1)
    return real(self, batch)
trainer.Trainer.step = slow
sys.exit(cli.main(sys.argv[1:]))
"""


def test_the_number_of_threads_changes_no_bit(whole: Path, tmp_path: Path):
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        assert what_it_said(train(config(), tmp_path / "run")) == what_it_said(whole)
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_what_the_process_drew_before_changes_no_bit(whole: Path, tmp_path: Path):
    torch.manual_seed(99)
    np.random.seed(99)
    assert what_it_said(train(config(), tmp_path / "run")) == what_it_said(whole)


def test_another_seed_is_another_training(whole: Path, tmp_path: Path):
    other = what_it_said(train(config(seed=4), tmp_path / "run"))
    assert other[1] != what_it_said(whole)[1]


# --- several processes ---------------------------------------------------------------------------


def digest_of(trainer: Trainer) -> dict[str, str]:
    found = [p.detach().numpy().tobytes() for p in trainer.trained.values()]
    return {"parameters": str(hash(b"".join(found)))}


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_have_the_gradient_of_the_joint_batch(name: str):
    with own_arithmetic():
        alone, both = (a_trainer(name, gradient_clip=None) for _ in range(2))
        assert alone.step(batches(alone)[0])[0] > 0

        def work(ranks: Ranks) -> None:
            both.ranks = ranks
            own = batches(both, ranks)
            both.step(own[0])
            if ranks.is_first:
                for (k, p), other in zip(alone.trained.items(), both.trained.values(), strict=True):
                    assert p.grad is not None
                    torch.testing.assert_close(other.grad, p.grad, rtol=0, atol=1e-6, msg=k)
                    assert p.grad.abs().max() > 1e-5  # some of it would be missed
            for batch in own[1:]:
                both.step(batch)
            ranks.agree(digest_of(both))

        with joined(2, CPU, work) as ranks:
            work(ranks)


def test_processes_that_differ_are_refused():
    def work(ranks: Ranks) -> None:
        ranks.agree({"data": str(ranks.rank)})

    with (
        pytest.raises(InputError, match="data: process 2 of 2 has another"),
        joined(2, CPU, work) as ranks,
    ):
        work(ranks)


def test_two_processes_train_and_rank_as_one(whole: Path, tmp_path: Path):
    model = {**SMALL["model"], "dropout": 0.0}
    alone = train(config(model=model), tmp_path / "alone")
    both = train(config(model=model, training=training(processes=2)), tmp_path / "both")
    one, two = (json.loads((x / "result.json").read_text())["results"] for x in (alone, both))
    for a, b in zip(one, two, strict=True):
        assert {**a, "value": 0, "se": 0} == {**b, "value": 0, "se": 0}
        assert b["value"] == pytest.approx(a["value"], abs=0.02)


def test_torchrun_starts_them_too(tmp_path: Path):
    out = tmp_path / "run"
    words = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "realdataexp", "train"]
    done = subprocess.run(
        [sys.executable, *words, written(tmp_path), "--out", str(out)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "complete"
    assert done.stdout.count("Run folder") == 1
    assert done.stderr.count("epoch 3 of 3") == 1


# --- what a loss and a score may look at ---------------------------------------------------------


def losses(trainer: Trainer, item_BT: torch.Tensor, target_X: torch.Tensor) -> torch.Tensor:
    trainer.model.eval()
    shown = {k: x[item_BT] for k, x in trainer.catalogue.items()}
    with torch.inference_mode():
        hidden_NE = trainer.model.encode(trainer.model.embed(shown)).flatten(0, 1)
        return trainer.model.losses(hidden_NE, target_X, trainer.catalogue)


@pytest.mark.parametrize("name", MODELS)
def test_a_later_item_changes_no_earlier_loss(name: str):
    trainer = a_trainer(name)
    n_items = len(trainer.catalogue["cat"])
    item_BT = torch.randint(0, n_items, (5, 8), generator=torch.Generator().manual_seed(0))
    target_X = item_BT.roll(-1, 1).flatten()
    before = losses(trainer, item_BT, target_X).view(5, 8)
    item_BT[:, 4] = (item_BT[:, 4] + 1) % n_items
    after = losses(trainer, item_BT, target_X).view(5, 8)
    assert torch.equal(after[:, :4], before[:, :4])
    assert (after[:, 4:] != before[:, 4:]).all()


@pytest.mark.parametrize("name", MODELS)
def test_neither_padding_nor_the_rest_of_a_batch_changes_a_score_or_a_loss(name: str):
    trainer = a_trainer(name)
    scorer = Scorer(trainer.model, Catalogue(trainer.catalogue, None), CPU)  # type: ignore[arg-type]
    past_BT = np.array([[3, 1, 2, -1, -1], [9, 8, 7, 6, 5], [-1] * 5])
    score_BV = scorer.scores(past_BT)
    assert np.allclose(scorer.scores(np.array([[3, 1, 2]])), score_BV[:1], atol=1e-6)
    wide = np.full((1, 30), -1)
    wide[0, :5] = past_BT[1]
    assert np.allclose(scorer.scores(wide), score_BV[1:2], atol=1e-6)
    long = np.array([[*range(40, 60), *past_BT[1], 4, 3, 2]])  # only the latest 8 are seen
    assert np.allclose(scorer.scores(long), scorer.scores(long[:, -8:]), atol=1e-6)
    one_by_one = sum(
        (loss_of(trainer.model.eval(), single(batch, i, trainer), trainer.catalogue))
        for batch in batches(trainer)[:1]
        for i in range(len(batch.item_BT))
    )
    together = loss_of(trainer.model.eval(), batches(trainer)[0], trainer.catalogue)
    assert one_by_one.item() == pytest.approx(together.item(), rel=1e-5)


def single(batch: Passage, i: int, trainer: Trainer) -> Passage:
    """One user of a batch, without padding."""
    T = batch.item_BT.shape[1]
    own = (batch.place_X // T) == i
    n = int(own.sum())
    return Passage(
        batch.item_BT[i : i + 1, :n], torch.arange(n), batch.target_X[own], batch.n_positions
    )


def test_every_position_of_a_user_is_trained_on_once_and_nothing_that_is_held_out():
    trainer = a_trainer()
    histories, _ = make_sequences(SyntheticSequences(users=60, items=N_ITEMS, clusters=5))
    split = leave_one_out(histories)
    expected = sorted(
        (int(a), int(b))
        for u in range(histories.n_users)
        for own in [histories.item_N[histories.offset_U1[u] : split.train_end_U[u]][-9:]]
        for a, b in itertools.pairwise(own)
    )
    found = sorted(
        (int(a), int(b))
        for batch in batches(trainer)
        for a, b in zip(batch.item_BT.flatten()[batch.place_X], batch.target_X, strict=True)
    )
    assert found == expected
    assert trainer.passages.n_positions == len(expected)


def test_batches_have_about_as_many_positions_as_each_other():
    rng = np.random.default_rng(0)
    n_U = np.minimum(3 + rng.geometric(0.1, 2000), 40)
    names = [str(v) for v in range(50)]
    item_N = rng.integers(0, 50, n_U.sum()).astype(np.int32)
    users = [str(u) for u in range(len(n_U))]
    histories = Histories(item_N, np.concatenate([[0], n_U.cumsum()]), users, names)
    passages = Passages(leave_one_out(histories), 40, Training(users_per_batch=64), 0, CPU)
    found = [len(x.target_X) for x in passages.epoch(0, 0, Ranks())]
    assert len(found) == passages.n_batches == -(-len(n_U) // 64)
    assert sum(found) == passages.n_positions
    assert max(found) - min(found) <= 2 * 40  # a user more or less at either end
    one = Passages(leave_one_out(histories), 40, Training(users_per_batch=1), 0, CPU)
    assert all(len(x.target_X) for x in one.epoch(0, 0, Ranks()))


@pytest.mark.parametrize("name", MODELS)
def test_ten_users_can_be_learned_by_heart(name: str):
    trainer = a_trainer(name, n_users=10, learning_rate=0.03, weight_decay=0.0)
    (batch,) = batches(trainer)
    found = [trainer.step(batch)[0] for _ in range(60)]
    # the first item of a history says little: several items may follow it
    assert found[-1] < 0.1 * found[0]


# --- the files -----------------------------------------------------------------------------------


def test_the_demo_beats_popularity_and_its_result_is_as_promised(tmp_path: Path):
    out = train(load_train("sequences-demo", ["training.epochs=10"]), tmp_path / "run")
    result = json.loads((out / "result.json").read_text())
    assert result["status"] == "complete"
    keys = {"model", "split", "metric", "k", "value", "se", "n"}
    assert all(set(row) == keys for row in result["results"])
    assert {row["split"] for row in result["results"]} == {"validation", "test"}
    assert {row["model"] for row in result["results"]} == {
        "SASRec", "Popularity", "ItemKNN", "Markov",
    }  # fmt: skip
    (over,) = [
        row
        for row in result["compared"]
        if (row["against"], row["metric"], row["k"]) == ("Popularity", "ndcg", 10)
    ]
    assert over["model"] == "SASRec"
    assert 0 < over["ci_low"] < over["difference"] < over["ci_high"]
    assert result["timing"]["positions_per_second"] > 0


def test_a_network_ends_with_its_best_epoch_and_stops_early(tmp_path: Path):
    settings = training(epochs=40, learning_rate=0.05, early_stopping=2)
    out = train(config(training=settings), tmp_path / "run")
    table = pl.read_parquet(out / "metrics.parquet")
    ndcg = table.filter((pl.col("metric") == "ndcg") & (pl.col("k") == 10))["value"].to_list()
    assert len(ndcg) < 40
    assert len(ndcg) == int(np.argmax(ndcg)) + 3
    result = json.loads((out / "result.json").read_text())
    (found,) = [
        x["value"]
        for x in result["results"]
        if (x["model"], x["split"], x["metric"], x["k"]) == ("SASRec", "validation", "ndcg", 10)
    ]
    assert found == max(ndcg)


@pytest.mark.parametrize("name", [*MODELS, "Generative"])
def test_mixed_precision_learns_about_the_same(name: str, tmp_path: Path):
    """Products are rounded to 8 bits, losses are not: they differ by a few per mille."""
    items = {"codes": {"n_codes": 4}} if name == "Generative" else {}
    model = {"name": name, "width": 16, "longest": 8, "dropout": 0.0}
    losses = []
    for use_amp in (False, True):
        own = config(use_amp=use_amp, items=items, model=model, baselines=[])
        out = train(own, tmp_path / f"{use_amp}")
        table = pl.read_parquet(out / "metrics.parquet").filter(pl.col("metric") == "loss")
        losses.append(table["value"].to_numpy())
    assert losses[0][-1] < losses[0][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.02)
    assert (losses[0] != losses[1]).any()


# --- what is refused -----------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": {"name": "SASRek"}}, "did you mean SASRec"),
    ({"model": {"name": "SASRec", "widht": 3}}, "did you mean width"),
    ({"baselines": ["Popularity", "Popularity"]}, "stands more than once"),
    ({"baselines": ["GRU4Rec"]}, "is trained"),
    ({"evaluation": {"k": [5, 1000]}}, "there are 80 items"),
    ({"evaluation": {"k": []}}, "evaluation.k"),
    ({"mixture": "GRU4Rec"}, "mixture is trained"),
    ({"mixture": "Markov", "model": "Popularity", "baselines": []}, "is counted itself"),
    ({"training": {"processes": 4000}}, "must be at most"),
    ({"training": {"epochs": 0}}, "training.epochs"),
    ({"mode": "compare"}, "no config for train"),
    (
        {"model": {"name": "TextToText", "beam": 81}, "items": {"codes": {}}},
        "model.beam = 81: there are 80 items",
    ),
    ({"model": "Generative"}, "items have no codes: set items.codes"),
    ({"model": "Generative", "items": {"codes": {"column": "kodes"}}}, "no column 'kodes'"),
    ({"model": "Generative", "items": {"codes": {"file": "no.json"}}}, "no.json"),
    ({"model": "Generative", "items": {"codes": {"n_codes": 1}}}, "items.codes.n_codes = 1"),
    ({"items": {"vectors": {"kind": "file", "file": "no.npy"}}}, "no.npy: no such file"),
    (
        {"model": {"name": "Generative", "prefix": "items"}, "items": {"codes": {}}},
        "items have no vectors: set items.vectors",
    ),
    ({"dataset": {"name": "sequences"}}, "pass --data DIR"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG)
def test_wrong_input_is_one_line(
    changes: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["train", written(tmp_path, **changes), "--out", str(tmp_path / "run")]) == 2
    last = capsys.readouterr().err.strip().splitlines()
    assert said in last[-1]
    assert len(last) == 1
    assert not (tmp_path / "run").exists()


def test_processes_that_were_started_on_other_data_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    real = TrainRun.identity
    monkeypatch.setattr(TrainRun, "identity", lambda x: real(x) | {"data": str(os.getpid())})
    path = written(tmp_path, training=training(processes=2), baselines=[])
    assert cli.main(["train", path, "--out", str(tmp_path / "run")]) == 2
    (last,) = (x for x in capsys.readouterr().err.splitlines() if not x.startswith("["))
    assert last.startswith("data: process 2 of 2 has another than process 1: start all with")


def test_another_config_goes_on_with_no_checkpoint(tmp_path: Path):
    out = train(config(training=training(epochs=1)), tmp_path / "run")
    path = out / "config.yaml"
    path.write_text(path.read_text().replace("epochs: 1", "epochs: 2"))
    with pytest.raises(InputError, match=r"config\.training\.epochs was 1 .* and is 2"):
        resume_training(out)


def with_vectors(tmp_path: Path, seed: int) -> dict[str, Any]:
    """A generative model whose codes are made of vectors in a file; and that file."""
    vector_VD = np.random.default_rng(seed).standard_normal((N_ITEMS, 4)).tolist()
    names = make_sequences(SyntheticSequences(**SMALL["dataset"]["synthetic"]))[0].item_names
    table = pl.DataFrame({"item": list(names), "vector": vector_VD})
    table.write_parquet(tmp_path / "vectors.parquet")
    vectors = {"kind": "file", "file": "vectors.parquet"}
    return {
        "items": {"codes": {"n_codes": 4, "vectors": vectors}, "vectors": vectors},
        "model": {
            "name": "Generative", "width": 8, "n_layers": 1, "n_heads": 2, "longest": 8,
            "prefix": "items",
        },
        "training": training(epochs=1),
    }  # fmt: skip


def test_codes_and_vectors_stay_those_that_a_training_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = written(tmp_path, base_dir=str(tmp_path), **with_vectors(tmp_path, 0))
    kept = train(load_train(path), tmp_path / "whole")
    real = Trainer.step

    def stopped(self: Trainer, batch: Passage) -> tuple[float, float]:
        if self.progress.step == 2:
            raise KeyboardInterrupt
        return real(self, batch)

    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "step", stopped)
        train(load_train(path), out)
    with_vectors(tmp_path, 1)
    whole, tables = what_it_said(kept), out / "items.safetensors"
    away = tables.rename(tmp_path / "tables")
    with pytest.raises(InputError, match=r"items was .* when step_2 was made and is"):
        resume_training(out)
    away.rename(tables)
    resume_training(out)
    assert what_it_said(out) == whole


# --- a mixture -----------------------------------------------------------------------------------


def test_a_mixture_is_the_average_and_its_weight_validates_best(tmp_path: Path):
    run = {"mixture": "Markov", "baselines": ["Markov"], "evaluation": {"k": [3, 10]}}
    out = train(config(**run), tmp_path / "run")
    result = json.loads((out / "result.json").read_text())
    rows = {(x["model"], x["split"], x["metric"], x["k"]): x["value"] for x in result["results"]}
    mixed = {split: rows["SASRec+Markov", split, "ndcg", 10] for split in ("validation", "test")}
    best = max(rows[x, "validation", "ndcg", 10] for x in ("SASRec", "Markov"))
    assert mixed["validation"] > best - 0.01  # weights of 0.1 and 0.9 are near to either
    assert result["mixture_weight"] in (0.1, 0.25, 0.5, 0.75, 0.9)
    pairs = {(x["model"], x["against"]) for x in result["compared"]}
    assert pairs == {
        ("SASRec", "Markov"), ("SASRec+Markov", "Markov"), ("SASRec+Markov", "SASRec"),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("(3, 3)", "scores of the shape"),
        ("(n, 80), np.nan", "is NaN; lower its learning rate or mend it"),
    ],
)
def test_what_is_wrong_with_a_count_is_told_of_it(
    made: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    shape, _, value = made.rpartition(", ") if "nan" in made else (made, "", "0.0")
    (tmp_path / "counts_of_mine.py").write_text(
        "import numpy as np\n"
        "from realdataexp.sequences.counting import CountingRecommender\n"
        "class Mine(CountingRecommender):\n"
        "    def fit(self, split): return self\n"
        "    def scores(self, past_BT):\n"
        "        n = len(past_BT)\n"
        f"        return np.full({shape}, {value}, np.float32)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "counts_of_mine", raising=False)
    path = written(tmp_path, mixture="counts_of_mine:Mine", training=training(epochs=1))
    assert cli.main(["train", path, "--quiet", "--out", str(tmp_path / "run")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("counts_of_mine:Mine: ")
    assert said in line


def test_a_mixture_of_scores_equals_a_plain_loop():
    rng = np.random.default_rng(0)
    logit_BV, count_BV = rng.standard_normal((4, 9)), rng.integers(0, 5, (4, 9)).astype(float)
    count_BV[2] = 0  # nothing was counted

    class Of:
        def __init__(self, score_BV: np.ndarray) -> None:
            self.score_BV = score_BV

        def scores(self, past_BT: np.ndarray) -> np.ndarray:
            return self.score_BV

    found_BV = Mixture(Of(logit_BV), Of(count_BV), 0.3).scores(np.zeros((4, 1), np.int64))
    for b in range(4):
        total = sum(np.exp(x) for x in logit_BV[b])
        for v in range(9):
            share = count_BV[b, v] / count_BV[b].sum() if count_BV[b].any() else 0
            wanted = 0.7 * np.exp(logit_BV[b, v]) / total + 0.3 * share
            assert found_BV[b, v] == pytest.approx(wanted)


# --- ablation ------------------------------------------------------------------------------------


def test_an_ablation_is_one_command_and_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = with_vectors(tmp_path, 0)
    path, out = written(tmp_path, base_dir=str(tmp_path), **made), tmp_path / "run"
    words = ["train", path, "--ablate", "--quiet", "--out", str(out)]
    real = ablation.train

    def stopped(config: TrainConfig, place: Path) -> Path:
        if place.name == "shuffled":
            raise KeyboardInterrupt
        return real(config, place)

    with monkeypatch.context() as patch:
        patch.setattr(ablation, "train", stopped)
        assert cli.main(words) == 130
    was = (out / "ablation/zeros/result.json").stat().st_mtime_ns
    assert cli.main(words) == 0
    assert (out / "ablation/zeros/result.json").stat().st_mtime_ns == was
    result = json.loads((out / "result.json").read_text())
    names = {x: f"Generative, {x}" for x in ("without", "zeros", "shuffled", "noise")}
    assert {x["model"] for x in result["results"]} == {"Popularity", "Generative", *names.values()}
    value = {
        x["model"]: x["value"]
        for x in result["results"]
        if (x["split"], x["metric"], x["k"]) == ("test", "hit", 10)
    }
    pairs = [x for x in result["compared"] if (x["metric"], x["k"]) == ("hit", 10)]
    assert len(pairs) == 1 + 4 + 3
    for x in pairs:
        assert x["difference"] == pytest.approx(value[x["model"]] - value[x["against"]])
    # the same training by itself
    plain = {**SMALL, **made, "base_dir": str(tmp_path), "baselines": []}
    plain["items"] = {"codes": plain["items"]["codes"]}
    plain["model"] = plain["model"] | {"prefix": "none"}
    alone = json.loads((train(load_train(plain), tmp_path / "alone") / "result.json").read_text())
    own = [x for x in result["results"] if x["model"] == names["without"]]
    assert [x | {"model": "Generative"} for x in own] == alone["results"]


def test_an_ablation_of_a_model_that_reads_no_vectors_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert cli.main(["train", written(tmp_path), "--ablate", "--out", str(tmp_path / "run")]) == 2
    assert "set items.vectors and model.prefix" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path):
    settings = training(learning_rate=1e30, gradient_clip=None, warmup_steps=0, epochs=20)
    with pytest.raises(RunError, match=r"lower (training\.learning_rate|its learning rate)"):
        train(config(training=settings), tmp_path / "run")
