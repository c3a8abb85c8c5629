"""Whether some parameter learns from nothing, or from less than it is used for.

A parameter to which no gradient comes, in several batches, is not connected with the loss: its
module was wrapped again, its key has another name, or its output is not used. And a module may be
called twice, as an embedding that is read and also scores items: a call is detached if other
numbers in its output would change the loss, but no gradient comes back to it. What is computed
under no_grad is meant to learn nothing, and is not counted.

There is no noise, as nothing is dropped out: a gradient is 0 in every number, in all batches, only
where nothing is connected, or an activation is dead for all examples. Where what follows is 0 in
every number (an adapter's last layer, before its first step) a gradient is 0 as well, so trained
parameters that are 0 are drawn before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.probes import awake, still
from realdataexp.diagnose.subject import Batch, Subject, mapped, tensors_of

_N_BATCHES = 3
Call = tuple[str, int]  # of a module by name, and which of its calls in a batch's loss
_Seen = Callable[[Call, Any], Any]


def check(subject: Subject, seed: int) -> Measured:
    """Count trained parameters, and calls of their modules, to which no gradient comes."""
    model = still(awake(subject.model(), seed))
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    batches = list(subject.batches(_N_BATCHES))
    is_alive, calls = dict.fromkeys(trained, False), dict[Call, bool]()
    for batch in batches:
        model.zero_grad()
        _loss(subject, model, batch, partial(_watch, calls)).backward()
        for name, p in trained.items():
            is_alive[name] |= p.grad is not None and bool(p.grad.any())
    dead = [name for name, alive in is_alive.items() if not alive]
    mute = [call for call, alive in calls.items() if not alive and _learns(model, call[0], dead)]
    detached = [f"call {i + 1} of {k}" for k, i in _heard(subject, model, batches[0], mute)]
    return Measured(
        bool(dead or detached), float(len(dead) + len(detached)), 0.0,
        f"{len(dead)} of {len(trained)} trained parameters get no gradient{_listed(dead)}; of "
        f"{len(calls)} calls of their modules {len(detached)} are detached{_listed(detached)}",
        "look how their outputs reach the loss, and at the names in the state that was loaded; "
        "compute what is not to learn under torch.no_grad",
    )  # fmt: skip


def _listed(names: list[str]) -> str:
    return f": {', '.join(names[:5])}{' …' * (len(names) > 5)}" if names else ""


def _learns(model: nn.Module, name: str, dead: list[str]) -> bool:
    """Whether a module has parameters of its own that learn from other calls."""
    own = model.get_submodule(name).named_parameters(name, recurse=False)
    return any(p.requires_grad and k not in dead for k, p in own)


def _loss(subject: Subject, model: nn.Module, batch: Batch, seen: _Seen) -> Tensor:
    """A batch's loss; what modules with trained parameters return goes through ``seen``."""
    n_calls, hooks = Counter[str](), []

    def hook(name: str, module: nn.Module, args: Any, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return output
        n_calls[name] += 1
        return seen((name, n_calls[name] - 1), output)

    for name, module in model.named_modules():
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            hooks.append(module.register_forward_hook(partial(hook, name)))
    torch.manual_seed(0)
    try:
        return subject.loss(model, batch)
    finally:
        for x in hooks:
            x.remove()


def _watch(calls: dict[Call, bool], call: Call, output: Any) -> Any:
    """Note whether a gradient comes to what a call returns."""
    calls.setdefault(call, False)

    def alive(grad: Tensor) -> None:
        calls[call] |= bool(grad.any())

    for x in tensors_of(output).values():
        if x.requires_grad:
            x.register_hook(alive)
    return output


def _heard(subject: Subject, model: nn.Module, batch: Batch, mute: list[Call]) -> list[Call]:
    """The calls whose outputs would change the loss if they were other numbers."""

    def noisy(wanted: Call | None, call: Call, output: Any) -> Any:
        return mapped(output, _noised) if call == wanted else output

    def loss(wanted: Call | None) -> float:
        return float(_loss(subject, model, batch, partial(noisy, wanted)).detach())

    return [call for call in mute if loss(call) != loss(None)]


def _noised(name: str, x: Tensor) -> Tensor:
    if not x.is_floating_point():
        return x
    return x + torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
