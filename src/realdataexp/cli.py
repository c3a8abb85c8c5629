"""The command line. `--help` must answer at once: a command imports what it needs when it runs.

Exit codes: 0 done, 1 the run failed, 2 the input is wrong, 130 interrupted after saving.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from realdataexp import __version__, terminal
from realdataexp.configs import built_in_names
from realdataexp.errors import InputError, RunError, is_out_of_memory, one_line
from realdataexp.registry import names
from realdataexp.runs import ENDING, is_ignored

if TYPE_CHECKING:
    from realdataexp.config import Config, RunSettings
    from realdataexp.train.config import TrainConfig

_NOBODY_LISTENS = (errno.EPIPE, errno.EIO, errno.EBADF)  # a pipe or terminal that is gone
_PRINTED = ("schema", "doctor", "validate")  # the commands whose answer is in no file


class _Interrupted(Exception):
    """A KeyboardInterrupt that says what became of the run; typer would drop that."""


class _Commands(typer.core.TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interrupted(*error.args) from error


app = typer.Typer(
    name="realdataexp",
    cls=_Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; errors become lines on stderr."""
    if threading.current_thread() is threading.main_thread():
        # what batch systems and lost terminals send ends a command as Ctrl-C does
        for number in ENDING[1:]:
            if not is_ignored(number):
                signal.signal(number, signal.default_int_handler)
    arguments = list(sys.argv[1:] if argv is None else argv)
    with terminal.lasting_streams() as stdout:
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
    except (_Interrupted, KeyboardInterrupt, typer.Abort) as error:
        return _fail(130, str(error) or "interrupted")
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # panics of Polars are no Exception
        return _fail_unforeseen(error)
    return code if isinstance(code, int) else 0


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Nothing that is given may be empty: as a path it would stand for the current folder."""
    for before, argument in zip(["realdataexp", *arguments], arguments, strict=False):
        if not argument.strip() or (argument.startswith("--") and argument.endswith("=")):
            after = argument.removesuffix("=") if argument.strip() else before
            raise InputError(f"after {after}: an empty value: pass one, or leave both out")


def _fail(code: int, *lines: str) -> int:
    for line in lines:
        print(one_line(line), file=sys.stderr)
    return code


def _fail_unforeseen(error: BaseException) -> int:
    """End with an error that no command explains; a path that can be none is a wrong input."""
    from realdataexp.files import OF_PLACE

    if isinstance(error, OSError) and error.filename is not None and error.errno in OF_PLACE:
        return _fail(2, f"{error.filename}: {error.strerror}; choose another path")
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


@app.callback(invoke_without_command=True, epilog="Example: realdataexp run demo")
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Replay real logs through a recommender's training loop, and test A/B designs on them."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _command(example: str) -> Any:
    return app.command(epilog=f"Example: realdataexp {example}")


def _argument(help: str, metavar: str | None = None) -> Any:
    return typer.Argument(metavar=metavar, help=help)


def _option(help: str, *names: str, metavar: str | None = None, **bounds: Any) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, **bounds)


_CONFIG = f"A YAML file or the name of a built-in config ({', '.join(built_in_names())})"
_ConfigName = Annotated[str | None, _argument(f"{_CONFIG}; default: demo.")]
_ConfigOption = Annotated[str | None, _option("The same as CONFIG.", "--config", "-c")]
_Data = Annotated[Path | None, _option("Folder with the data set's files.")]
_Seed = Annotated[int | None, _option("Seed of every random draw.")]
_Device = Annotated[str | None, _option("auto, cpu, cuda, xpu, mps or dml.")]
_Overrides = Annotated[
    list[str] | None,
    _option("Replace a setting (YAML value); repeatable.", "--set", metavar="KEY.SUB=VALUE"),
]
_Quiet = Annotated[bool, _option("Show warnings and the result only.", "--quiet")]
_Verbose = Annotated[bool, _option("Show details too.", "--verbose")]
_RunDir = Annotated[Path, _argument("A run folder.", "RUN_DIR")]
_PartsDir = Annotated[Path, _argument("The folder of a run or of a sweep.", "DIR")]
_RunDirs = Annotated[list[Path], _argument("Run folders.", "RUN_DIR...")]
# of one command each
_Mode = Annotated[str | None, _option("global, compare, or a design's name.", "--mode", "-m")]
_Out = Annotated[Path | None, _option("The run folder; default: results/<timestamp>-<mode>.")]
_ExecutorName = Annotated[
    str | None,
    _option("Who runs the parts: local, slurm, ray, or package.module:Name.", "--executor"),
]
_Shards = Annotated[
    int | None, _option("Parts that the replications are shared out to; changes no result.")
]
_WriteScripts = Annotated[
    Path | None,
    _option("Folder to write Slurm's script to, without submitting it.", metavar="DIR"),
]
_DryRun = Annotated[bool, _option("Resolve and check everything, run nothing.", "--dry-run")]
_ResumeData = Annotated[
    Path | None, _option("Where the data set's files are now; default: where they were.")
]
_P = Annotated[
    str | None, _option("Treatment probabilities; default: the config's.", "--p", metavar="P,...")
]
_Steps = Annotated[
    str | None, _option("Lengths; default: a quarter, half and all of n_steps.", metavar="N,...")
]
_RetrainEvery = Annotated[
    str | None, _option("Steps between trainings; default: the config's.", metavar="N,...")
]
_PlanOut = Annotated[
    Path | None,
    _option("The plan's folder, new or of an interrupted plan; default: results/<timestamp>-plan."),
]
_Grid = Annotated[
    list[str] | None,
    _option(
        "Values of a setting (YAML), each with those of every other --grid; repeatable.",
        "--grid",
        metavar="KEY=A,B,...",
    ),
]
_Zip = Annotated[
    list[str] | None,
    _option("Values that vary together with those of every other --zip; repeatable.", "--zip",
            metavar="KEY=A,B,..."),
]  # fmt: skip
_From = Annotated[
    Path | None,
    _option("YAML file with grid, zip or points: a list of settings.", "--from", metavar="FILE"),
]
_PointsExecutor = Annotated[
    str | None,
    _option(
        "Who runs the points, in processes or jobs of their own: local, slurm, ray, or "
        "package.module:Name; default: one after another, in this process.",
        "--executor",
    ),
]
_SweepOut = Annotated[
    Path | None,
    _option("The sweep's folder, new or of the same sweep; default: results/<timestamp>-sweep."),
]
_Directory = Annotated[Path, _argument("A KuaiRand folder, or that of a config's tables.", "DIR")]
_Cache = Annotated[Path | None, _option("Cache folder; default: the user's cache folder.")]
_Config = Annotated[str, _option("Config whose features and labels to import.", "--config", "-c")]
_Logs = Annotated[
    list[str] | None, _option("random, standard_early or standard_late; repeatable; default: all.")
]
_DownloadDirectory = Annotated[
    Path, _argument("Folder for the data, to pass to prepare and run.", "DIR")
]
_Url = Annotated[
    str | None,
    _option("A mirror of the file, or of the folder of several; checksums are compared as well."),
]
_KeepArchive = Annotated[bool, _option("Keep the archive next to the data.", "--keep-archive")]
_ReportOut = Annotated[
    Path | None, _option("The page; default: in the run folder.", metavar="FILE")
]
_Best = Annotated[
    str | None,
    _option("Metric to choose by; default: the run's primary metric.", metavar="LABEL.METRIC"),
]
_SUBJECT = f"{_CONFIG}; or a run folder; or package.module:name of what makes a Subject."
_Ablate = Annotated[
    bool,
    _option(
        "Train it without its items' vectors too, and with zeros, shuffled ones and noise in their "
        "place; an --out that has some of it goes on.",
        "--ablate",
    ),
]
_Model = Annotated[str | None, _option("Which of its models; default: T.", metavar="T|C|shared")]
_To = Annotated[
    str, _option("The tracker to import them into.", "--to", metavar="tensorboard|mlflow")
]
_Uri = Annotated[
    str | None, _option("MLflow's database, sqlite:///FILE; default: mlflow.db in the log_dir.")
]


def _loaded(
    config: str | None, option: str | None, overrides: list[str] | None, **given: Any
) -> Config:
    """The config that a command is given."""
    if config is not None and option is not None:
        raise InputError(f"CONFIG {config} and --config {option}: pass one of them")
    from realdataexp.config import load_config

    return load_config(config or option or "demo", overrides or (), **given)


def _log(level: str, *, quiet: bool = False, verbose: bool = False) -> None:
    if quiet and verbose:
        raise InputError("--quiet and --verbose: pass one of them")
    terminal.log_lines(level, quiet=quiet, verbose=verbose)


@_command("run kuairand-pure --data data/KuaiRand-Pure --mode global --set simulation.n_steps=50")
def run(
    config: _ConfigName = None,
    config_option: _ConfigOption = None,
    mode: _Mode = None,
    data: _Data = None,
    out: _Out = None,
    seed: _Seed = None,
    device: _Device = None,
    overrides: _Overrides = None,
    executor: _ExecutorName = None,
    shards: _Shards = None,
    write_scripts: _WriteScripts = None,
    dry_run: _DryRun = False,
    quiet: _Quiet = False,
    verbose: _Verbose = False,
) -> None:
    """Run an experiment; print its result table and its run folder."""
    given = {"mode": mode, "data": data, "seed": seed, "device": device}
    scripts = None if write_scripts is None else str(write_scripts.absolute())
    spread = {
        "simulation.executor": executor, "simulation.processes": shards, "cluster.scripts": scripts
    }  # fmt: skip
    flags = [f"{key}={json.dumps(x)}" for key, x in spread.items() if x is not None]
    loaded = _loaded(config, config_option, [*(overrides or ()), *flags], **given)
    _log(loaded.logging.level, quiet=quiet, verbose=verbose)
    from realdataexp.runs.experiment import check_experiment, run_experiment

    if dry_run:
        for line in check_experiment(loaded, out):
            terminal.say(line)
    elif write_scripts is None:
        _show(run_experiment(loaded, out))
    else:
        _prepare(loaded, out, write_scripts)


def _prepare(config: Config, out: Path | None, scripts: Path) -> None:
    """Run all that comes before the parts, and write what would be submitted for these."""
    from realdataexp.runs.executors.slurm import SCRIPT, NotSubmittedError
    from realdataexp.runs.experiment import run_experiment

    if config.simulation.executor != "slurm":
        raise InputError("--write-scripts: only the executor slurm has scripts: --executor slurm")
    if (scripts / SCRIPT).exists():
        raise InputError(f"{scripts / SCRIPT}: exists; choose another --write-scripts")
    try:
        run_experiment(config, out)
    except KeyboardInterrupt as error:
        if not isinstance(error.__cause__, NotSubmittedError):
            raise
        terminal.say(str(error.__cause__))
        terminal.say(f"To submit it, as it is or edited: {str(error).rpartition('resume it: ')[2]}")


@_command("train beauty-sasrec --data data/Beauty --set training.epochs=20")
def train(
    config: Annotated[str, _argument(f"{_CONFIG}, of mode train.")],
    data: _Data = None,
    out: _Out = None,
    seed: _Seed = None,
    device: _Device = None,
    overrides: _Overrides = None,
    ablate: _Ablate = False,
    diagnosed: Annotated[
        bool, _option("Run the checks that take seconds before the first epoch.", "--diagnose")
    ] = False,
    strict: Annotated[
        bool, _option("With --diagnose: train nothing where a check finds a fault.", "--strict")
    ] = False,
    dry_run: _DryRun = False,
    quiet: _Quiet = False,
    verbose: _Verbose = False,
) -> None:
    """Train a recommender and rank held-out items with it, and with recommenders that count."""
    from realdataexp.train.config import load_train

    if strict and not diagnosed:
        raise InputError("--strict: has no effect without --diagnose: pass both")
    loaded = load_train(config, overrides or (), data=data, seed=seed, device=device)
    _log(loaded.logging.level, quiet=quiet, verbose=verbose)
    from realdataexp.train.ablation import train_variants, variants
    from realdataexp.train.run import check_training
    from realdataexp.train.run import train as train_model

    parts = variants(loaded) if ablate else {}
    if diagnosed and os.environ.get("RANK", "0") == "0":
        _require_sound(loaded, strict=strict, quiet=quiet)
    if dry_run:
        for line in check_training(loaded, None if parts else out):
            terminal.say(line)
        for name in parts:
            terminal.say(f"ablation: {name}")
    else:
        _show(train_variants(loaded, out) if ablate else train_model(loaded, out))


def _require_sound(config: TrainConfig, *, strict: bool, quiet: bool) -> None:
    """Print what the checks before a training find; a fault ends a strict one."""
    from realdataexp.diagnose.run import before_training
    from realdataexp.report.diagnosis import print_check

    def told(check: Any) -> None:
        if check.verdict == "fault" or not quiet:
            print_check(vars(check), is_named=False)

    faults = before_training(config, told)
    if strict and faults:
        raise RunError(f"nothing was trained: {', '.join(faults)} found a fault (--strict)")


@_command("diagnose beauty-generative-prefix --data data/Beauty --claims claims.yaml")
def diagnose(
    source: Annotated[str, _argument(_SUBJECT, "CONFIG|RUN_DIR|CALLABLE")],
    data: _Data = None,
    claims: Annotated[Path | None, _option("YAML file of claims; each gets a verdict.")] = None,
    checks: Annotated[
        list[str] | None, _option("A check to run; repeatable; default: all.", "--check")
    ] = None,
    out: Annotated[
        Path | None, _option("Folder for diagnosis.json; default: RUN_DIR, or none.")
    ] = None,
    seed: Annotated[int, _option("Seed of what checks draw.")] = 0,
    overrides: _Overrides = None,
    as_json: Annotated[bool, _option("Print JSON.", "--json")] = False,
    strict: Annotated[
        bool, _option("Exit with 1 where a check finds a fault.", "--strict")
    ] = False,
) -> None:
    """Prove or refute what is believed of a training: checks with their nulls and bounds."""
    from realdataexp.diagnose.run import diagnose as run_checks
    from realdataexp.diagnose.run import make_place, open_subjects, write_diagnosis
    from realdataexp.report.diagnosis import print_check, print_claims, print_untold

    _log("ERROR" if as_json else "INFO")
    subjects, config = open_subjects(source, overrides or (), data)
    if (folder := out or subjects[0].folder) is not None:
        make_place(folder)
    found = run_checks(
        subjects, checks or (), claims, seed, config=config,
        told=lambda check: None if as_json else print_check(vars(check), len(subjects) > 1),
    )  # fmt: skip
    if folder is not None:
        write_diagnosis(folder, found)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        print_untold(found["checks"])
        print_claims(found["claims"])
    if strict and any(x["verdict"] == "fault" for x in found["checks"]):
        raise typer.Exit(1)


@_command("observe kuairand-pure --data data/KuaiRand-Pure --users 5000")
def observe(
    config: Annotated[str, _argument(f"{_CONFIG}, of a world that replays a log.")],
    data: _Data = None,
    out: _Out = None,
    estimators: Annotated[
        list[str] | None,
        _option(
            "ips, snips, dr, switch_dr, mips, package.module:Name, or {name: ..., <options>}; "
            "repeatable; default: all.",
            "--estimator",
        ),
    ] = None,
    users: Annotated[int, _option("Users to evaluate the arms on, at most.", min=2)] = 2_000,
    seed: _Seed = None,
    device: _Device = None,
    overrides: _Overrides = None,
    as_json: Annotated[bool, _option("Print JSON.", "--json")] = False,
    quiet: _Quiet = False,
    verbose: _Verbose = False,
) -> None:
    """Evaluate frozen arms on a log's random exposures; say what replay cannot see."""
    _log("ERROR" if as_json else "INFO", quiet=quiet, verbose=verbose)
    from realdataexp.observe.run import run_observation

    folder = run_observation(
        config, overrides or (), estimators=estimators or (), n_users=users, data=data, out=out,
        seed=seed, device=device,
    )  # fmt: skip
    if as_json:
        typer.echo((folder / "observe.json").read_text(encoding="utf-8"), nl=False)
    else:
        _show_observation(folder)


