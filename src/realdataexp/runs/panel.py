"""The panel of the score card: its worlds as data, and the config of each for some designs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from realdataexp.config import Config
from realdataexp.config.load import apply_to, checked_draft, draft_of, read_draft
from realdataexp.config.yaml_text import parse_yaml, read_text

Kind = Literal["effect", "aa", "timing"]
"""What a world is run for: an effect, an A/A test, or how long each design takes."""
_FILE = Path(__file__).with_name("panel.yaml")
_Settings = dict[str, Any]


class World(BaseModel):
    """A world of the panel.

    Attributes:
        title: what it is.
        config: the config that it builds on.
        labels: the outcomes that the card looks at; none: all that are measured.
        settings: what it changes; ``aa``: what its A/A test changes besides.
        needs_data: whether its data lie in a folder that the user names.
        is_timed: whether designs are timed here; a quick card has these worlds alone.
        is_own: whether it is the user's, and not of the panel.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    config: str
    labels: tuple[str, ...] = ()
    settings: _Settings = {}
    aa: _Settings = {}
    needs_data: bool = False
    is_timed: bool = False
    is_own: bool = False


class Panel(BaseModel):
    """All worlds, and what they have in common: the content of panel.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int
    designs: tuple[str, ...]
    settings: _Settings
    aa: _Settings
    timing: _Settings
    quick: _Settings
    worlds: dict[str, World] = Field(min_length=1)

    @classmethod
    def read(cls) -> Self:
        """That of the package."""
        values, _ = parse_yaml(read_text(_FILE, _FILE.name), _FILE.name)
        return cls.model_validate(values)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that a card depends on: the panel, and the configs that it names."""
        names = sorted({world.config for world in self.worlds.values()})
        configs = {name: read_draft(name).values for name in names}
        return digest({"panel": self.model_dump(mode="json"), "configs": configs})

    def config(
        self,
        world: World,
        kind: Kind,
        designs: Sequence[str | Mapping[str, Any]],
        *,
        data: Path | None = None,
        is_quick: bool = False,
        n_processes: int | None = None,
    ) -> Config:
        """The config of a world for some designs; none: of the truth alone.

        Raises:
            InputError: a design is unknown, or a world of the user's own has a fault.
        """
        draft = draft_of(world.config, (), data if world.needs_data else None)
        common = {"experiment.intervals": self.settings["experiment.intervals"]}
        layers = [common if world.is_own else self.settings, world.settings]
        if kind == "aa":
            layers += [{"experiment.aa": True} if world.is_own else self.aa, world.aa]
        layers += [self.quick] * is_quick + [self.timing] * (kind == "timing")
        layers += [{"simulation.processes": n_processes}] * (n_processes is not None)
        layers.append({"experiment.designs": list(designs)} if designs else {"mode": "global"})
        for layer in layers:
            for key, value in layer.items():
                apply_to(draft, key, value, "score")
        if designs:
            apply_to(draft, "mode", "compare", "score")
        apply_to(draft, "logging.pictures", False, "score")
        return checked_draft(draft)


def digest(value: Any) -> str:
    """SHA-256 of plain values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
