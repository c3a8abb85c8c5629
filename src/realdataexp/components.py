"""Find a component by its name in a table, or by ``package.module:Name`` outside the package."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from realdataexp.errors import InputError


def resolve(name: str, table: Mapping[str, Any], where: str) -> Any:
    """The entry of ``table`` called ``name``, or the attribute that ``package.module:Name`` names.

    Raises:
        InputError: there is no such entry, module or attribute; ``where`` is the config path.
    """
    if name in table:
        return table[name]
    module_name, colon, attribute = name.partition(":")
    if not colon:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0.0)
        raise InputError(
            f"{where} = {name!r}: unknown; use one of {', '.join(table)} "
            f"(nearest: {near[0]}), or package.module:Name"
        )
    if not (module_name and attribute) or module_name.startswith("."):
        raise InputError(f"{where} = {name!r}: is no import path; write package.module:Name")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise InputError(
            f"{where} = {name!r}: cannot import module {module_name!r} ({error}); "
            "install it, or put its folder on PYTHONPATH"
        ) from error
    except AttributeError as error:
        raise InputError(f"{where} = {name!r}: {module_name!r} has no {attribute!r}") from error
