"""A study from its declaration to its page: every arm trained with every seed, measured, judged, drawn."""

import dataclasses
import importlib
import os
import shlex
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from plusx import modelfile
from plusx.config import parse_overrides, several
from plusx.engine import Log
from plusx.errors import ConfigError, DivergedError
from plusx.models import count_macs, create_model
from plusx.plan import OPTIONS, latest, write_json
from plusx.result import Run
from plusx.run import train
from plusx.studies import BUDGETS, STUDIES
from plusx.studies.ahead import Ended, train_ahead
from plusx.studies.core import Arm, Diverged, Judged, Results, Study, settings, spread, together, values, words
from plusx.studies.curves import Measured
from plusx.studies.machine import machine
from plusx.studies.page import write_figures, write_page


@dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A finished study.

    Attributes:
        folder: with `study.json`, `index.html`, `figures/` and a run folder for each arm and seed in `runs/`.
        holds: True or False; None when not decided at this budget.
        claims: its parts, `{claim, holds, verdict, reason}`.
        settings: what was compared, by field: `{shared: {…}, arms: {arm: {…}}}`; see `overrides` too.
        measures: what each measure of the table is, with its unit.
        table: rows `{arm, measure, n, mean, std, paper, difference}`; n is of the runs that ended.
        diverged: runs whose numbers became infinite or NaN, `{arm, seed, reason}`; claims about these arms stay open.
        seconds: of training, all runs together, those of earlier parts too.
        machine: what the runs were made with, as they recorded it.
        overrides: `section.field=value` that changed every run from its budget.
    """

    folder: Path
    name: str
    claim: str
    source: str
    budget: str
    seeds: int
    holds: bool | None
    verdict: str
    claims: tuple[dict[str, Any], ...]
    settings: dict[str, Any]
    measures: dict[str, str]
    table: tuple[dict[str, Any], ...]
    diverged: tuple[dict[str, Any], ...]
    seconds: float
    machine: dict[str, str]
    overrides: tuple[str, ...]

    @property
    def command(self) -> str:
        """What makes it again, where the data set is found without `--set data.root=DIR`."""
        start = ["plusx", "study", self.name, "--budget", self.budget, "--seeds", str(self.seeds)]
        return shlex.join([*start, *(word for text in self.overrides for word in ("--set", text))])

    @property
    def page(self) -> Path:
        """The HTML page."""
        return self.folder / "index.html"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as `plusx study --json` prints them."""
        plain = dataclasses.asdict(self) | {"folder": str(self.folder), "page": str(self.page)}
        lists = ("claims", "table", "diverged", "overrides")
        return plain | {name: list(getattr(self, name)) for name in lists}


