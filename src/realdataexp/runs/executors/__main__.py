"""``python -m realdataexp.runs.executors FOLDER``: work on a part, as every executor runs it.

A part is a shard, or a whole run folder, new or stopped. Exit codes: 0 done, 130 stopped by a
signal (SIGTERM, SIGINT, SIGUSR1, SIGUSR2) after it kept what it has, 1 failed, 2 wrong input.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

from realdataexp.device import own_arithmetic
from realdataexp.errors import DiskError, InputError, one_line
from realdataexp.files import locked
from realdataexp.runs.executors.chunks import JOB
from realdataexp.runs.executors.work import DISK, noting_errors, work
from realdataexp.runs.parts import ERROR, LOCK

_STOPPING = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2")  # batch systems warn with the last two


def main(words: list[str] | None = None) -> int:
    """Run a part; its error is a line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m realdataexp.runs.executors")
    parser.add_argument("part", type=Path, help="the folder of a shard, or a run folder")
    parser.add_argument("--parent", type=int, help="end when this process is gone")
    given = parser.parse_args(words)
    try:
        with locked(given.part / LOCK):
            if (given.part / JOB).exists():
                return _shard(given.part, given.parent)
            return _run(given.part, given.parent)
    except KeyboardInterrupt as error:
        print(one_line(str(error)), file=sys.stderr)
        return 130
    except (DiskError, OSError) as error:  # error.json may lack the room that a chunk lacked
        print(one_line(str(error)), file=sys.stderr)
        return DISK
    except Exception as error:
        print(one_line(" ".join(str(error).split())), file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


@own_arithmetic()
def _shard(folder: Path, parent: int | None) -> int:
    stops: list[int] = []
    for name in _STOPPING:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _: stops.append(number))
    is_done = work(
        folder,
        is_wanted=lambda: parent is None or os.getppid() == parent,
        is_stopped=lambda: bool(stops),
    )
    return 0 if is_done else 130


def _run(folder: Path, parent: int | None) -> int:
    """A run folder in which a run waits, or was stopped."""
    from realdataexp.runs.experiment import resume_experiment

    def end_with(parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent is not None:
        threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    for name in _STOPPING[2:]:
        if hasattr(signal, name):  # as SIGTERM, which ends a run that keeps what it has
            signal.signal(getattr(signal, name), lambda *_: signal.raise_signal(signal.SIGTERM))
    with noting_errors(folder):
        (folder / ERROR).unlink(missing_ok=True)
        resume_experiment(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
