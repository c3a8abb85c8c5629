"""The command line. `--help` must answer at once: a command imports what it needs when it runs.

Exit codes: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted after saving.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from realdataexp import __version__, terminal
from realdataexp.configs import built_in_names
from realdataexp.errors import InputError, RunError, is_out_of_memory, one_line
from realdataexp.runs.interrupts import ENDING, is_ignored
from realdataexp.streams import lasting_streams

if TYPE_CHECKING:
    from realdataexp.config import Config

app = typer.Typer(
    name="realdataexp",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# a pipe whose reader had enough, a terminal that is gone
_NOBODY_LISTENS = (errno.EPIPE, errno.EIO, errno.EBADF)
# the commands whose answer is in no file
_PRINTED = ("schema", "doctor", "validate")


class _Interrupted(Exception):
    """A KeyboardInterrupt that says what became of the run; typer would drop that."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; errors become lines on stderr."""
    if threading.current_thread() is threading.main_thread():
        # what batch systems and lost terminals send ends a command as Ctrl-C does
        for number in ENDING[1:]:
            if not is_ignored(number):
                signal.signal(number, signal.default_int_handler)
    arguments = list(sys.argv[1:] if argv is None else argv)
    with lasting_streams() as stdout:
        code = _main(arguments)
        stdout.flush()
        lost = stdout.error
        if code == 0 and lost is not None and lost.errno not in _NOBODY_LISTENS:
            is_lost = not arguments or arguments[0].startswith("-") or arguments[0] in _PRINTED
            _fail(1, f"stdout: {lost.strerror}: what was printed is incomplete")
            code = int(is_lost)
    return code


def _main(arguments: list[str]) -> int:
    try:
        _refuse_empty(arguments)
        code = app(args=arguments, prog_name="realdataexp", standalone_mode=False)
    except typer.TyperException as error:
        return _fail(2, _usage_line(error))
    except InputError as error:
        return _fail(2, *error.faults)
    except RunError as error:
        return _fail(1, str(error))
    except _Interrupted as error:
        return _fail(130, str(error) or "interrupted")
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # panics of Polars are no Exception
        return _fail_unforeseen(error)
    if code == 130:
        return _fail(130, "interrupted")
    return code if isinstance(code, int) else 0


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Nothing that is given may be empty: as a path it would stand for the current folder."""
    for before, argument in zip(["realdataexp", *arguments], arguments, strict=False):
        if not argument.strip() or (argument.startswith("--") and argument.endswith("=")):
            after = argument.removesuffix("=") if argument.strip() else before
            raise InputError(f"after {after}: an empty value: give one, or leave both out")


def _fail(code: int, *lines: str) -> int:
    for line in lines:
        print(one_line(line), file=sys.stderr)
    return code


def _fail_unforeseen(error: BaseException) -> int:
    """End with an error that no command explains; a path that can be none is a wrong input."""
    from realdataexp.files import OF_PLACE

    if isinstance(error, OSError) and error.filename is not None and error.errno in OF_PLACE:
        return _fail(2, f"{error.filename}: {error.strerror}; give another path")
    return _fail(1, _unexpected(error))


def _unexpected(error: BaseException) -> str:
    """The line of an error that nobody foresaw, or that memory ran out."""
    if os.environ.get("REALDATAEXP_DEBUG") == "1":
        traceback.print_exception(error)
    text = " ".join(str(error).split())
    notes = "; ".join([*getattr(error, "__notes__", ()), "REALDATAEXP_DEBUG=1 shows where"])
    if is_out_of_memory(error):
        text += "; ask for less, or free memory (realdataexp doctor CONFIG estimates the need)"
        return f"out of memory: {text} ({notes})"
    return f"unexpected {type(error).__name__}: {text} ({notes})"


def _usage_line(error: typer.TyperException) -> str:
    """A usage error as one line that names the command whose help explains it."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "realdataexp"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    return f"{command}: {' '.join(message.split())} (see {command} --help)"


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"realdataexp {__version__}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    epilog="Example: realdataexp run demo",
)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Replay real logs through a recommender's training loop, and test A/B designs on them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