def _show_observation(folder: Path) -> None:
    from realdataexp.report.observed import print_observation

    print_observation(folder)
    terminal.say(f"Observation: {folder / 'observe.json'}")


def _show(run_dir: Path) -> None:
    if "RANK" in os.environ and not run_dir.exists():
        return  # one of torchrun's processes behind the first, which writes
    from realdataexp.report.tables import print_result

    print_result(run_dir)
    terminal.say(f"Run folder: {run_dir}")


@_command("resume results/20260101-120000-compare")
def resume(
    run_dir: _RunDir,
    data: _ResumeData = None,
    quiet: _Quiet = False,
    verbose: _Verbose = False,
) -> None:
    """Continue an interrupted run, sweep or score card to its end, as if never interrupted."""
    _log("INFO", quiet=quiet, verbose=verbose)
    from realdataexp.report.files import is_complete

    if (run_dir / "score.yaml").is_file():
        from realdataexp.runs.scoring import resume_score

        if data is not None:
            raise InputError("--data: a score card's data stay where they were: leave it out")
        _show_score(*resume_score(run_dir, is_detailed=verbose))
        return
    if (run_dir / "sweep.yaml").is_file():
        _resume_sweep(run_dir, data, is_detailed=verbose)
        return
    if is_complete(run_dir):
        terminal.say(f"{run_dir}: complete; nothing to resume")
        return
    if (run_dir / "observe.yaml").is_file():
        from realdataexp.observe.run import resume_observation

        _show_observation(resume_observation(run_dir, data))
        return
    from realdataexp.train.config import is_train

    if is_train(run_dir / "config.yaml"):
        from realdataexp.train.run import resume_training

        resume_training(run_dir, data)
    else:
        from realdataexp.runs.experiment import resume_experiment

        resume_experiment(run_dir, data)
    _show(run_dir)


