"""Reading and writing YAML, from files that may be anything.

Nothing here trusts its input: sizes, depths and what aliases stand for are bounded before they
cost memory, and what YAML would silently read as something else is refused.
"""

from __future__ import annotations

import os
import re
import select
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from realdataexp.errors import InputError

_LARGEST_FILE = 500_000  # bytes; the largest sensible config has some thousand features
_DEEPEST = 30
_MOST_VALUES = 100_000
_MOST_ALIASES = 1_000
_PIPE_SECONDS = 10.0

# YAML 1.1 reads 1e-4 as a text; everybody who writes it means a number.
_EXPONENT = re.compile(r"^[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)[eE][-+]?[0-9]+$")
# What YAML 1.1 reads as something that few people mean, and later versions as something else.
_AMBIGUOUS = {
    re.compile(r"(?i:yes|no|on|off)"): "may be meant as true or false, or as a text: write true "
    "or false, or put it in quotes",
    re.compile(r"[-+]?0[0-9_]+"): "may be meant as octal or decimal: leave out the leading 0, or "
    "put it in quotes",
    re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?"): "may be meant as a time or as a "
    "number to base 60: write one number, or put it in quotes",
}


class _Refused(yaml.MarkedYAMLError):
    """YAML that is right, but more than a config needs, or not what it seems; with its remedy."""

    def __init__(self, problem: str, mark: Any) -> None:
        super().__init__(problem=problem, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """The safe loader, which also bounds what it reads and notes keys given twice."""

    # sets, pairs and bytes have no place in a config
    yaml_constructors = {  # noqa: RUF012 (as in the base class)
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] not in ("binary", "omap", "pairs", "set")
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.duplicates: list[tuple[int, str, int]] = []  # line, key, line of the first
        self._n_aliases = 0

    def fetch_more_tokens(self) -> None:
        # before depth costs time: the scanner looks at all levels for each token
        if self.flow_level + len(self.indents) > _DEEPEST:
            text = f"nested more than {_DEEPEST} levels deep; use a flatter config"
            raise _Refused(text, self.get_mark())
        super().fetch_more_tokens()

    def compose_node(self, parent: Any, index: Any) -> Any:
        # what aliases stand for can grow with a power of their number
        self._n_aliases += self.check_event(yaml.AliasEvent)
        if self._n_aliases > _MOST_ALIASES:
            text = f"more than {_MOST_ALIASES:,} aliases; write the values out"
            raise _Refused(text, self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)  # before merge keys are filled in
        first_line: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in first_line:
                    self.duplicates.append((line, key.value, first_line[key.value]))
                first_line.setdefault(key.value, line)
        return node

    def compose_scalar_node(self, anchor: Any) -> Any:
        is_plain = self.peek_event().implicit[0]
        node = super().compose_scalar_node(anchor)
        for pattern, fault in _AMBIGUOUS.items() if is_plain else ():
            if pattern.fullmatch(node.value):
                raise _Refused(f"{node.value} {fault}", node.start_mark)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)  # merge keys, which can repeat each other without end
        if len(node.value) > _MOST_VALUES // 10:
            text = "merge keys (<<) bring in too many settings; write them out"
            raise _Refused(text, node.start_mark)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if node.tag.endswith((":int", ":float")) and len(value) > 400:  # Python would not convert
            text = f"a number of {len(value):,} characters; use a shorter one"
            raise _Refused(text, node.start_mark)
        return value


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that `_Loader` would read as numbers."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def to_yaml(values: Mapping[str, Any]) -> str:
    """The mapping as YAML text, in its own order, that `parse_yaml` reads back unchanged."""
    return yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def parse_yaml(text: str, source: str) -> tuple[Any, list[str]]:
    """The plain value of a YAML text, and one line for every key that is given twice.

    Raises:
        InputError: The text is not YAML, or more than a config can be; the message names the
            source and the line.
    """
    try:
        loader = _Loader(text)
        value = loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        if isinstance(error, _Refused):
            raise InputError(f"{source}: {line}{error.problem}") from None
        reason = " ".join(x for x in (error.context, error.problem) if x)
        remedy = "use spaces, not tabs" if "'\\t'" in reason else "correct this line"
        raise InputError(f"{source}: {line}not YAML: {reason}; {remedy}") from None
    except yaml.reader.ReaderError as error:
        number, character = text.count("\n", 0, error.position) + 1, chr(error.character)
        said = f"not YAML: the character {character!r} is not allowed; remove it"
        raise InputError(f"{source}: line {number}: {said}") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{source}: not YAML: {reason}; pass a YAML file") from None
    faults = [
        f"{source}: line {line}: key {key} is given twice (first in line {first}): keep one"
        for line, key, first in loader.duplicates
    ]
    return plain_copy(value, source), faults


def plain_copy(value: Any, source: str) -> Any:
    """A copy without shared parts: a YAML alias must not pass an override on to its twin.

    Raises:
        InputError: It has too many values or levels, as where an alias holds itself, a key that is
            no text, or a whole number of more than 64 bits.
    """
    n_left = _MOST_VALUES

    def copy(value: Any, path: tuple[Any, ...]) -> Any:
        nonlocal n_left
        n_left -= 1
        where = f"{source}: {'.'.join(map(str, path))}".removesuffix(": ")
        if n_left < 0:
            raise InputError(
                f"{source}: holds more than {_MOST_VALUES:,} values, aliases written out: use a "
                "smaller config"
            )
        if len(path) > _DEEPEST:
            raise InputError(
                f"{source}: {'.'.join(map(str, path[:3]))}: nested more than {_DEEPEST} levels "
                "deep, or within itself: use a flatter one"
            )
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str):
                    raise InputError(f"{where}: the key {key} is no text: put it in quotes")
            return {key: copy(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [copy(item, (*path, i)) for i, item in enumerate(value)]
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise InputError(
                f"{where}: a whole number of {value.bit_length()} bits: use at most 64"
            )
        return value

    return copy(value, ())


def read_text(path: Path, name: str) -> str:
    """The text of a file that may be a config, or of a pipe.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: It cannot be a config.
    """

    def fault(reason: str) -> InputError:
        return InputError(f"{name}: {reason}; pass a YAML file")

    try:
        data = _read(path, fault)
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise fault(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > _LARGEST_FILE:
        raise fault(f"larger than {_LARGEST_FILE / 1e6:g} MB, which no config needs")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise fault("a text in UTF-16, not UTF-8: save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise fault(f"line {line}: not a text file in UTF-8") from None


def _read(path: Path, fault: Callable[[str], InputError]) -> bytes:
    """At most one byte more than a config can have, without waiting for what never comes."""
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(number, "rb", buffering=0) as file:
        kind = os.fstat(number).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISFIFO(kind)):
            raise fault("is a device, not a file")
        data = b""
        while len(data) <= _LARGEST_FILE:
            if stat.S_ISFIFO(kind) and not select.select([file], [], [], _PIPE_SECONDS)[0]:
                raise fault(f"a pipe into which nobody writes for {_PIPE_SECONDS:g} seconds")
            more = file.read(_LARGEST_FILE + 1 - len(data))
            if not more:
                break
            data += more
        return data
