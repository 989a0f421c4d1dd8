"""The command line: each command parses, calls one function and prints what it returns.

Results for people and `--json` go to stdout, everything else to stderr. Exit codes: 0 done; 1 a clear error; 2 usage;
129, 130, 143 stopped by SIGHUP, Ctrl-C, SIGTERM. Heavy imports stay inside the commands, so that `--help` is instant.
"""

import errno
import functools
import io
import json
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from plusx.errors import PlusxError
from plusx.studies import BUDGETS, STUDIES
from plusx.text import in_bytes, plural, show

SPLITS = ("train", "val", "test", "all")  # in the order of columns
MAX_GROUPS = 20  # of leaking images that `plusx check` prints, and of others that are there twice

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

Data = Annotated[str, typer.Argument(metavar="DATA", help="image folder, CSV/Parquet table, .npz, or a name: digits …")]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="a run folder or a model file")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="set a field; repeatable")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON value on stdout")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command: what the user can fix is told in one line, and every end has its exit code."""

    @functools.wraps(function)
    def guarded(**options: Any) -> None:
        try:
            _refuse_several(function.__name__)
            function(**options)
            print(end="", flush=True)  # a full disk is told now, not lost at the end of the process
        except (KeyboardInterrupt, SystemExit) as stop:  # where there was nothing to save, or no time for it
            code = getattr(stop, "code", 128 + signal.SIGINT)
            if code == 1:  # rich's, where nobody reads on: the end is silent
                raise
            error = PlusxError(f"stopped by {'Ctrl-C' if code == 130 else signal.Signals(code - 128).name}.")
            error.told_elsewhere = os.environ.get("RANK", "0") != "0"
            _end(error, code, **options)
        except PlusxError as error:
            _end(error, getattr(error, "exit_code", 1), **options)
        except OSError as error:
            if error.errno == errno.EPIPE:  # nobody reads on: the end is silent
                raise
            reason = error.strerror or str(error)
            told = PlusxError(f"{error.filename}: {reason}" if error.filename else reason, "--debug shows where.")
            told.__cause__ = error
            _end(told, 1, **options)

    return app.command()(guarded)


def _refuse_several(name: str) -> None:
    """torchrun starts several processes, of which each would do the whole of any command but one."""
    if name != "train" and "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        error = PlusxError(
            f"torchrun started {os.environ['WORLD_SIZE']} processes, and `plusx {name}` is for one.",
            "Only `plusx train` runs in several; start this one without torchrun.",
        )
        error.told_elsewhere = os.environ.get("RANK") != "0"
        raise error


def _end(error: PlusxError, code: int, **options: Any) -> NoReturn:
    """The end of this process, and why; where nobody reads it, or on a full disk, the words go nowhere."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one more Ctrl-C must not come between the words and the exit code
    try:
        _tell(error, **options)
        print(end="", flush=True)
    except (OSError, SystemExit):  # the latter is rich's
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    raise typer.Exit(code) from None


def _tell(error: PlusxError, *, debug: bool, as_json: bool = False, **_: Any) -> None:
    """An error in one line for people; as a JSON value too where one is expected; with its traceback on request."""
    if error.told_elsewhere:
        return
    if debug:
        traceback.print_exception(error)
    _say(f"plusx: {error}", stderr=True)
    if as_json:
        _print_json({"error": error.message, "hint": error.hint})


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        _say(f"plusx {version('plusx')}")
        raise typer.Exit


@app.callback()
def plusx(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Residual networks from a folder of images to production: y = F(x) + x."""