_CONFIG = f"A YAML file or the name of a built-in config ({', '.join(built_in_names())})"
_ConfigName = Annotated[str | None, typer.Argument(help=f"{_CONFIG}; default: demo.")]
_ConfigOption = Annotated[str | None, typer.Option("--config", "-c", help="The same as CONFIG.")]
_Data = Annotated[Path | None, typer.Option(help="Folder with the data set's files.")]
_Seed = Annotated[int | None, typer.Option(help="Seed of every random draw.")]
_Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, xpu, mps or dml.")]
_Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY.SUB=VALUE", help="Replace a setting (YAML value); repeatable."
    ),
]
_Quiet = Annotated[bool, typer.Option("--quiet", help="Show warnings and the result only.")]
_Verbose = Annotated[bool, typer.Option("--verbose", help="Show details too.")]
_RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A run folder.")]
_RunDirs = Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Run folders.")]


def _config_name(config: str | None, config_option: str | None) -> str:
    """The config that a command is given."""
    if config is not None and config_option is not None:
        raise InputError(f"CONFIG {config} and --config {config_option}: give one of them")
    return config or config_option or "demo"


def _one_of(*, quiet: bool, verbose: bool) -> None:
    if quiet and verbose:
        raise InputError("--quiet and --verbose: give one of them")


@app.command(
    epilog="Example: realdataexp run kuairand-pure --data data/KuaiRand-Pure --mode global "
    "--set simulation.n_steps=50",
)
def run(
    config: _ConfigName = None,
    config_option: _ConfigOption = None,
    mode: Annotated[
        str | None, typer.Option("--mode", "-m", help="global, compare, or a design's name.")
    ] = None,
    data: _Data = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The run folder; default: results/<timestamp>-<mode>."),
    ] = None,
    seed: _Seed = None,
    device: _Device = None,
    overrides: _Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Resolve and check everything, run nothing.")
    ] = False,
    quiet: _Quiet = False,
    verbose: _Verbose = False,
) -> None:
    """Run an experiment; print its result table and its run folder."""
    _one_of(quiet=quiet, verbose=verbose)
    name = _config_name(config, config_option)
    from realdataexp.config import load_config

    loaded = load_config(name, overrides or (), mode=mode, data=data, seed=seed, device=device)
    terminal.log_lines(loaded.logging.level, quiet=quiet, verbose=verbose)
    from realdataexp.runs.experiment import check_experiment, run_experiment

    if dry_run:
        for line in check_experiment(loaded, out):
            terminal.say(line)
        return
    try:
        run_dir = run_experiment(loaded, out)
    except KeyboardInterrupt as error:
        raise _Interrupted(*error.args) from error
    from realdataexp.report.table import print_result

    print_result(run_dir)
    terminal.say(f"Run folder: {run_dir}")


@app.command(epilog="Example: realdataexp resume results/20260101-120000-compare")
def resume(
    run_dir: _RunDir,
    data: Annotated[
        Path | None,
        typer.Option(help="Where the data set's files are now; default: where they were."),
    ] = None,
    quiet: _Quiet = False,
    verbose: _Verbose = False,
) -> None:
    """Continue an interrupted run to its end, as if it had never been interrupted."""
    _one_of(quiet=quiet, verbose=verbose)
    from realdataexp.report.files import is_complete
    from realdataexp.report.table import print_result

    if is_complete(run_dir):
        terminal.say(f"{run_dir}: complete; nothing to resume")
        return
    terminal.log_lines("INFO", quiet=quiet, verbose=verbose)
    from realdataexp.runs.experiment import resume_experiment

    try:
        resume_experiment(run_dir, data)
    except KeyboardInterrupt as error:
        raise _Interrupted(*error.args) from error
    print_result(run_dir)
    terminal.say(f"Run folder: {run_dir}")


