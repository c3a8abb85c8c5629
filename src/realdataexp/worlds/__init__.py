"""Where slates and feedback come from."""

from typing import cast

from realdataexp.config import Config
from realdataexp.registry import is_outside
from realdataexp.worlds.base import (
    Environment,
    HeldOut,
    RowSource,
    Slate,
    Visits,
    World,
    WorldConfig,
    WorldSettings,
)
from realdataexp.worlds.outside import OutsideConfig
from realdataexp.worlds.simulated import SimulatedEnvironment, SimulatedWorld, Simulator

__all__ = [
    "Environment",
    "HeldOut",
    "RowSource",
    "SimulatedEnvironment",
    "SimulatedWorld",
    "Simulator",
    "Slate",
    "Visits",
    "World",
    "WorldConfig",
    "WorldSettings",
    "world_of",
]


def world_of(config: Config) -> WorldConfig:
    """The world that a config names."""
    world = config.dataset
    assert isinstance(world, WorldConfig)  # the config's schema sees to it
    return cast(WorldConfig, OutsideConfig(world)) if is_outside(world.name) else world