def study(
    name: str,
    *,
    out: str | os.PathLike[str] | None = None,
    budget: str = "quick",
    seeds: int = 3,
    parallel: int = 1,
    overrides: Iterable[str] = (),
) -> StudyResult:
    """Run or resume a study: train every arm with every seed, measure, judge, draw.

    Arguments:
        name: a key of `STUDIES`.
        out: folder; None is `studies/<name>-<budget>`. The same call continues what is there.
        budget: "quick", minutes on two CPU cores, or "paper", the paper's own length.
        seeds: runs of each arm; seed 0 comes first for all of them.
        parallel: runs at a time, each on its share of the CPU cores; small networks train faster so, and on a GPU.
            They are processes of their own: a script that asks for them begins with `if __name__ == "__main__":`.
        overrides: `section.field=value` for every arm, such as `data.root=…`; not what the arms differ in. One may
            stand alone.

    Raises:
        PlusxError: what the user can fix.
        Stopped: after a signal; the same call continues.
    """
    chosen = get_study(name)
    if budget not in BUDGETS:
        raise ConfigError(f"--budget: got {budget!r}, expected one of {', '.join(BUDGETS)}.")
    if seeds < 1 or parallel < 1:
        raise ConfigError(f"--seeds, --parallel: got {seeds} and {parallel}, expected at least 1 of each.")
    folder = Path(out) if out is not None else Path("studies") / f"{name}-{budget}"
    overrides = several(overrides)
    arms = chosen.arms(budget)
    check_overrides(name, arms, overrides)
    jobs = [
        Job(name, arm, seed, folder / "runs" / arm.name / f"seed-{seed}", overrides)
        for seed in range(seeds)
        for arm in arms
    ]
    device = parse_overrides(overrides).get("engine.device")
    if device and not all(job.finished for job in jobs):
        modelfile.check_device(device, "engine.device")
    if parallel > 1:
        side_by_side(chosen.name, jobs, parallel)
    results, diverged, seconds = run_all(chosen, jobs)
    short = budget == "quick" or any(text.startswith(("schedule.steps=", "schedule.epochs=")) for text in overrides)
    judged = Judged(results, diverged)
    verdicts = [claim.verdict(judged, short) for claim in chosen.claims]
    holds = together(verdicts)
    result = StudyResult(
        folder=folder,
        name=name,
        claim=chosen.claim,
        source=chosen.source,
        budget=budget,
        seeds=seeds,
        holds=holds,
        verdict=words(holds),
        claims=tuple(
            {
                "claim": claim.text,
                "holds": verdict.holds,
                "verdict": words(verdict.holds, verdict.opposite),
                "reason": verdict.reason,
            }
            for claim, verdict in zip(chosen.claims, verdicts, strict=True)
        ),
        settings=settings(arms, {k: v for k, v in parse_overrides(overrides).items() if k != "data.root"}),
        measures=dict(chosen.measures),
        table=tuple(table(chosen, arms, results)),
        diverged=tuple(one._asdict() for one in diverged),
        seconds=round(seconds, 1),
        machine=machine([job.out for job in jobs]),
        overrides=tuple(text for text in overrides if not text.startswith("data.root=")),
    )
    charts = write_figures(folder / "figures", chosen.figures, results)
    write_json(folder / "study.json", result.to_dict())
    write_page(result.page, result, BUDGETS[budget], charts)
    return result


def get_study(name: str) -> Study:
    """The study of that name.

    Raises:
        ConfigError: no such study.
    """
    if name not in STUDIES:
        raise ConfigError(f"study: got {name!r}, expected one of {', '.join(STUDIES)}.")
    found: Study = importlib.import_module(f"plusx.studies.{name}").STUDY
    return found


def check_overrides(name: str, arms: Sequence[Arm], overrides: Iterable[str]) -> None:
    """Refuse overrides that would make alike what a study compares, or change nothing.

    Raises:
        ConfigError: all of them at once.
    """
    settings = [arm.changes() for arm in arms]
    fixed = {
        "model.name": f"the study {name} names its networks",
        "data.val_fraction": "a study's errors are those of the test split, of nets trained on all the rest",
    }
    if any(s.get("schedule.steps") for s in settings):
        fixed["schedule.epochs"] = "this budget is counted in steps, schedule.steps"
    differ = f"got a value for every run, but arms of the study {name} differ in it"
    given = parse_overrides(overrides)
    fixed |= {key: differ for key in given if any(s.get(key) != settings[0].get(key) for s in settings)}
    if problems := [f"--set {key}: {fixed[key]}" for key in given if key in fixed]:
        hint = "Leave it out, or train a setting of your own with `plusx train`."
        raise ConfigError(f"{'; '.join(problems)}.", hint)


class Job(NamedTuple):
    """One run of a study."""

    study: str
    arm: Arm
    seed: int
    out: Path
    overrides: Sequence[str]

    @property
    def finished(self) -> bool:
        """Whether it is trained to its end."""
        return modelfile.finished(self.out)

    def train(self) -> Run:
        """Train it, or find it trained."""
        watch = get_study(self.study).watch
        settings = dict(self.arm.train) | {"overrides": latest((*self.arm.train.get("overrides", ()), *self.overrides))}
        return train(**settings, out=self.out, seed=self.seed, on_step=watch(self.out) if watch else None)