@app.command(
    epilog="Example: realdataexp plan demo --p 0.1,0.5 --steps 50,100 --retrain-every 1,10",
)
def plan(
    config: _ConfigName = None,
    config_option: _ConfigOption = None,
    p: Annotated[
        str | None,
        typer.Option(
            "--p", metavar="P,...", help="Treatment probabilities; default: the config's."
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="Lengths; default: a quarter, half, all of n_steps."),
    ] = None,
    retrain_every: Annotated[
        str | None,
        typer.Option(metavar="N,...", help="Steps between trainings; default: the config's."),
    ] = None,
    power: Annotated[
        float, typer.Option(help="Chance with which an effect shall be detected.")
    ] = 0.8,
    data: _Data = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The plan's folder, new or of an interrupted plan; default: "
            "results/<timestamp>-plan."
        ),
    ] = None,
    seed: _Seed = None,
    device: _Device = None,
    overrides: _Overrides = None,
    quiet: _Quiet = False,
    verbose: _Verbose = False,
) -> None:
    """Simulate tests of several p, lengths and cadences; print what each design could detect."""
    _one_of(quiet=quiet, verbose=verbose)
    name = _config_name(config, config_option)
    from realdataexp.config import load_config

    loaded = load_config(name, overrides or (), data=data, seed=seed, device=device)
    terminal.log_lines(loaded.logging.level, quiet=quiet, verbose=verbose)
    from realdataexp.runs.planning import run_plan

    try:
        folder = run_plan(loaded, out, p=p, steps=steps, retrain_every=retrain_every, power=power)
    except KeyboardInterrupt as error:
        raise _Interrupted(*error.args) from error
    from realdataexp.report.table import print_plan

    print_plan(folder)
    terminal.say(f"Plan folder: {folder}")


@app.command(
    epilog="Example: realdataexp prepare data/KuaiRand-Pure --logs standard_late",
)
def prepare(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A KuaiRand folder, or that of a config's tables.")
    ],
    cache: Annotated[
        Path | None, typer.Option(help="Cache folder; default: the user's cache folder.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Import again, cached or not.")] = False,
    config: Annotated[
        str, typer.Option("--config", "-c", help="Config whose features and labels to import.")
    ] = "kuairand-pure",
    logs: Annotated[
        list[str] | None,
        typer.Option(help="random, standard_early or standard_late; repeatable; default: all."),
    ] = None,
) -> None:
    """Import a data set's folder into the cache, check it, and print what is in it."""
    from realdataexp.config import load_config
    from realdataexp.options import usable_path

    chosen = [f"dataset.logs=[{', '.join(logs)}]"] if logs else []
    loaded = load_config(config, chosen, data=directory)
    cache_path = cache or loaded.cache_dir()
    try:
        usable_path(str(cache_path))
    except ValueError as error:
        raise InputError(f"--cache: {error}") from None
    terminal.log_lines(loaded.logging.level)
    from realdataexp.worlds import world_of

    terminal.print_stats(*world_of(loaded).prepare(loaded, cache_path, force))


@app.command(
    epilog="Example: realdataexp download pure data/KuaiRand-Pure. An archive that lies in DIR "
    "already is checked and unpacked without fetching it again.",
)
def download(
    version: Annotated[str, typer.Argument(metavar="pure|1k|27k", help="Version of KuaiRand.")],
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder for the data, as prepare and run want it.")
    ],
    url: Annotated[
        str | None, typer.Option(help="A mirror of the archive; its md5 is checked all the same.")
    ] = None,
    keep_archive: Annotated[
        bool, typer.Option("--keep-archive", help="Keep the archive beside the data.")
    ] = False,
) -> None:
    """Fetch an official archive, check it and unpack it; go on where it broke off."""
    terminal.log_lines("INFO")
    from realdataexp.data.download import download as fetch

    try:
        with terminal.byte_progress() as progress:
            is_new = fetch(
                version, directory, url=url, keep_archive=keep_archive, progress=progress
            )
    except KeyboardInterrupt as error:
        raise _Interrupted(*error.args) from error
    terminal.say(f"{directory}: {'complete' if is_new else 'was complete already'}")


