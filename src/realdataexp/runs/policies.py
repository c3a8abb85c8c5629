"""From a config's arms to what scores, explores and is trained for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from realdataexp.arms import MostPopular, OutsidePolicy, Policy, Random, Scorer
from realdataexp.config import ARMS, Config
from realdataexp.device import Device
from realdataexp.errors import InputError
from realdataexp.options import construct
from realdataexp.registry import find, is_outside
from realdataexp.worlds.base import Environment

# what makes a label's network, apart from how it is trained
_OF_NETWORK = (
    "target", "type", "n_classes", "model", "loss_function", "model_params", "features",
)  # fmt: skip


def how_arms_pick(config: Config) -> Literal["pick the best", "explore", "unknown"]:
    """How random a pick is, given slate and networks; see designs.Context."""
    policies = config.policies()
    kinds = {policy.explore.kind for policy in policies}
    if "thompson" in kinds:
        return "unknown"
    is_random = any(policy.rule == "random" for policy in policies)
    return "explore" if is_random or kinds != {"none"} else "pick the best"


def scorers_of(config: Config, environment: Environment, device: Device) -> list[Scorer | None]:
    """What scores for each arm in place of labels: a rule, or a policy from outside.

    Raises:
        InputError: a rule has nothing to go by in this world, or a policy is none.
    """
    found: list[Scorer | None] = []
    arms = (ARMS[1], ARMS[1]) if config.experiment.aa else ARMS
    for arm, policy in zip(arms, config.policies(), strict=True):
        where = f"arms.{arm}"
        if policy.rule == "random":
            found.append(Random())
        elif policy.rule == "most_popular":
            count = [environment.popularity(k) for k in range(config.experiment.n_starts)]
            known = [x for x in count if x is not None]
            if not known:
                raise InputError(
                    f"{where}.rule = 'most_popular': every item of this world is new, so none is "
                    "popular; use rule: random, or a score"
                )
            found.append(MostPopular(device.tensor(np.stack(known).astype(np.float32))))
        elif policy.policy is not None:
            who = f"{where}.policy = {policy.policy!r}"
            component = find("policy", policy.policy, f"{where}.policy")
            if not (isinstance(component, type) and issubclass(component, Policy)):
                raise InputError(f"{who}: is not a class of realdataexp.arms.Policy")
            made = construct(component, policy.policy, policy.options, f"{where}.policy")
            found.append(OutsidePolicy(made, who))
        else:
            found.append(None)
    return found


def check_drawn_networks(config: Config) -> None:
    """Thompson sampling draws networks by dropout; InputError where no network has any."""
    for arm, policy in zip(ARMS, config.policies(), strict=True):
        asked = [x for x in config.learned if x.name in (policy.score or {})]
        if policy.explore.kind != "thompson" or not asked:
            continue
        if outside := [x.name for x in asked if is_outside(x.model)]:
            raise InputError(
                f"arms.{arm}.explore.kind = 'thompson': {', '.join(outside)} has a model from "
                "outside the package, whose networks cannot be drawn; explore otherwise"
            )
        if not any(x.model_params.get("dropout") for x in asked):
            raise InputError(
                f"arms.{arm}.explore.kind = 'thompson': no network that the arm scores with has "
                f"dropout, so there is nothing to draw; set model_params.dropout of "
                f"{asked[0].name}, or explore otherwise"
            )


def networks_of(
    config: Config, groups: Sequence[tuple[int, ...]]
) -> list[tuple[tuple[bool, bool], str]]:
    """For each label with a model: the arms that its network is for, and whose draws this has.

    Labels of different arms that differ in nothing that makes a network have the same draws, so
    that equal models are equal, and no luck tells the arms apart: common random numbers.

    Args:
        config: whose.
        groups: the labels of each network, as places among those with a model.
    """
    labels, found = config.learned, []
    arms = [config.arms_of(label) for label in labels]
    for group in groups:
        of_group = any(arms[i][0] for i in group), any(arms[i][1] for i in group)
        for i in group:
            arms[i] = of_group
    for i, label in enumerate(labels):
        twins = [
            other.name
            for j, other in enumerate(labels[:i])
            if all(getattr(label, x) == getattr(other, x) for x in _OF_NETWORK)
            and not any(a and b for a, b in zip(arms[i], arms[j], strict=True))
        ]
        found.append((arms[i], twins[0] if twins else label.name))
    return found