def side_by_side(name: str, jobs: Sequence[Job], parallel: int) -> None:
    """Train every run, several at a time, and tell each as it ends; one that was trained before is not told."""
    log, cost, begun = Log(None), costs(jobs), time.perf_counter()
    ahead = [job for job in jobs if not job.finished]
    work = sum(cost[job.arm.name] for job in ahead)
    done = 0

    def tell(job: Job, end: Ended) -> None:
        nonlocal done
        if job not in ahead:
            return
        ahead.remove(job)
        done += cost[job.arm.name]
        rest = (time.perf_counter() - begun) / done * (work - done)
        left = f", about {duration(rest)} left" if ahead else ""
        state = f"diverged: {end.message}" if end.diverged else end.message or "trained"
        log.line(
            f"{name}: {job.arm.name}, seed {job.seed}, {state}; {len(jobs) - len(ahead)} of {len(jobs)} done{left}"
        )

    if ahead:
        log.line(
            f"{name}: {len(ahead)} of {len(jobs)} runs to train, {parallel} at a time; each writes its own log.txt"
        )
    train_ahead(longest_first(jobs), parallel, tell)


def run_all(chosen: Study, jobs: Sequence[Job]) -> tuple[Results, list[Diverged], float]:
    """Every run, trained or found trained, and measured, by arm in the order of seeds; and the seconds of training.

    A run that diverges is a result too: it is told, and the others go on.
    """
    log, seconds, work, diverged = Log(None), 0.0, 0, []
    results: dict[str, list[Measured]] = {job.arm.name: [] for job in jobs}
    cost = costs(jobs)
    for count, job in enumerate(jobs, 1):
        ahead = sum(cost[other.arm.name] for other in jobs[count - 1 :] if not other.finished)
        left = f", about {duration(seconds / work * ahead)} left" if work and ahead else ""
        if not job.finished:
            log.line(f"{chosen.name}: run {count} of {len(jobs)}, {job.arm.name}, seed {job.seed}{left}")
        try:
            run = job.train()
        except DivergedError as error:
            log.line(f"{job.arm.name}, seed {job.seed}, diverged: {error.message}")
            diverged.append(Diverged(job.arm.name, job.seed, error.message))
            continue
        results[job.arm.name].append(chosen.measure(run))
        seconds, work = seconds + run.seconds, work + cost[job.arm.name]
    return results, diverged, seconds


def duration(seconds: float) -> str:
    """Seconds, or minutes or hours where there are many."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def costs(jobs: Sequence[Job]) -> dict[str, int]:
    """What a run of each arm costs beside the others: its network's multiply-adds, since all have as many steps.

    Where the network of one is known only with its data, all count alike.
    """
    found = {arm.name: _macs(arm) for arm in {job.arm.name: job.arm for job in jobs}.values()}
    return found if all(found.values()) else dict.fromkeys(found, 1)


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """By seed, then by cost."""
    cost = costs(jobs)
    return sorted(jobs, key=lambda job: (job.seed, -cost[job.arm.name]))


def _macs(arm: Arm) -> int:
    """Multiply-adds of an image of 32 px; 0 where the arm names no network."""
    changes = arm.changes()
    if not (name := changes.get("model.name")):
        return 0
    options = {key: changes[f"model.{key}"] for key in OPTIONS if f"model.{key}" in changes}
    with torch.device("meta"):
        network = create_model(name, 10, size=32, **options)
    return count_macs(network, (3, 32, 32))


def table(chosen: Study, arms: Sequence[Arm], results: Results) -> list[dict[str, Any]]:
    """A row for each arm and measure: n, mean and deviation over seeds, the paper's value and the difference."""
    rows = []
    for arm in arms:
        for measure in chosen.measures:
            runs = results[arm.name]
            if not runs or any(measure not in run.values for run in runs):
                continue
            found, paper = spread(values(results, arm.name, measure)), arm.paper.get(measure)
            rows.append(
                {"arm": arm.name, "measure": measure, **found._asdict()}
                | {"paper": paper, "difference": None if paper is None else found.mean - paper}
            )
    return rows