def _resume_sweep(folder: Path, data: Path | None, *, is_detailed: bool) -> None:
    """Go on with a sweep, and with the plan that is read off it."""
    from realdataexp.runs.sweeping import asked_of, is_swept, resume_sweep

    is_plan = asked_of(folder).plan is not None
    if not is_swept(folder):
        resume_sweep(folder, data, is_detailed=is_detailed)
    elif not is_plan or (folder / "plan.json").exists():
        terminal.say(f"{folder}: complete; nothing to resume")
        return
    if is_plan:
        from realdataexp.runs.planning import write_plan

        _show_plan(write_plan(folder))
    else:
        _show_sweep(folder)


@_command("status results/20260101-120000-compare")
def status(
    folder: _PartsDir, as_json: Annotated[bool, _option("Print JSON.", "--json")] = False
) -> None:
    """Say what the parts of a run or of a sweep are doing."""
    from realdataexp.runs.parts import parts_of

    parts = parts_of(folder)
    if as_json:
        typer.echo(json.dumps(parts, indent=2))
    else:
        terminal.print_parts(parts)


@_command("cancel results/20260101-120000-compare")
def cancel(folder: _PartsDir) -> None:
    """End what works on a run or a sweep; it keeps what it has, and can be resumed."""
    from realdataexp.runs.parts import cancel as cancel_parts

    for line in cancel_parts(folder):
        terminal.say(line)