@command
def demo(
    out: Annotated[Path, typer.Option(help="folder to write")] = Path("demo"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train on a small folder of real images and use the result.

    Writes scikit-learn's digits as an image folder, trains, evaluates, predicts, and shows what to run next.
    """
    from plusx.demo import demo as run_demo

    run, evaluation, predictions = run_demo(out)
    if as_json:
        return _print_json(run.to_dict() | {"test": evaluation.to_dict(), "predictions": predictions})
    _print_run(run)
    _print_evaluation(evaluation)
    _print_predictions(predictions)
    _say(f"Open {run.report}")
    _say(f"Next: plusx predict {_quoted(run.folder)} {_quoted(out / 'digits' / 'test' / '7')}")
    _say("      plusx train YOUR_FOLDER    the same on your own images: one sub-folder for each class")


@command
def train(
    data: Data,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="run folder; default runs/<data>")] = None,
    model: Annotated[str | None, typer.Option(help="a name from `plusx models`")] = None,
    recipe: Annotated[str | None, typer.Option(help="a name from `plusx recipes`")] = None,
    weights: Annotated[str | None, typer.Option(help="start from a run, .safetensors or .pth, or imagenet")] = None,
    epochs: Annotated[int | None, typer.Option(help="length of the run; the schedule rescales")] = None,
    size: Annotated[int | None, typer.Option(metavar="PX", help="side of the network input")] = None,
    seed: Annotated[int | None, typer.Option(help="seed of initialisation, order, augmentation")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="insist that RUN exists and continue it")] = False,
    accept_data_change: Annotated[
        bool, typer.Option("--accept-data-change", help="continue RUN on data that changed, from its next epoch")
    ] = False,
    overrides: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train on images and write a run folder.

    The same command on an unfinished RUN continues it; on a finished one it does nothing.
    """
    from plusx.engine.distributed import leads
    from plusx.run import train as run_train

    result = run_train(
        data,
        out=out,
        model=model,
        recipe=recipe,
        weights=weights,
        epochs=epochs,
        size=size,
        seed=seed,
        resume=resume,
        accept_data_change=accept_data_change,
        overrides=overrides or (),
    )
    if not leads():
        return None
    if as_json:
        return _print_json(result.to_dict())
    _print_run(result)
    _say(f"Open {result.report}")
    _say(f"Next: plusx predict {_quoted(result.folder)} FILES…")


@command
def evaluate(
    model: Model,
    data: Data,
    split: Annotated[str | None, typer.Option(help="train, val, test or all; default test, else val")] = None,
    protocol: Annotated[
        str, typer.Option(help="1-crop (the centre), 6-view, 10-crop, multi-scale, or multi-scale=PX,PX,…")
    ] = "1-crop",
    others: Annotated[
        list[str] | None, typer.Option("--with", metavar="MODEL2", help="average with another model; repeatable")
    ] = None,
    ignore_extra: Annotated[
        bool, typer.Option("--ignore-extra", help="leave out images of classes that the model does not know")
    ] = False,
    overrides: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Exact metrics of a model on images with labels.

    Every example counts exactly once; classes are matched by name. Probabilities are averaged over the views of an
    image and over the models.
    """
    from plusx.evaluation import evaluate as run_evaluate

    with _counting("evaluating") as progress:
        result = run_evaluate(
            model,
            data,
            split=split,
            protocol=protocol,
            others=others or (),
            ignore_extra=ignore_extra,
            overrides=overrides or (),
            progress=progress,
        )
    if as_json:
        return _print_json(result.to_dict())
    _print_evaluation(result)


@command
def predict(
    model: Model,
    paths: Annotated[list[str], typer.Argument(metavar="PATH…", help="image files, folders, or quoted globs")],
    top: Annotated[int, typer.Option(min=1, help="labels per image")] = 5,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="write .csv, .jsonl or .parquet instead")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Labels for image files, folders and globs.

    A file that cannot be read is reported, the rest answered, and the exit code is 1. What is left out of folders is
    counted in notes.
    """
    from plusx.prediction import predict as run_predict
    from plusx.prediction import write, writer

    if out is not None:
        writer(out)  # an impossible name is told before the work
    with _counting("predicting") as progress:
        rows = run_predict(model, paths, top=top, progress=progress, note=_note)
    if out is not None:
        write(rows, out, _note)
        _say(f"{plural('row', len(rows))} written to {show(str(out))}", stderr=as_json)
    if as_json:
        _print_json(rows)
    elif out is None:
        _print_predictions(rows)
    if bad := sum("error" in row for row in rows):
        rest = "" if bad == len(rows) else "; the others are answered"
        _say(f"plusx: {bad:,} of {plural('file', len(rows))} could not be read{rest}.", stderr=True)
        raise typer.Exit(1)


@command
def check(data: Data, overrides: Set = None, as_json: Json = False, debug: Debug = False) -> None:
    """Report bad, odd and duplicate images; change nothing.

    Reads every file: unreadable and odd ones, duplicates, and images that leak from one split to another.
    """
    from plusx.run import check as run_check

    with _counting("reading images") as progress:
        report = run_check(data, overrides=overrides or (), progress=progress)
    if as_json:
        return _print_json(report.to_dict())
    _print_check(report)


@command
def models(as_json: Json = False, debug: Debug = False) -> None:
    """List the networks with their parameters and multiply-adds."""
    from plusx.models import table

    rows = table()
    if as_json:
        return _print_json(rows)
    _print_table(("name", "input", "parameters", "multiply-adds"), (_model_row(row) for row in rows))
    _say(
        "Any 6n+2 depth works (plain20, resnet1202, resnet50-cifar), and any resmlp-BLOCKSxWIDTH; "
        "--set model.FIELD=VALUE for options."
    )


@command
def recipes(
    fields: Annotated[bool, typer.Option("--fields", help="list every field that --set takes")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the recipes; with --fields, what --set takes."""
    from plusx import config
    from plusx.recipes import describe

    if fields:
        rows = config.fields()
        if as_json:
            return _print_json(rows)
        _print_table(("field", "takes", "default", "what it is"), (tuple(row.values()) for row in rows))
        return
    described = describe()
    if as_json:
        return _print_json(described)
    for row in described:
        _say(f"{row['name']}\n{row['doc']}\n")


@command
def doctor(
    run: Annotated[Path | None, typer.Argument(metavar="RUN", help="a run folder; without it, this machine")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check this machine, or the files of a run.

    Without RUN: versions, devices, and a self-check of the fast paths. With it: every checkpoint and the model file are
    read in full and verified; one that is damaged or missing ends it with code 1.
    """
    from plusx.doctor import examine, examine_run

    if run is not None:
        found = examine_run(run)
        (_print_json if as_json else _print_run_files)(found)
        if not all(row["ok"] for row in found["files"]):
            raise typer.Exit(1)
        return
    report = examine()
    if as_json:
        _print_json(report)
    else:
        _print_table(("what", "found"), ((key, str(value)) for key, value in report.items() if key != "checks"))
        rows = ((row["check"], "ok" if row["ok"] else "failed", row["detail"]) for row in report["checks"])
        _print_table(("self-check", "result", "detail"), rows)
    if not all(row["ok"] for row in report["checks"]):
        _say("plusx: a self-check failed; re-install the versions in constraints.txt.", stderr=True)
        raise typer.Exit(1)


@command
def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"one of {', '.join(STUDIES)}")],
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="default studies/NAME-BUDGET")] = None,
    budget: Annotated[
        str, typer.Option(help=f"{' or '.join(BUDGETS)}: minutes on two cores, or the paper's own length")
    ] = "quick",
    seeds: Annotated[int, typer.Option(help="runs of each setting")] = 3,
    parallel: Annotated[int, typer.Option(help="runs at a time, each on its share of the cores")] = 1,
    overrides: Set = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Test a claim of the paper; the same command continues.

    Trains every setting with every seed; writes a table, figures and a page with the verdict.
    """
    from plusx.studies.study import study as run_study

    result = run_study(name, out=out, budget=budget, seeds=seeds, parallel=parallel, overrides=overrides or ())
    if as_json:
        return _print_json(result.to_dict())
    _print_study(result)
    _say(f"Open {result.page}")


def main() -> None:
    """Run the command line and exit with its code; what a signal ends is still cleaned up."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, lambda received, _: sys.exit(128 + received))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal without our characters still gets the words
    app(prog_name="plusx")


def _counting(title: str) -> AbstractContextManager[Callable[[int, int], None]]:
    from plusx.engine import Log

    return Log(None).counting(title)


def _say(text: str, *, stderr: bool = False) -> None:
    from rich.console import Console

    Console(stderr=stderr, soft_wrap=True, highlight=False, emoji=False).print(_visible(text), markup=False)


def _note(text: str) -> None:
    _say(f"note: {show(text)}", stderr=True)


def _visible(text: str) -> str:
    """Control characters as escapes, so that no file name can steer the terminal; line breaks stay."""
    return "\n".join(map(show, text.split("\n")))


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=True, allow_nan=False))


