"""What a study is: arms that are trained once per seed, what is measured on each run, and a claim to be judged."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from torch import nn

from plusx.plan import Request
from plusx.result import Run
from plusx.studies.curves import ERRORS, Measured, errors

LEVEL = 0.05  # p-value under which a difference of means decides
ONE_SEED, NO_SPREAD = "one seed decides nothing", "no spread over seeds, no test"

Watch = Callable[[int, nn.Module], None]


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One setting, trained once per seed.

    Attributes:
        name: for tables, figures and folders.
        train: arguments of `plusx.train`: data, model, recipe, overrides, …
        paper: the paper's value of a measure, where it gives one.
    """

    name: str
    train: Mapping[str, Any]
    paper: Mapping[str, float] = field(default_factory=dict)

    def changes(self) -> dict[str, Any]:
        """The fields of the configuration that it sets, `model.name` among them where it names a network."""
        return Request(**{**self.train, "overrides": tuple(self.train.get("overrides", ()))}).changes()


Arms = Callable[[str], Sequence[Arm]]  # budget -> settings


class Figure(NamedTuple):
    """A chart of all arms: lines of a series, or bars of a value; means over seeds, with their spread."""

    title: str
    measure: str
    x: str  # what the horizontal axis is; "" draws bars
    y: str
    log: bool = False


class Spread(NamedTuple):
    """Mean and standard deviation over n seeds; one seed has no deviation."""

    n: int
    mean: float
    std: float | None


class Verdict(NamedTuple):
    """Whether a claim holds (None: not decided at this budget), and the numbers that say so.

    `opposite`: they say the opposite, of runs too short to refute it.
    """

    holds: bool | None
    reason: str
    opposite: bool = False


Results = Mapping[str, Sequence[Measured]]
"""Arm -> what its runs gave, one entry a seed; runs that diverged gave nothing."""


class Diverged(NamedTuple):
    """A run whose loss or gradients became infinite or NaN, and what it said then."""

    arm: str
    seed: int
    reason: str


class IncompleteError(Exception):
    """A claim asks for an arm of which runs diverged."""


class Judged(dict[str, Sequence[Measured]]):
    """Results as claims see them: an arm of which a run diverged cannot be had; what is left of it says too little."""

    def __init__(self, results: Results, diverged: Sequence[Diverged]) -> None:
        super().__init__(results)
        self._diverged = {one.arm: one for one in reversed(diverged)}

    def __getitem__(self, arm: str) -> Sequence[Measured]:
        if arm in self._diverged:
            _, seed, reason = self._diverged[arm]
            raise IncompleteError(f"{arm} diverged, seed {seed}: {reason}")
        return super().__getitem__(arm)


class Claim(NamedTuple):
    """A part of what a study tests: a sentence, and its judgement from the numbers of all runs."""

    text: str
    judge: Callable[[Results], Verdict]
    early: bool = False  # it speaks of the start or the course of training, so that short runs can refute it

    def verdict(self, results: Results, short: bool) -> Verdict:
        """The judgement; short runs do not refute what is said of trained nets, one that diverged leaves it open."""
        try:
            found = self.judge(results)
        except IncompleteError as error:
            return Verdict(None, str(error))
        refuted = found.holds is False and short and not self.early
        return Verdict(None, found.reason, opposite=True) if refuted else found


@dataclass(frozen=True, kw_only=True)
class Study:
    """An experiment that tests a claim and may come out either way.

    Attributes:
        name: on the command line.
        claim: a sentence that can be false.
        claims: its parts; it holds with all of them and fails with any.
        source: where it is made.
        arms: the settings of a budget.
        figures: the charts.
        measures: what the table's columns are, by name, with units.
        measure: a finished run -> its numbers.
        watch: run folder -> a function called after each training step, for what only training shows.
    """

    name: str
    claim: str
    claims: Sequence[Claim]
    source: str
    arms: Arms
    figures: Sequence[Figure]
    measures: Mapping[str, str] = field(default_factory=lambda: ERRORS)
    measure: Callable[[Run], Measured] = errors
    watch: Callable[[Path], Watch] | None = None