@_command(
    "sweep demo --grid labels.play_time.alpha_T=0.5,1,2 --grid experiment.p_treatment=0.2,0.5 "
    "--out results/alphas"
)
def sweep(
    config: Annotated[str, _argument(f"{_CONFIG}.")],
    grid: _Grid = None,
    zip: _Zip = None,
    file: _From = None,
    out: _SweepOut = None,
    keep_going: Annotated[
        bool, _option("Run the other points where one fails.", "--keep-going")
    ] = False,
    executor: _PointsExecutor = None,
    data: _Data = None,
    seed: _Seed = None,
    device: _Device = None,
    overrides: _Overrides = None,
    quiet: _Quiet = False,
    verbose: _Verbose = False,
) -> None:
    """Run an experiment at every point of a grid; one folder, one table, one page."""
    _log("INFO", quiet=quiet, verbose=verbose)
    from realdataexp.config.points import Asked

    asked = Asked()
    asked.add_texts("grid", grid or ())
    asked.add_texts("zip", zip or ())
    if file is not None:
        asked.add_file(file)
    points = asked.points()
    from realdataexp.runs.sweeping import run_sweep

    _show_sweep(
        run_sweep(
            config, points, overrides or (), out=out, keep_going=keep_going, executor=executor,
            is_detailed=verbose, data=data, seed=seed, device=device,
        )
    )  # fmt: skip