def _print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(escape(show(cell)) for cell in row))
    console = Console(highlight=False, emoji=False)
    console.width = console.width if console.is_terminal else 160
    console.print(table)


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def _print_run(run: Any) -> None:
    result = run.to_dict()
    final, watched = result["final"], result["watched"]
    state = "finished before, nothing to do" if run.already_finished else f"took {result['seconds']:.0f} s"
    _say(f"{result['model']}, {plural('epoch', result['epochs'])} on {plural('image', result['n_train'])}: {state}")
    _say(f"{watched}: top-1 {_percent(final['top1'])}, error {_percent(1 - final['top1'])}, last epoch")
    if run.selected == "best":
        best = result["best"]
        kept = f"at epoch {best['epoch']}, the weights kept in {run.model_file}"
        _say(f"{watched}: top-1 {_percent(best['top1'])} {kept}")
    else:
        _say(f"Model file: {run.model_file}")
    if run.already_finished:
        _say("Its data was not looked at again: to train on what has changed, give another --out.")


def _print_evaluation(evaluation: Any) -> None:
    e = evaluation
    _say(
        f"{e.split}: top-1 {_percent(e.top1)}, error {_percent(1 - e.top1)}, top-5 {_percent(e.top5)}, "
        f"loss {e.loss:.4f}, calibration error {_percent(e.ece)}, {plural('image', e.n)}, {e.protocol}"
    )
    if len(e.models) > 1:
        _say(f"mean of {len(e.models)} models: {', '.join(map(show, e.models))}")
    if e.task == "single":
        name, share = e.commonest
        _say(f"always answering {show(name)} would be right in {_percent(share)}")
    for note in e.notes:
        _say(f"note: {show(note)}")
    if len(e.per_class) <= 100:
        rows = (
            (name, f"{c['n']:,}", *(_percent(c[k]) if c["n"] else "-" for k in ("precision", "recall", "f1")))
            for name, c in e.per_class.items()
        )
        _print_table(("class", "n", "precision", "recall", "F1"), rows)


