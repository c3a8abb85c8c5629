"""What comes from outside the package is held to what it promises, in a line that names it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
import yaml
from pydantic import Field, PrivateAttr
from torch import Tensor, nn

from realdataexp import cli, draws
from realdataexp.api import run
from realdataexp.config import load_config
from realdataexp.designs import Design
from realdataexp.designs.base import ones
from realdataexp.designs.pooling import Pooling
from realdataexp.errors import InputError, RunError, Warnings
from realdataexp.models import MLP, Loss
from realdataexp.registry import calling, find, reason
from realdataexp.runs.setup import set_up
from realdataexp.tracking import Tracker, Writer

Settings = Callable[..., dict[str, Any]]
HERE = Path(__file__).name

# --- models ---------------------------------------------------------------------------------------


class Ranker(nn.Module):
    """A right one: linear in the numbers."""

    def __init__(self, schema: Any, n_outputs: int) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        self.linear = nn.Linear(schema.user.n_numerical + schema.video.n_numerical, n_outputs)

    def forward(self, num: Tensor, cat: Tensor) -> Any:
        return self.change(self.linear(num))

    def change(self, raw: Tensor) -> Any:
        return raw


def ranker(change: Callable[[Tensor], Any]) -> type[Ranker]:
    """A class of rankers whose output is changed."""
    return type("Changed", (Ranker,), {"change": lambda self, raw: change(raw)})


def fail(*_: Any) -> Any:
    raise ValueError("first line\nsecond line")


OneAxis = ranker(lambda raw: raw.squeeze(-1))
TooFew = ranker(lambda raw: raw[:2])
TooMany = ranker(lambda raw: raw.repeat(1, 3))
Scalar = ranker(lambda raw: raw.sum())
Nothing = ranker(lambda raw: None)
Listed = ranker(lambda raw: [raw, raw])
Arrayed = ranker(lambda raw: 0.5)
Whole = ranker(lambda raw: raw.round().int())
Complex = ranker(lambda raw: torch.complex(raw, raw))
NotANumber = ranker(lambda raw: raw / 0.0 * 0.0)
Infinite = ranker(lambda raw: raw + float("inf"))
SomeNan = ranker(lambda raw: (raw - 0.1).log())
NoGradient = ranker(lambda raw: raw.detach())
Constant = ranker(lambda raw: torch.zeros_like(raw))
InfiniteSlope = ranker(lambda raw: (raw - raw.detach()).abs().sqrt())
Branching = ranker(lambda raw: raw if raw.sum() > 0 else -raw)
OverRows = ranker(lambda raw: raw - raw.mean(0))
Noisy = ranker(lambda raw: raw + torch.rand_like(raw))
Failing = ranker(fail)
Leaving = ranker(lambda raw: exit(3))
Half = ranker(lambda raw: raw.half())
Double = ranker(lambda raw: raw.double())


class NoForward(nn.Module):
    def __init__(self, schema: Any, n_outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))


class NoParameters(Ranker):
    def __init__(self, schema: Any, n_outputs: int) -> None:
        nn.Module.__init__(self)
        self.n_outputs = n_outputs

    def forward(self, num: Tensor, cat: Tensor) -> Tensor:
        return num[:, :1].expand(-1, self.n_outputs)


class FailingInit(Ranker):
    def __init__(self, schema: Any, n_outputs: int) -> None:
        raise RuntimeError("no\tweights\x1b[31m here")


class LeavingInit(Ranker):
    def __init__(self, schema: Any, n_outputs: int) -> None:
        raise SystemExit


class InterruptedInit(Ranker):
    def __init__(self, schema: Any, n_outputs: int) -> None:
        raise KeyboardInterrupt("by hand")


class NoArguments(nn.Module):
    def __init__(self) -> None:
        super().__init__()


class AddsConstant(Ranker):
    def __init__(self, schema: Any, n_outputs: int) -> None:
        super().__init__(schema, n_outputs)
        self.slope = torch.linspace(-1.0, 1.0, self.linear.in_features)

    def forward(self, num: Tensor, cat: Tensor) -> Tensor:
        return self.linear(num) + (num * self.slope).sum(-1, keepdim=True)


class AddsFrozen(AddsConstant):
    """The constant is a parameter that does not learn: one for all worlds."""

    def __init__(self, schema: Any, n_outputs: int) -> None:
        super().__init__(schema, n_outputs)
        slope = self.slope
        del self.slope
        self.slope = nn.Parameter(slope, requires_grad=False)


class Named(Ranker):
    """Asks for tensors by name; sees candidates visit by visit."""

    inputs = ("user_num", "video_num")

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        user_BD, video_BCD = (inputs[name] for name in self.inputs)
        B, C, _ = video_BCD.shape
        user_BCD = user_BD.unsqueeze(1).expand(-1, C, -1)
        return self.linear(torch.cat([user_BCD, video_BCD], -1).flatten(0, 1)).view(B, C, -1)


class UnknownInput(Named):
    inputs = ("user_num", "video_name")


class OneInput(Named):
    inputs = "video_num"


class JoinedRows(Named):
    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return super().forward(inputs).flatten(0, 1)


class LearnsShared(MLP):
    """A stacked model whose networks would all learn one table."""

    def init_shared(self, key: Tensor) -> Any:
        return {"table": torch.ones(3, requires_grad=True)}


class SharesWhatItLearns(MLP):
    def init_shared(self, key: Tensor) -> Any:
        return self.init(key)


class SharesNothing(MLP):
    def init_shared(self, key: Tensor) -> Any:
        return None


class WritesShared(MLP):
    """A stacked model that changes what all networks read."""

    def init_shared(self, key: Tensor) -> Any:
        return {"table": torch.ones(3)}

    def forward(self, params: Any, batch: Any, dropout_key_S: Any) -> Tensor:
        params["table"].add_(1.0)
        return super().forward(params, batch, dropout_key_S)


class Buffered(Ranker):
    def __init__(self, schema: Any, n_outputs: int) -> None:
        super().__init__(schema, n_outputs)
        self.register_buffer("offset", torch.ones(1))


class DoubleParameters(Ranker):
    def __init__(self, schema: Any, n_outputs: int) -> None:
        super().__init__(schema, n_outputs)
        self.linear = self.linear.double()

    def forward(self, num: Tensor, cat: Tensor) -> Tensor:
        return self.linear(num.double())


class Idle:
    """Neither a module nor a stacked model."""

    def __init__(self, *args: Any) -> None:
        self.args = args


class WritingStack(MLP):
    """A stacked model that writes into the batch, which other networks read too."""

    def forward(self, params: Any, batch: Any, dropout_key_S: Any) -> Tensor:
        batch.candidate["video_num"].add_(1.0)
        return super().forward(params, batch, dropout_key_S)


class UnusedParameter(Ranker):
    """A parameter that forward does not read is nothing unusual."""

    def __init__(self, schema: Any, n_outputs: int) -> None:
        super().__init__(schema, n_outputs)
        self.spare = nn.Parameter(torch.ones(3))


class Shifted(Ranker):
    def forward(self, num: Tensor, cat: Tensor) -> Tensor:
        return self.linear(num + 3.0)


class WritesItsCopy(Ranker):
    """In place on its own input: what others see stays."""

    def forward(self, num: Tensor, cat: Tensor) -> Tensor:
        num += 3.0
        return self.linear(num)


a_function, A_NUMBER = fail, 3

MODELS = {
    "OneAxis": ["forward() returned a float32 tensor of shape (40,), 40 values", "(40, 1)"],
    "TooFew": ["a float32 tensor of shape (2, 1), 2 values; wanted a float tensor of", "(40, 1)"],
    "TooMany": ["shape (40, 3), 120 values", "wanted a float tensor of shape (40, 1)"],
    "Scalar": ["shape (), 1 values"],
    "Nothing": ["forward() returned None; wanted a float tensor"],
    "Listed": ["an object of type list"],
    "Arrayed": ["an object of type float"],
    "Whole": ["an int32 tensor of shape (40, 1)", "wanted a float tensor"],
    "Complex": ["complex64"],
    "NotANumber": ["shape (2, 8, 5, 1), 80 values", "of them NaN; wanted finite numbers"],
    "Infinite": ["of them infinite"],
    "SomeNan": ["of them NaN"],
    "NoGradient": ["does not depend on the parameters", "detach()"],
    "Constant": ["does not depend on the parameters"],
    "InfiniteSlope": ["its gradient is not finite"],
    "Branching": ["cannot compute networks together", "torch.where", HERE],
    "OverRows": ["other numbers for the same rows"],
    "Noisy": ["cannot compute networks together", "nn.Dropout"],
    "Failing": ["forward() raised ValueError: first line (", HERE],
    "Leaving": ["forward() raised SystemExit: 3"],
    "NoForward": ["forward() raised NotImplementedError", 'missing the required "forward"'],
    "NoParameters": ["no parameter", "nn.Parameter"],
    "FailingInit": ["its constructor raised RuntimeError: no\\tweights\\x1b[31m here (", HERE],
    "LeavingInit": ["its constructor raised SystemExit (", HERE],
    "InterruptedInit": ["its constructor raised KeyboardInterrupt: by hand ("],
    "NoArguments": ["refused by NoArguments: TypeError", "labels.0.model_params={} gives none"],
    "UnknownInput": ["no 'video_name'; it has: user_num, user_cat, user_weight, video_num"],
    "OneInput": ["OneInput.inputs = 'video_num': name some of: user_num"],
    "JoinedRows": ["wanted a float tensor of shape (8, 5, 1) (visits, candidates, outputs)"],
    "LearnsShared": ["init_shared() returned table with requires_grad", "reach the others"],
    "SharesWhatItLearns": ["init_shared() returned bias_0, ", "which init() returns too"],
    "SharesNothing": ["init_shared() returned None; wanted a dict"],
    "WritesShared": ["changed its input table in place"],
    "Buffered": ["Buffered keeps buffers", "(offset)"],
    "DoubleParameters": ["float64", "wanted a float32 tensor"],
    "Idle": ["is neither a torch.nn.Module nor a StackedModel", "init, forward"],
    "WritingStack": ["changed its input video_num in place", "clone"],
    "a_function": ["is not a class of models"],
    "A_NUMBER": ["is not a class of models"],
}

# --- losses ---------------------------------------------------------------------------------------


def huber(raw: Tensor, y: Tensor, scale: Any) -> Tensor:
    return F.huber_loss(raw[..., 0], (y - scale.mean) / scale.sd, reduction="none")


def unscaled(raw: Tensor, scale: Any) -> Tensor:
    return raw[..., 0] * scale.sd + scale.mean


HUBER = Loss(huber, unscaled)
DOUBLE_HUBER = Loss(
    lambda raw, y, s: huber(raw, y, s).double(), lambda raw, s: unscaled(raw, s).double()
)
MEAN = Loss(lambda raw, y, s: huber(raw, y, s).mean(), unscaled)
WIDE = Loss(lambda raw, y, s: raw, unscaled)
COLUMN = Loss(lambda raw, y, s: huber(raw, y, s).unsqueeze(-1), unscaled)
ROW_MEAN = Loss(lambda raw, y, s: huber(raw, y, s).mean(-1, keepdim=True), unscaled)
NAN = Loss(lambda raw, y, s: huber(raw, y, s) * float("nan"), unscaled)
LOG_OF_ZERO = Loss(lambda raw, y, s: huber(raw, y, s) - (0.0 * y).log(), unscaled)
NONE = Loss(lambda raw, y, s: None, unscaled)
RAISES = Loss(lambda raw, y, s: 1 / 0, unscaled)
CONSTANT = Loss(lambda raw, y, s: torch.ones_like(y), unscaled)
CENTRED = Loss(lambda raw, y, s: huber(raw, y, s) - huber(raw, y, s).mean(), unscaled)
WRITES_Y = Loss(lambda raw, y, s: huber(raw, y.mul_(2.0), s), unscaled)
WIDE_PREDICTION = Loss(huber, lambda raw, s: raw)
NAN_PREDICTION = Loss(huber, lambda raw, s: unscaled(raw, s) * float("nan"))
MEAN_PREDICTION = Loss(huber, lambda raw, s: unscaled(raw, s).mean())
RANK_PREDICTION = Loss(huber, lambda raw, s: raw[..., 0].argsort().argsort().float())
WHOLE_PREDICTION = Loss(huber, lambda raw, s: unscaled(raw, s).long())
RAISES_PREDICTION = Loss(huber, lambda raw, s: fail())
NAN_TRANSFORM = Loss(huber, unscaled, transform=lambda y: (y - 1e9).log())
NOT_CALLABLE = Loss(3, unscaled)  # type: ignore[arg-type]
NOT_A_LOSS = huber

LOSSES = {
    "MEAN": ["elementwise() returned a float32 tensor of shape (), 1 values", "(rows)"],
    "WIDE": ["elementwise() returned a float32 tensor", ", 1)"],
    "COLUMN": [", 1)"],
    "ROW_MEAN": ["shape (1,), 1 values"],
    "NAN": ["elementwise() returned", "of them NaN"],
    "LOG_OF_ZERO": ["of them infinite"],
    "NONE": ["elementwise() returned None"],
    "RAISES": ["elementwise() raised ZeroDivisionError: division by zero (", HERE],
    "CONSTANT": ["does not depend on the network's output"],
    "CENTRED": ["elementwise() returned other numbers for the same rows"],
    "WRITES_Y": ["changed its input y in place"],
    "WIDE_PREDICTION": ["predict() returned a float32 tensor"],
    "NAN_PREDICTION": ["predict() returned", "of them NaN"],
    "MEAN_PREDICTION": ["predict() returned a float32 tensor of shape (), 1 values"],
    "RANK_PREDICTION": ["predict() returned other numbers for the same rows"],
    "WHOLE_PREDICTION": ["predict() returned an int64 tensor"],
    "RAISES_PREDICTION": ["predict() raised ValueError: first line (", HERE],
    "NAN_TRANSFORM": ["transform() returned", "of them NaN"],
    "NOT_CALLABLE": ["an object of type int as elementwise", "wanted a function"],
    "NOT_A_LOSS": ["is not a realdataexp.models.Loss"],
}

# --- designs --------------------------------------------------------------------------------------


class Borrowing(Design):
    """A right one."""

    n_models: ClassVar[int] = 2
    share: float = Field(0.5, ge=0, le=1)

    def weights(self, outcome: Any) -> Any:
        own = torch.stack([~outcome.is_treated_RB, outcome.is_treated_RB], dim=1)
        return self.change(torch.where(own, 1.0, self.share))

    def change(self, weight: Tensor) -> Any:
        return weight


def weighing(change: Callable[[Tensor], Any]) -> type[Borrowing]:
    return type("Weighing", (Borrowing,), {"change": lambda self, weight: change(weight)})


def answering(method: str, answer: Callable[..., Any]) -> type[Borrowing]:
    return type("Answering", (Borrowing,), {method: lambda self, *args: answer(*args)})


OddShape = weighing(lambda w: w[:, :, :3])
OneWeight = weighing(lambda w: w.mean())
OneModelOnly = weighing(lambda w: w[:, :1])
Negative = weighing(lambda w: 0.1 - w)
NanWeights = weighing(lambda w: w * float("nan"))
InfiniteWeights = weighing(lambda w: w / 0.0)
NoWeights = weighing(lambda w: None)
ArrayWeights = weighing(lambda w: w.numpy())
ComplexWeights = weighing(lambda w: w.to(torch.complex64))
BoolWeights = weighing(lambda w: w > 0.7)
FloatOfBool = weighing(lambda w: (w > 0.7).float())
DoubleWeights = weighing(lambda w: w.double())
Raising = weighing(fail)
NoModel = type("NoModel", (Borrowing,), {"n_models": 0, "__annotations__": {}})
ThreeModels = type("ThreeModels", (Borrowing,), {"n_models": 3, "__annotations__": {}})
TwoArms = answering("assign", lambda visits, p: torch.ones(2, dtype=torch.bool))
NoArms = answering("assign", lambda visits, p: None)
SoftArms = answering("assign", lambda visits, p: visits.arm_draw_RB)
RandomArms = answering("assign", lambda visits, p: torch.rand(visits.is_visit_RB.shape) < p)
OneUnit = answering("unit", lambda visits: torch.zeros(1, dtype=torch.int64))
NegativeUnits = answering("unit", lambda visits: -1 - visits.user_RB)
FloatUnits = answering("unit", lambda visits: visits.user_RB.float())
OneInflation = answering("inflation", lambda outcome, weight: weight.mean())
ShareOfTwo = answering("treated_share", lambda step, n_steps, p: 2.0)
NoSteps = answering("inflation", lambda outcome, weight: 0.0 * weight.mean(2))
NoCounts = answering("counts", lambda visits: None)
SomeCandidates = answering("candidates", lambda v, s, t: torch.ones(2, 2, dtype=torch.bool))
NoStart = answering("start", lambda context: None)
FailingStart = answering("start", fail)
RefusingStart = answering("start", lambda context: (_ for _ in ()).throw(context.refuse("no")))
NoState = answering("state", lambda: None)
ListState = answering("state", lambda: {"n": [1]})
Evidence = answering("evidence", lambda: {"n": torch.tensor(1)})
MetricValues = answering("diagnostics", lambda evidence, p: ["auc"])


def halve(outcome: Any) -> Tensor:
    outcome.y_RBL.mul_(0.5)
    return ones(outcome, 2)


def unmask(visits: Any, slate: Any, is_treated: Tensor) -> Tensor:
    return slate.is_candidate_WBC.logical_not_()


WritesOutcomes = answering("weights", halve)
WritesSlates = answering("candidates", unmask)


class Forgetful(Borrowing):
    """Has a state, but loads none."""

    _n: Tensor = PrivateAttr(default_factory=lambda: torch.zeros(1))

    def start(self, context: Any) -> Any:
        return self.model_copy(update={})

    def weights(self, outcome: Any) -> Any:
        self._n += 1
        return super().weights(outcome)

    def state(self) -> dict[str, Tensor]:
        return {"n": self._n}

    def load_state(self, tensors: Any) -> None:
        self._n = torch.zeros(1)


class Unmade(Borrowing):
    def __init__(self, **options: Any) -> None:
        raise SystemExit("bye")


DESIGNS = {
    "OddShape": ["weights() returned a float32 tensor of shape (2, 2, 3), 12 values", "(2, 2, 8)"],
    "OneWeight": ["shape (), 1 values"],
    "OneModelOnly": ["shape (2, 1, 8)"],
    "Negative": ["of them negative; wanted finite numbers, 0 or more"],
    "NanWeights": ["of them NaN"],
    "InfiniteWeights": ["of them infinite"],
    "NoWeights": ["weights() returned None"],
    "ArrayWeights": ["an object of type ndarray"],
    "ComplexWeights": ["complex64"],
    "Raising": ["weights() raised ValueError: first line (", HERE],
    "NoModel": ["n_models is 0; wanted 1"],
    "ThreeModels": ["n_models is 3; wanted 1"],
    "TwoArms": ["assign() returned a bool tensor of shape (2,)", "(2, 8)"],
    "NoArms": ["assign() returned None"],
    "SoftArms": ["assign() returned a float", "wanted a bool tensor"],
    "RandomArms": ["assign() gave the same visits other arms", "realdataexp.draws"],
    "OneUnit": ["unit() returned an int64 tensor of shape (1,)"],
    "NegativeUnits": ["unit() returned", "negative; count from 0"],
    "FloatUnits": ["unit() returned a float32", "wanted an int tensor"],
    "OneInflation": ["inflation() returned a float32 tensor of shape ()", "(2, 2)"],
    "ShareOfTwo": ["treated_share() returned 2.0", "wanted a share from 0 to 1"],
    "NoSteps": ["inflation() returned a float32 tensor", "not above 0"],
    "NoCounts": ["counts() returned None"],
    "SomeCandidates": ["candidates() returned a bool tensor of shape (2, 2)", "(2, 8, 5)"],
    "NoStart": ["start() returned None, which lacks assign"],
    "FailingStart": ["start() raised ValueError: first line (", HERE],
    "NoState": ["state() returned None"],
    "ListState": ["state() returned an object of type list as 'n'"],
    "Evidence": ["evidence() returned", "counts replications in front"],
    "MetricValues": ["diagnostics() returned an object of type list"],
    "WritesOutcomes": ["weights() changed its input y_RBL in place"],
    "WritesSlates": ["candidates() changed its input is_candidate_WBC in place"],
    "Forgetful": ["load_state() left n of its state() as it was"],
    "Unmade": ["its constructor raised SystemExit: bye (", HERE],
    "Ranker": ["is not a realdataexp.designs.Design"],
}


def own(name: str) -> str:
    """The name of a component of this file."""
    return f"{__name__}:{name}"


def of_kind(kind: str, name: str, settings: Settings) -> tuple[str, dict[str, Any]]:
    """The config path that names a component, and the settings with it."""
    made = settings(pretrain={"enabled": False}, mode="pooling", experiment={"replications": 2})
    made["simulation"] = {**made["simulation"], "n_steps": 4, "validate_every": 2, "processes": 1}
    made["labels"] = [dict(label) for label in made["labels"]]
    if kind == "design":
        return "mode", made | {"mode": own(name)}
    first = made["labels"][0]
    first |= {"loss_function": "MSE", "model_params": {}}
    if kind == "model":
        if name == "WritingStack":
            first["model_params"] = {"hidden_layers": [4]}
        return "labels.0.model", made | {"labels": [first | {"model": own(name)}]}
    return "labels.0.loss_function", made | {"labels": [first | {"loss_function": own(name)}]}


def lines_of(settings: dict[str, Any]) -> list[str]:
    """The faults that the set-up finds."""
    with pytest.raises(InputError) as caught:
        set_up(load_config(settings), Warnings())
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        *(("model", name, said) for name, said in MODELS.items()),
        *(("loss", name, said) for name, said in LOSSES.items()),
        *(("design", name, said) for name, said in DESIGNS.items()),
    ],
)
def test_a_faulty_component_is_one_line_at_the_set_up(
    kind: str, name: str, said: list[str], small_settings: Settings
) -> None:
    where, settings = of_kind(kind, name, small_settings)
    (line,) = lines_of(settings)
    assert line.startswith((f"{where} = {own(name)!r}: ", "labels.0.model_params")), line
    assert [text for text in said if text not in line] == [], line
    assert "second line" not in line and line.isprintable()


def test_what_a_design_refuses_itself_stays_as_it_says_it(small_settings: Settings) -> None:
    _, settings = of_kind("design", "RefusingStart", small_settings)
    assert lines_of(settings) == ["design RefusingStart: no"]


def test_every_component_at_fault_is_named(small_settings: Settings) -> None:
    settings = small_settings(
        experiment={"replications": 2, "designs": [own("Negative"), "pooling", own("NoCounts")]},
    )
    first, second = (dict(label) for label in settings["labels"])
    first |= {"loss_function": own("NAN")}
    second |= {"model": own("Nothing"), "model_params": {}}
    found = lines_of(settings | {"labels": [first, second]})
    places = ("experiment.designs.0", "experiment.designs.2", "labels.0.loss", "labels.1.model")
    assert [line.startswith(place) for line, place in zip(found, places, strict=True)] == [True] * 4


# --- what is right runs, and gives right results --------------------------------------------------


def answers(settings: dict[str, Any], out: Path) -> Any:
    return run(settings, out=out).outcomes.drop("design")


@pytest.mark.parametrize(
    ("kind", "name", "like"),
    [
        ("model", "Double", "Ranker"),
        ("model", "UnusedParameter", "Ranker"),
        ("model", "AddsFrozen", "AddsConstant"),
        ("model", "Named", "Ranker"),
        ("model", "WritesItsCopy", "Shifted"),
        ("loss", "DOUBLE_HUBER", "HUBER"),
        ("design", "BoolWeights", "FloatOfBool"),
        ("design", "DoubleWeights", "Borrowing"),
    ],
)
def test_what_only_differs_in_type_gives_what_the_plain_component_gives(
    kind: str, name: str, like: str, small_settings: Settings, tmp_path: Path
) -> None:
    mine, other = (answers(of_kind(kind, x, small_settings)[1], tmp_path / x) for x in (name, like))
    assert mine.equals(other)


def test_an_own_pooling_is_pooling(small_settings: Settings, tmp_path: Path) -> None:
    _, settings = of_kind("design", "OwnPooling", small_settings)
    mine, built_in = (
        answers(settings, tmp_path / "a"),
        answers(settings | {"mode": "pooling"}, tmp_path / "b"),
    )
    assert mine.equals(built_in)


class OwnPooling(Pooling):
    """Pooling under another name."""


# --- what the set-up cannot know ends the run later -----------------------------------------------


class LateNan(Ranker):
    """Predicts no number after its first update."""

    def forward(self, num: Tensor, cat: Tensor) -> Tensor:
        is_untrained = self.linear.bias.detach() == 0.0
        return self.linear(num) + torch.where(is_untrained, 0.0, float("nan"))

    def __init__(self, schema: Any, n_outputs: int) -> None:
        super().__init__(schema, n_outputs)
        nn.init.zeros_(self.linear.bias)


def late(method: str, value: Callable[..., Any]) -> type[Borrowing]:
    """A design that answers as it should until step 2."""

    def answer(self: Any, given: Any, *rest: Any) -> Any:
        visits = getattr(given, "visits", given)
        right = getattr(Borrowing, method)(self, given, *rest)
        return value(right if right is not None else visits.user_RB) if visits.step == 2 else right

    return type("Late", (Borrowing,), {method: answer})


LateNegative = late("weights", lambda w: w - 2.0)
LateNanWeights = late("weights", lambda w: w * float("nan"))
LateInfinite = late("weights", lambda w: w / 0.0)
LateShape = late("weights", lambda w: w[:, 0])
LateRaise = late("weights", fail)
LateExit = late("assign", lambda z: exit("done"))
LateArms = late("assign", lambda z: z.int())
LateUnits = late("unit", lambda unit: torch.full_like(unit, -1))
HugeUnits = late("unit", lambda unit: torch.full_like(unit, 2**40))

LATE = [
    ("model", "LateNan", ["label play_time, network pooling 0 shared", "LateNan", "nan"]),
    ("design", "LateNegative", ["weights of network", "LateNegative", "from -1.5 to 1 so far"]),
    ("design", "LateNanWeights", ["weights of network", "from nan to nan"]),
    ("design", "LateInfinite", ["weights of network", "to inf so far"]),
    ("design", "LateShape", ["weights() returned a float32 tensor of shape (2, 16)"]),
    ("design", "LateRaise", ["weights() raised ValueError: first line (", HERE]),
    ("design", "LateExit", ["assign() raised SystemExit: done"]),
    ("design", "LateArms", ["assign() returned an int32 tensor"]),
    ("design", "LateUnits", ["unit() returned numbers from -1 to -1"]),
    ("design", "HugeUnits", ["unit() returned numbers from 1099511627776"]),
]


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(("kind", "name", "said"), LATE)
def test_a_component_that_fails_later_ends_the_run_in_one_line(
    kind: str,
    name: str,
    said: list[str],
    processes: int,
    small_settings: Settings,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, settings = of_kind(kind, name, small_settings)
    settings["simulation"] |= {"processes": processes, "learning_rate": 1e-2}
    settings["experiment"] = {"replications": 2 * processes}
    config = tmp_path / "c.yaml"
    config.write_text(yaml.safe_dump(settings))
    code = cli.main(["run", str(config), "--quiet", "--out", str(tmp_path / "r")])
    (line,) = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("[")]
    assert code == 1
    assert [text for text in said if text not in line] == [], line
    assert "unexpected" not in line and "second line" not in line


def test_a_bad_weight_between_two_looks_is_never_saved(
    small_settings: Settings, tmp_path: Path
) -> None:
    _, settings = of_kind("design", "LateNegative", small_settings)
    settings["simulation"] |= {"n_steps": 9, "validate_every": 9, "save_every": 3}
    with pytest.raises(RunError, match=r"weights of network .*after 3 of 9 steps"):
        run(settings, out=tmp_path / "r")
    assert not (tmp_path / "r" / "checkpoints" / "step_3").exists()


# --- trackers -------------------------------------------------------------------------------------


class Deaf(Writer):
    def last_steps(self) -> dict[str, int]:
        return {}

    def log(self, points: Any) -> None:
        raise SystemExit("the store\nis gone")


class DeafTracker(Tracker):
    def open(self, run: Any) -> Writer:
        return Deaf()


class CheckingTracker(Tracker):
    def check(self) -> None:
        raise SystemExit(2)


class UnmadeTracker(Tracker):
    def __init__(self, **options: Any) -> None:
        raise RuntimeError("no such thing")


def test_a_tracker_that_exits_does_not_end_the_run(
    small_settings: Settings, tmp_path: Path
) -> None:
    _, settings = of_kind("design", "Borrowing", small_settings)
    settings["logging"] = {**settings["logging"], "trackers": [own("DeafTracker")]}
    folder = run(settings, out=tmp_path / "r").folder
    result = json.loads((folder / "result.json").read_text())
    (said,) = [w["message"] for w in result["warnings"] if w["code"] == "tracker_failed"]
    assert "SystemExit: the store" in said and "is gone" not in said


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("CheckingTracker", "check() raised SystemExit: 2"),
        ("UnmadeTracker", "its constructor raised RuntimeError: no such thing"),
        ("Borrowing", "is not a realdataexp.tracking.Tracker"),
    ],
)
def test_a_tracker_that_cannot_be_made_is_one_line(
    name: str, said: str, small_settings: Settings, tmp_path: Path
) -> None:
    _, settings = of_kind("design", "Borrowing", small_settings)
    settings["logging"] = {**settings["logging"], "trackers": [own(name)]}
    with pytest.raises(InputError) as caught:
        run(settings, out=tmp_path / "r")
    assert str(caught.value).startswith(f"logging.trackers.0 = {own(name)!r}: {said}")
    assert "\n" not in str(caught.value)


# --- importing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:\n    pass\n", "its import raised SyntaxError: invalid syntax ("),
        ("x = 1\nraise SystemExit('not today')\n", "its import raised SystemExit: not today ("),
        ("import sys\nsys.exit()\n", "its import raised SystemExit ("),
        ("raise KeyboardInterrupt\n", "its import raised KeyboardInterrupt ("),
        ("x = {}['y']\n", "its import raised KeyError: 'y' ("),
        ("import os\nos.no_such_thing\n", "its import raised AttributeError: module 'os' has no"),
        ("from os import no_such_thing\n", "its import raised ImportError: cannot import name"),
        ("import nowhere_installed.deeper\n", "No module named 'nowhere_installed'"),
        ("\x00", "its import raised SyntaxError: source code"),
        ("raise ValueError('one\\n\\n two')\n", "its import raised ValueError: one ("),
        ("class E(Exception):\n  def __str__(self): 1 / 0\nraise E\n", "its import raised E ("),
        ("def __getattr__(name): raise TypeError(name)\n", "its import raised TypeError: Name ("),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(
    text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"own_module_{abs(hash(text))}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError) as caught:
        find("model", f"{name}:Name", "labels.0.model")
    line = str(caught.value)
    assert line.startswith(f"labels.0.model = '{name}:Name': ") and said in line, line
    assert line.isprintable() and (f"{name}.py:" in line or text == "\x00")


def test_a_signal_is_no_fault_of_the_component() -> None:
    with pytest.raises(KeyboardInterrupt), calling("a", "b"):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(10**7):
            pass


def test_a_reason_is_short_and_names_the_last_line_of_the_users_code() -> None:
    try:
        draws.uniform(None, "x" * 1000)  # type: ignore[arg-type]
    except Exception as error:
        said = reason(error)
    assert f"{HERE}:" in said and len(said) < 700 and said.isprintable()


# --- arms whose shares do not fit p ---------------------------------------------------------------


class SixtyPercent(Borrowing):
    """A fault of bucketing: 60 % are treated where half should be."""

    def assign(self, visits: Any, p: float) -> Tensor:
        return visits.arm_draw_RB < p + 0.1


def test_arms_of_another_share_than_planned_are_warned_of(
    small_settings: Settings, tmp_path: Path
) -> None:
    designs = [
        "pooling", "codiverted", {"name": "cluster", "n_clusters": 3},
        {"name": "switchback", "block_steps": 2}, {"name": own("SixtyPercent"), "label": "broken"},
    ]  # fmt: skip
    settings = small_settings(
        simulation={"batch_size": 64, "validate_every": 10, "processes": 1},
        experiment={"replications": 4, "designs": designs},
        logging={"pictures": True},
    )
    folder = run(settings, out=tmp_path / "r").folder
    result = json.loads((folder / "result.json").read_text())
    said = [w["message"] for w in result["warnings"] if w["code"] == "sample_ratio_mismatch"]
    n = result["diagnostics"]["units_by_arm"]
    (line,) = said
    assert line.startswith(f"broken: {n['broken']['T']:,} of {sum(n['broken'].values()):,} units")
    assert sum(n["pooling"].values()) == sum(n["broken"].values()) > 400
    assert sum(n["switchback"].values()) == 5 * 4 and sum(n["cluster"].values()) == 3 * 4
    assert f">{n['broken']['T']:,}</td>" in (folder / "report.html").read_text(encoding="utf-8")


def test_arms_drawn_anew_at_each_visit_are_counted_by_visit(
    small_settings: Settings, tmp_path: Path
) -> None:
    settings = small_settings(
        mode="pooling",
        pretrain={"enabled": False},
        experiment={"replications": 2, "assignment": "visit"},
    )
    folder = run(settings, out=tmp_path / "r").folder
    result = json.loads((folder / "result.json").read_text())
    assert sum(result["diagnostics"]["units_by_arm"]["pooling"].values()) == 2 * 10 * 16