def _show_sweep(folder: Path) -> None:
    """Print a sweep's table and folder; exit with 1 where points failed."""
    from realdataexp.report.sweeps import print_sweep

    n_failed, n = print_sweep(folder)
    terminal.say(f"Sweep folder: {folder}")
    if n_failed:
        raise RunError(f"{n_failed} of {n} points failed; {folder}/sweep.log says why")


@_command("score my_designs:Alternating --option length=5 --out results/alternating")
def score(
    design: Annotated[
        str | None,
        _argument("A design, package.module:Name, or {name: ..., label: ..., <options>}."),
    ] = None,
    option: Annotated[
        list[str] | None,
        _option(
            "An option of the design (YAML value); repeatable.", "--option", metavar="KEY=VALUE"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        _option("The card's folder, new or of the same card; default: results/<timestamp>-score."),
    ] = None,
    data: Annotated[
        Path | None, _option("A KuaiRand-Pure folder, for a world that replays it.")
    ] = None,
    world: Annotated[
        list[str] | None,
        _option(
            "A config of a further world, such as your own data; repeatable.", metavar="CONFIG"
        ),
    ] = None,
    executor: _PointsExecutor = None,
    processes: Annotated[
        int | None, _option("Processes of each run; changes no result.", min=1)
    ] = None,
    quick: Annotated[
        bool,
        _option("Few steps: whether the design runs everywhere, not how good it is.", "--quick"),
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        _option("Compare two cards instead: score.json, or its folder.", metavar="A B"),
    ] = None,
    quiet: _Quiet = False,
    verbose: _Verbose = False,
) -> None:
    """Run a design and the built-in ones on a fixed panel of worlds; one card, one page."""
    if (design is None) == (compare is None):
        raise InputError("DESIGN or --compare A B: pass one of them")
    if compare is not None:
        from realdataexp.report.scores import print_comparison

        print_comparison(*compare)
        return
    _log("INFO", quiet=quiet, verbose=verbose)
    from realdataexp.runs.scoring import run_score

    _show_score(
        *run_score(
            design or "", option or (), out=out, data=data, worlds=world or (), executor=executor,
            n_processes=processes, is_quick=quick, is_detailed=verbose,
        )
    )  # fmt: skip


def _show_score(folder: Path, n_failed: int) -> None:
    """Print a card and its folder; exit with 1 where runs failed."""
    from realdataexp.report.scores import print_card

    print_card(folder)
    terminal.say(f"Card's folder: {folder}")
    if n_failed:
        raise RunError(f"{n_failed} runs failed; {folder}/score.log says why")


@_command("plan demo --p 0.1,0.5 --steps 50,100 --retrain-every 1,10")
def plan(
    config: _ConfigName = None,
    config_option: _ConfigOption = None,
    p: _P = None,
    steps: _Steps = None,
    retrain_every: _RetrainEvery = None,
    power: Annotated[float, _option("Power: the probability of detecting an effect.")] = 0.8,
    executor: _PointsExecutor = None,
    data: _Data = None,
    out: _PlanOut = None,
    seed: _Seed = None,
    device: _Device = None,
    overrides: _Overrides = None,
    quiet: _Quiet = False,
    verbose: _Verbose = False,
) -> None:
    """Simulate tests of several p, lengths and cadences; print what each design could detect."""
    given = {"data": data, "seed": seed, "device": device}
    loaded = _loaded(config, config_option, overrides, **given)
    _log(loaded.logging.level, quiet=quiet, verbose=verbose)
    from realdataexp.runs.planning import run_plan

    asked = {"p": p, "steps": steps, "retrain_every": retrain_every, "power": power}
    _show_plan(run_plan(loaded, out, executor=executor, is_detailed=verbose, **asked))


def _show_plan(folder: Path) -> None:
    from realdataexp.report.tables import print_plan

    print_plan(folder)
    terminal.say(f"Plan folder: {folder}")


@_command("prepare data/KuaiRand-Pure --logs standard_late")
def prepare(
    directory: _Directory,
    cache: _Cache = None,
    force: Annotated[bool, _option("Import again, cached or not.", "--force")] = False,
    config: _Config = "kuairand-pure",
    logs: _Logs = None,
) -> None:
    """Import a data set's folder into the cache, check it, and print what is in it."""
    chosen = [f"dataset.logs=[{', '.join(logs)}]"] if logs else []
    loaded = _loaded(config, None, chosen, data=directory)
    cache_path = cache or loaded.cache_dir()
    from realdataexp.options import usable_path
    from realdataexp.worlds import world_of

    try:
        usable_path(str(cache_path))
    except ValueError as error:
        raise InputError(f"--cache: {error}") from None
    _log(loaded.logging.level)
    terminal.print_stats(*world_of(loaded).prepare(loaded, cache_path, force))


@_command(
    "download kuairec data/KuaiRec. A file that lies in DIR already is "
    "checked and used without fetching it again."
)
def download(
    name: Annotated[
        str,
        _argument(f"Data set: {', '.join(names('archive'))}; or package.module:NAME.", "NAME"),
    ],
    directory: _DownloadDirectory,
    every: Annotated[
        int | None,
        _option("Keep every so many-th user, where tables are made of the files."),
    ] = None,
    url: _Url = None,
    keep_archive: _KeepArchive = False,
) -> None:
    """Fetch a public data set from its authors, check and unpack it; resume where it stopped."""
    _log("INFO")
    from realdataexp.data.download import download as fetch
    from realdataexp.data.download import find_archive

    archive = find_archive(name)
    with terminal.byte_progress() as progress:
        is_new = fetch(
            archive, directory, every=every, url=url, keep_archive=keep_archive, progress=progress
        )
    terminal.say(f"{directory}: {'complete' if is_new else 'was complete already'}")
    terminal.say(f"{archive.name}: {archive.licence}, see {archive.home}")
    terminal.say(f"next: realdataexp {archive.run.format(directory)}")


@_command("synth data/small --version pure --users 2000 --rows 120000")
def synth(
    directory: Annotated[Path, _argument("Folder to write into.", "DIR")],
    version: Annotated[str, _option("Whose file names to use: pure, 1k or 27k.")] = "pure",
    users: Annotated[int, _option("Number of users.")] = 2000,
    videos: Annotated[int, _option("Number of videos.")] = 1500,
    rows: Annotated[int, _option("Log rows over all logs.")] = 120_000,
    seed: Annotated[int, _option("Seed; the same seed writes the same files.")] = 0,
) -> None:
    """Write a synthetic data set in KuaiRand's exact file layout."""
    from realdataexp.data.synthetic import SyntheticConfig, made_bytes, write_synthetic
    from realdataexp.options import check
    from realdataexp.runs.machine import memory_limit, size

    sizes = {"version": version, "users": users, "videos": videos, "rows": rows, "seed": seed}
    made = check(SyntheticConfig, sizes, "synth")
    needed, limit = made_bytes(users, videos), memory_limit()
    if needed > limit:
        raise InputError(
            f"synth: users = {users:,} and videos = {videos:,} take about {size(needed)} of "
            f"memory, and there are {size(limit)}: ask for fewer"
        )
    terminal.print_stats(str(directory), write_synthetic(directory, made))


@_command("validate experiment.yaml --data data/KuaiRand-Pure")
def validate(
    config: Annotated[str, _argument(f"{_CONFIG}.")],
    data: _Data = None,
    overrides: _Overrides = None,
) -> None:
    """Check a config against the schema and the data; list every fault."""
    _log("ERROR")
    from realdataexp.config import Config, load_config
    from realdataexp.config.load import without_faults
    from realdataexp.train.config import TrainConfig, is_train, load_train

    load, kind = (load_train, TrainConfig) if is_train(config) else (load_config, Config)
    faults: list[str] = []
    try:
        loaded: RunSettings | None = load(config, overrides or (), data=data)
    except InputError as error:
        faults += error.faults
        loaded = without_faults(config, data, overrides or (), kind)
    has_data = loaded is not None and loaded.has_data
    if loaded and has_data:
        try:
            _check(loaded)
        except InputError as error:
            faults += error.faults
    if faults:
        raise InputError(*faults)
    hint = "" if has_data else "; the data was not checked: pass --data DIR"
    terminal.say(f"{config}: ok{hint}")


def _check(config: RunSettings) -> None:
    """Check a config against the data, all of it."""
    from realdataexp.config import Config
    from realdataexp.runs.experiment import check_experiment
    from realdataexp.train.config import TrainConfig
    from realdataexp.train.run import check_training

    if isinstance(config, TrainConfig):
        check_training(config)
    elif isinstance(config, Config):
        check_experiment(config, every_fault=True)


@_command("schema > realdataexp.schema.json")
def schema(
    of_training: Annotated[bool, _option("Of a config of mode train.", "--train")] = False,
) -> None:
    """Print the JSON schema of the config."""
    if of_training:
        from realdataexp.config.load import of_file
        from realdataexp.train.config import TrainConfig

        found = of_file(TrainConfig.model_json_schema())
    else:
        from realdataexp.config import json_schema

        found = json_schema()
    typer.echo(json.dumps(found, indent=2))


@_command(
    "report results/20260101-120000-compare. Several RUN_DIRs are "
    "compared in one page, report-compare.html in the first of them."
)
def report(
    run_dirs: _RunDirs,
    out: _ReportOut = None,
    png: Annotated[bool, _option("Draw plot.png too, of one run.", "--png")] = False,
) -> None:
    """Make a run's plot and page again from its folder, or compare several runs in one page."""
    is_sweep, is_card = (
        len(run_dirs) == 1 and (run_dirs[0] / name).is_file()
        for name in ("sweep.yaml", "score.json")
    )
    for run_dir in run_dirs:
        if not (is_sweep or is_card) and not (run_dir / "result.json").is_file():
            text = "no run folder: it has no result.json; pass one made by run"
            raise InputError(f"{run_dir}: {text}")
    if out and not out.parent.is_dir():
        raise InputError(f"--out {out}: {out.parent} is no folder; make it first")
    if len(run_dirs) > 1 and png:
        raise InputError("--png: draws the plot of one run; pass one RUN_DIR")
    from realdataexp.report.files import odd_files_named

    with odd_files_named(*run_dirs):
        if len(run_dirs) > 1:
            from realdataexp.report.page import write_comparison

            paths = [write_comparison(run_dirs, out)]
        elif is_sweep:
            from realdataexp.report.page import write_sweep

            paths = [write_sweep(run_dirs[0], out)]
        elif is_card:
            from realdataexp.report.page import write_score

            paths = [write_score(run_dirs[0], out)]
        else:
            from realdataexp.report.page import write_report
            from realdataexp.report.plots import write_plot

            plot = write_plot(run_dirs[0], png=png)
            paths = [plot, *([plot.with_suffix(".png")] if png else [])]
            paths.append(write_report(run_dirs[0], out))
    for path in paths:
        terminal.say(f"Wrote {path}")


@_command(
    "export results/20260101-120000-compare --best click.auc "
    "click.safetensors. Without --design it is the starting model's network."
)
def export(
    run_dir: _RunDir,
    file: Annotated[Path, _argument("The file to write.", "FILE")],
    best: _Best = None,
    design: Annotated[
        str | None, _option("Design of the networks, such as splitting or global_T.")
    ] = None,
    replication: Annotated[int, _option("Replication of the networks.", min=0)] = 0,
    model: _Model = None,
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


@_command("doctor kuairand-pure --data data/KuaiRand-Pure")
def doctor(
    config: Annotated[str | None, _argument(f"{_CONFIG}, to check it too.")] = None,
    data: _Data = None,
    overrides: _Overrides = None,
    executor: Annotated[
        str | None,
        _option(
            "slurm: have a job look at its node, too; ray: ask the cluster.", metavar="slurm|ray"
        ),
    ] = None,
    as_json: Annotated[bool, _option("Print the findings as JSON.", "--json")] = False,
) -> None:
    """Report what this machine offers, and what would go wrong in a run."""
    if config is None and overrides:
        raise InputError("--set: there is no config to change: pass CONFIG")
    from realdataexp.doctor import examine, print_findings, would_stop

    _log("ERROR")
    findings = examine(config, data, overrides or (), executor)
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        print_findings(findings)
    if would_stop(findings):
        raise typer.Exit(1)


@_command("track results/20260101-120000-compare --to mlflow")
def track(
    run_dirs: _RunDirs,
    to: _To,
    uri: _Uri = None,
    experiment: Annotated[str | None, _option("MLflow's experiment; default: realdataexp.")] = None,
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


@_command("perf results/20260101-120000-compare")
def perf(run_dir: _RunDir) -> None:
    """Show where a run's time went, how busy its device was, and what to change; draw perf.svg."""
    from realdataexp.report.files import odd_files_named
    from realdataexp.report.perf import print_perf, write_perf_plot

    with odd_files_named(run_dir):
        print_perf(run_dir)
        path = write_perf_plot(run_dir)
    terminal.say(f"Wrote {path}")