def settings(arms: Sequence[Arm], changes: Mapping[str, Any]) -> dict[str, Any]:
    """What all arms share, with `changes` to all, and what each has of its own.

    Returns:
        `{"shared": {field: value}, "arms": {arm: {field: value}}}`.
    """
    found = {arm.name: {"data": arm.train["data"], "recipe": arm.train.get("recipe")} | arm.changes() for arm in arms}
    given = {name: {key: value for key, value in one.items() if value is not None} for name, one in found.items()}
    first, *others = given.values()
    shared = {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}
    own = {name: {key: value for key, value in one.items() if key not in shared} for name, one in given.items()}
    return {"shared": {**shared, **changes}, "arms": own}


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation, which one value has not."""
    return Spread(len(values), fmean(values), stdev(values) if len(values) > 1 else None)


def values(results: Results, arm: str, measure: str) -> list[float]:
    """A measure of an arm, one number a seed."""
    return [run.values[measure] for run in results[arm]]


def ends(results: Results, family: str) -> tuple[str, str]:
    """The shallowest and the deepest net of a family."""
    depths = sorted(int(name.removeprefix(family)) for name in results if name.startswith(family))
    return f"{family}{depths[0]}", f"{family}{depths[-1]}"


def lower(results: Results, measure: str, low: str, high: str) -> Verdict:
    """Whether the measure of arm `low` is below that of arm `high`, by Welch's t-test over seeds, two-sided."""
    from scipy.stats import ttest_ind_from_stats

    a, b = (spread(values(results, arm, measure)) for arm in (low, high))
    if a.std is None or b.std is None:
        return Verdict(None, f"{measure} of {low} {a.mean:.4g}, of {high} {b.mean:.4g}, n = {a.n}: {ONE_SEED}")
    text = f"{measure} of {low} {a.mean:.4g} (sd {a.std:.2g}), of {high} {b.mean:.4g} (sd {b.std:.2g}), n = {a.n}"
    if a.std == b.std == 0:
        return Verdict(None, f"{text}: {NO_SPREAD}")
    p = float(ttest_ind_from_stats(a.mean, a.std, a.n, b.mean, b.std, b.n, equal_var=False).pvalue)
    return Verdict(a.mean < b.mean if p < LEVEL else None, f"{text}, p = {p:.2g}")


def is_lower(text: str, measure: str, low: str, high: str, *, early: bool = False) -> Claim:
    """The claim that the measure of arm `low` is below that of arm `high`."""
    return Claim(text, lambda results: lower(results, measure, low, high), early)


def limit(results: Results, measure: str, arm: str, *, above: float = -math.inf, below: float = math.inf) -> Verdict:
    """Whether the measure of an arm lies between two bounds, by a t-test over seeds against each, two-sided."""
    from scipy.stats import ttest_1samp

    found, parts = values(results, arm, measure), []
    n, mean, std = spread(found)
    if not std:
        return Verdict(None, f"{measure} of {arm} {mean:.4g}, n = {n}: {ONE_SEED if n == 1 else NO_SPREAD}")
    for word, bound, inside in (("above", above, mean > above), ("below", below, mean < below)):
        if math.isfinite(bound):
            p = float(ttest_1samp(found, bound).pvalue)
            parts.append(Verdict(inside if p < LEVEL else None, f"{word} {bound:g} (p = {p:.2g})"))
    needs = " and ".join(part.reason for part in parts)
    return Verdict(together(parts), f"{measure} of {arm} {mean:.4g} (sd {std:.2g}), n = {n}; the claim needs {needs}")


def is_within(text: str, measure: str, arm: str, *, early: bool = False, **bounds: float) -> Claim:
    """The claim that the measure of an arm is `above` one bound, or `below` one, or both."""
    return Claim(text, lambda results: limit(results, measure, arm, **bounds), early)


def together(verdicts: Sequence[Verdict]) -> bool | None:
    """A claim of several parts: fails with any of them, holds with all."""
    outcomes = [verdict.holds for verdict in verdicts]
    return False if False in outcomes else None if None in outcomes else True


def words(holds: bool | None, opposite: bool = False) -> str:
    """A verdict for people."""
    undecided = "opposite at this budget" if opposite else "not decided at this budget"
    return {True: "holds", False: "does not hold", None: undecided}[holds]
