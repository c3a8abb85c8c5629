"""Components from outside the package are held to what they promise.

Whatever one raises, and whatever it returns that is not what was asked for, becomes one line that
names it.
"""

from __future__ import annotations

import dis
import os
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from realdataexp.errors import InputError, RunError, one_line

_PACKAGE = f"{Path(__file__).parent}{os.sep}"
_LIBRARIES = (sysconfig.get_path("stdlib"), "site-packages", "dist-packages", "<")
_RAISE = dis.opmap["RAISE_VARARGS"]
_MAX_TEXT = 300  # characters of what a component says


class ComponentError(RunError):
    """A component from outside the package failed, or returned what it must not."""


def faults_of(error: InputError | ComponentError) -> tuple[str, ...]:
    """The lines of an error, which a set-up gathers."""
    return error.faults if isinstance(error, InputError) else (str(error),)


class Unfit(Exception):
    """What a component returned is not what was wanted; the message says both."""


@contextmanager
def calling(who: str, call: str, kind: type[Exception] = ComponentError) -> Iterator[None]:
    """Turn whatever a component from outside raises into one line.

    Args:
        who: the config path and the name of the component.
        call: what is asked of it, such as ``forward()``.
        kind: of the error to raise: InputError while a run is set up.

    Raises:
        InputError, RunError: as the component raised them, or one of ``kind``.
    """
    try:
        yield
    except (InputError, RunError):
        raise
    except Unfit as error:
        raise kind(f"{who}: {call} {error}") from error
    except (Exception, SystemExit, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) and not _is_raised_by_code(error):
            raise
        if type(error).__name__ == "OutOfMemoryError":  # PyTorch's: the run says what helps
            raise
        raise kind(f"{who}: {call} raised {reason(error)}; mend it or name another") from error


def reason(error: BaseException) -> str:
    """What an error says, in a line: type, first line, and where a user's file raised it."""
    try:
        lines = str(error.msg if isinstance(error, SyntaxError) else error).split("\n")
    except Exception:  # an error of one's own may fail at that too
        lines = []
    said = next((line for line in lines if line.strip()), "")
    said = one_line(said.strip())
    said = said if len(said) <= _MAX_TEXT else f"{said[: _MAX_TEXT - 3]}..."
    place = _place(error)
    return f"{type(error).__name__}{': ' if said else ''}{said}{f' ({place})' if place else ''}"


def _place(error: BaseException) -> str:
    """File and line of the user's code that raised an error; empty where none is known."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(part in frame.filename for part in (_PACKAGE, *_LIBRARIES)):
            return f"{frame.filename}:{frame.lineno}"
    return ""


def _is_raised_by_code(error: KeyboardInterrupt) -> bool:
    """Whether a ``raise`` of a component made it; else a signal did."""
    innermost: TracebackType | None = error.__traceback__
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    if innermost is None:
        return False
    code = innermost.tb_frame.f_code
    is_own = code.co_filename.startswith(_PACKAGE)  # ours raises it for a signal
    return not is_own and code.co_code[innermost.tb_lasti] == _RAISE