def _print_predictions(rows: Sequence[dict[str, Any]]) -> None:
    for row in rows:
        if "error" in row:
            _say(show(f"{row['path']}: {row['error']}"), stderr=True)
        else:
            labels = ", ".join(f"{x['label']} {_percent(x['probability'])}" for x in row["labels"])
            _say(show(f"{row['path']}: {labels}"))


def _print_run_files(found: dict[str, Any]) -> None:
    _say(f"{found['run']}: {'finished' if found['finished'] else 'not finished; the same command continues it'}")
    rows = ((row["file"], in_bytes(row["bytes"]), row["state"]) for row in found["files"])
    _print_table(("file", "size", "state"), rows)
    for row in found["failures"]:
        _say(f"rank {row['rank']} failed at step {row['step']}: {row['failure'].strip().splitlines()[-1]}")


def _print_study(result: Any) -> None:
    _say(f"{result.claim} {result.verdict.capitalize()}.")
    if result.overrides:
        _say(f"changed from the {result.budget} budget: {' '.join(result.overrides)}")
    for part in result.claims:
        _say(f"  {part['verdict']}: {part['claim']} ({part['reason']})")
    shown = {"n": "d", "mean": ".4g", "std": ".2g", "difference": "+.2g"}
    rows = ((r["arm"], r["measure"], *(_number(r[key], form) for key, form in shown.items())) for r in result.table)
    _print_table(("arm", "measure", "n", "mean", "std", "minus the paper's"), rows)
    for one in result.diverged:
        _say(f"{one['arm']}, seed {one['seed']}, diverged: {one['reason']}")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _print_check(report: Any) -> None:
    splits = [split for split in SPLITS if any(split in counts for counts in report.classes.values())]
    _say(f"{plural('example', report.n)}, {plural('class', len(report.classes))}")
    if len(report.classes) <= 100:
        rows = ((name, *(f"{counts.get(s, 0):,}" for s in splits)) for name, counts in report.classes.items())
        _print_table(("class", *splits), rows)
    for bad in report.bad:
        _say(f"bad: {bad['path']}: {bad['reason']}")
    others = [group for group in report.duplicates if len(set(group["splits"])) == 1]
    for kind, groups in (("leak", report.leaks), ("duplicate", others)):
        for group in groups[:MAX_GROUPS]:
            _say(f"{kind} (same {group['same']}): {', '.join(group['paths'])}")
        if len(groups) > MAX_GROUPS:
            _say(f"{plural(f'more {kind}', len(groups) - MAX_GROUPS)}: --json lists all")
    for warning in report.warnings:
        _say(f"warning: {warning}")
    found = len(report.bad) + len(report.duplicates) + len(report.warnings)
    _say(f"{plural('finding', found)}; nothing was changed." if found else "Nothing to report.")


def _model_row(row: dict[str, Any]) -> tuple[str, ...]:
    return row["name"], row["input"], f"{row['params']:,}", f"{row['macs'] / 1e6:,.2f} M"
