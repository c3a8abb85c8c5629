"""Ways to run an A/B test, one file each.

The true effect needs no design of its own: it is pooling with everybody treated (p = 1) against
pooling with nobody treated (p = 0), in separate worlds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from realdataexp.designs.base import CONTROL, TREATMENT, Context, Design, Outcome
from realdataexp.designs.outside import OutsideDesign
from realdataexp.errors import InputError
from realdataexp.options import construct
from realdataexp.registry import find, is_outside, names

__all__ = [
    "CONTROL", "TREATMENT", "Context", "Design", "Outcome", "OutsideDesign", "build_design",
]  # fmt: skip


def build_design(name: str, options: Mapping[str, Any], where: str) -> Design | OutsideDesign:
    """The design called ``name``, or an outside class given as ``package.module:Name``.

    Raises:
        InputError: no such design, or it refuses an option; ``where`` is the config path.
        ComponentError: one from outside has a number of models that no design has.
    """
    component = find("design", name, where)
    if not (isinstance(component, type) and issubclass(component, Design)):
        raise InputError(f"{where} = {name!r}: is not a realdataexp.designs.Design")
    design = construct(component, name, options, where)
    if is_outside(name):
        return OutsideDesign(design, f"{where} = {name!r}")
    if option := design.outside_option:
        return OutsideDesign(design, f"{where}.{option} = {getattr(design, option)!r}")
    return design


def __getattr__(name: str) -> Any:
    """A design of the package by the name of its class, imported when it is first asked for."""
    for known in names("design"):
        if name == "".join(part.capitalize() for part in known.split("_")):
            return find("design", known, "design")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def registered_name(design: type[Design]) -> str | None:
    """The name of a design of the package; None of another."""
    return next((x for x in names("design") if find("design", x, "design") is design), None)