@app.command(
    epilog="Example: realdataexp synth data/small --version pure --users 2000 --rows 120000",
)
def synth(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write into.")],
    version: Annotated[
        str, typer.Option(help="Whose file names to use: pure, 1k or 27k.")
    ] = "pure",
    users: Annotated[int, typer.Option(help="Number of users.")] = 2000,
    videos: Annotated[int, typer.Option(help="Number of videos.")] = 1500,
    rows: Annotated[int, typer.Option(help="Log rows over all logs.")] = 120_000,
    seed: Annotated[int, typer.Option(help="Seed; the same seed writes the same files.")] = 0,
) -> None:
    """Write a synthetic data set in KuaiRand's exact file layout."""
    from realdataexp.options import check
    from realdataexp.worlds.synthetic import SyntheticConfig

    sizes = {"version": version, "users": users, "videos": videos, "rows": rows, "seed": seed}
    check(SyntheticConfig, sizes, "synth")
    from realdataexp.data.synthetic import made_bytes, write_synthetic
    from realdataexp.runs.machine import memory_limit, size

    needed, limit = made_bytes(users, videos), memory_limit()
    if needed > limit:
        raise InputError(
            f"synth: users = {users:,} and videos = {videos:,} take about {size(needed)} of "
            f"memory, and there are {size(limit)}: ask for fewer"
        )
    counts = write_synthetic(
        directory, version=version, n_users=users, n_videos=videos, n_rows=rows, seed=seed
    )
    terminal.print_stats(str(directory), counts)


@app.command(
    epilog="Example: realdataexp validate experiment.yaml --data data/KuaiRand-Pure",
)
def validate(
    config: Annotated[str, typer.Argument(help=f"{_CONFIG}.")],
    data: _Data = None,
    overrides: _Overrides = None,
) -> None:
    """Check a config against the schema and the data; list every fault."""
    from realdataexp.config import load_config

    terminal.log_lines("ERROR")
    faults: list[str] = []
    try:
        loaded: Config | None = load_config(config, overrides or (), data=data)
    except InputError as error:
        from realdataexp.config.load import without_faults

        faults += error.faults
        loaded = without_faults(config, data, overrides or ())
    has_data = loaded and (loaded.dataset.path or not loaded.dataset.has_folder)
    if loaded and has_data:
        from realdataexp.runs.experiment import check_experiment

        try:
            check_experiment(loaded, every_fault=True)
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(*faults)
    hint = "" if has_data else "; the data was not checked: give --data DIR"
    terminal.say(f"{config}: ok{hint}")


@app.command(epilog="Example: realdataexp schema > realdataexp.schema.json")
def schema() -> None:
    """Print the JSON schema of the config."""
    import json

    from realdataexp.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


@app.command(
    epilog="Example: realdataexp report results/20260101-120000-compare. Several RUN_DIRs are "
    "compared in one page, report-compare.html in the first of them.",
)
def report(
    run_dirs: _RunDirs,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The page; default: in the run folder.")
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Draw plot.png too, of one run.")] = False,
) -> None:
    """Make a run's plot and page again from its folder, or compare several runs in one page."""
    for run_dir in run_dirs:
        if not (run_dir / "result.json").is_file():
            text = "no run folder: it has no result.json; give one made by run"
            raise InputError(f"{run_dir}: {text}")
    if out and not out.parent.is_dir():
        raise InputError(f"--out {out}: {out.parent} is no folder; make it first")
    from realdataexp.report.files import odd_files_named

    if len(run_dirs) > 1:
        if png:
            raise InputError("--png: draws the plot of one run; give one RUN_DIR")
        from realdataexp.report.several import write_comparison

        with odd_files_named(*run_dirs):
            terminal.say(f"Wrote {write_comparison(run_dirs, out)}")
        return
    from realdataexp.report.page import write_report
    from realdataexp.report.plots import write_plot

    with odd_files_named(*run_dirs):
        plot = write_plot(run_dirs[0], png=png)
        page = write_report(run_dirs[0], out)
    for path in (plot, *([plot.with_suffix(".png")] if png else []), page):
        terminal.say(f"Wrote {path}")


@app.command(
    epilog="Example: realdataexp export results/20260101-120000-compare --best click.auc "
    "click.safetensors. Without --design it is the starting model's network.",
)
def export(
    run_dir: _RunDir,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file, which is made.")],
    best: Annotated[
        str | None,
        typer.Option(metavar="LABEL.METRIC", help="What by; default: the run's primary metric."),
    ] = None,
    design: Annotated[
        str | None, typer.Option(help="Whose networks, such as splitting or global_T.")
    ] = None,
    replication: Annotated[int, typer.Option(min=0, help="Which of its worlds.")] = 0,
    model: Annotated[
        str | None, typer.Option(metavar="T|C|shared", help="Which of its models; default: T.")
    ] = None,
) -> None:
    """Write a run's best networks alone, for rx.load_model or pretrain.start_from."""
    if file.exists() or file.is_symlink():
        raise InputError(f"{file}: exists; choose another FILE")
    if not file.parent.is_dir():
        raise InputError(f"{file}: {file.parent} is no folder; make it first")
    from realdataexp.runs.networks import best_networks

    found = best_networks(run_dir, best, design, replication, model)
    found.write(file)
    labels = ", ".join(label for card in found.card.networks for label in card.labels)
    terminal.say(f"Wrote {file}: {labels}, after {found.card.phase} step {found.card.step}")


@app.command(epilog="Example: realdataexp doctor kuairand-pure --data data/KuaiRand-Pure")
def doctor(
    config: Annotated[
        str | None,
        typer.Argument(help=f"{_CONFIG}, to check it too."),
    ] = None,
    data: _Data = None,
    overrides: _Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Say what this machine offers, and what would go wrong in a run."""
    if config is None and overrides:
        raise InputError("--set: there is no config to change: give CONFIG")
    from realdataexp.doctor import examine, print_findings, would_stop

    terminal.log_lines("ERROR")
    findings = examine(config, data, overrides or ())
    if as_json:
        import json

        typer.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        print_findings(findings)
    if would_stop(findings):
        raise typer.Exit(1)


@app.command(epilog="Example: realdataexp track results/20260101-120000-compare --to mlflow")
def track(
    run_dirs: _RunDirs,
    to: Annotated[
        str, typer.Option("--to", metavar="tensorboard|mlflow", help="The tracker that gets them.")
    ],
    uri: Annotated[
        str | None,
        typer.Option(help="MLflow's database, sqlite:///FILE; default: mlflow.db in the log_dir."),
    ] = None,
    experiment: Annotated[
        str | None, typer.Option(help="MLflow's experiment; default: realdataexp.")
    ] = None,
) -> None:
    """Import finished runs into TensorBoard or MLflow; nothing is imported twice."""
    from realdataexp.report.files import odd_files_named
    from realdataexp.tracking.session import import_run

    given = {"uri": uri, "experiment": experiment}
    options = {name: value for name, value in given.items() if value is not None}
    for run_dir in run_dirs:
        with odd_files_named(run_dir):
            lines = import_run(run_dir, to, options)
        for line in lines:
            terminal.say(line)


@app.command(epilog="Example: realdataexp perf results/20260101-120000-compare")
def perf(
    run_dir: _RunDir,
) -> None:
    """Say where a run's time and its device went, and what to change; draw perf.svg."""
    from realdataexp.report.files import odd_files_named
    from realdataexp.report.perf import print_perf, write_perf_plot

    with odd_files_named(run_dir):
        print_perf(run_dir)
        path = write_perf_plot(run_dir)
    terminal.say(f"Wrote {path}")
