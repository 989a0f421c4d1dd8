"""Studies run, measure, judge, draw, and survive being killed."""

import dataclasses
import html.parser
import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure as Canvas

import plusx.studies.study as studies
from plusx import cli
from plusx.config import DataConfig, parse_overrides
from plusx.data.facts import facts
from plusx.data.sources import SOURCES
from plusx.errors import ConfigError, DivergedError, PlusxError
from plusx.models import create_model
from plusx.models.probe import droppable_blocks
from plusx.plan import Request, decide, latest
from plusx.studies import BUDGETS, STUDIES, trained
from plusx.studies.ahead import Ended, _train, train_ahead
from plusx.studies.core import Arm, Claim, Figure, Study, limit, lower
from plusx.studies.curves import ERRORS, Measured, errors
from plusx.studies.page import draw_lines, write_figures
from tests.forks import Fork
from tests.studies.making import noise, use_noise

STEPS = 3


def tiny(watch: Callable[[Path], Any] | None = None) -> Study:
    """Two arms of a small net on digits, three steps each."""

    def arms(budget: str) -> list[Arm]:
        changes = [f"schedule.steps={STEPS}", "model.width=4", "data.normalize=channel", "engine.checkpoint_steps=1"]
        common = {"data": "digits", "recipe": "cifar10-paper", "model": "resnet8"}
        return [
            Arm(name=name, train=common | {"overrides": [*changes, f"optim.lr={rate}"]}, paper={"test_error": 9.0})
            for name, rate in (("slow", 0.001), ("fast", 0.1))
        ]

    return Study(
        name="tiny",
        claim="A rate matters.",
        claims=(Claim("The fast one learns.", lambda r: lower(r, "test_error", "fast", "slow")),),
        source="nowhere",
        measures=ERRORS,
        arms=arms,
        measure=errors,
        figures=(Figure("Errors", "test_error", "step", "%"), Figure("Last errors", "test_error", "", "%")),
        watch=watch,
    )


@pytest.fixture(autouse=True)
def _noise(monkeypatch: pytest.MonkeyPatch) -> None:
    use_noise(monkeypatch)


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "get_study", lambda name: tiny())


@pytest.mark.usefixtures("_tiny")
def test_a_study_trains_measures_judges_and_draws(tmp_path: Path) -> None:
    result = studies.study("tiny", out=tmp_path, seeds=2)
    plain = json.loads((tmp_path / "study.json").read_text())
    assert plain == result.to_dict()
    assert plain["holds"] == result.claims[0]["holds"]
    runs = {path.parent.relative_to(tmp_path / "runs").as_posix() for path in tmp_path.glob("runs/*/*/result.json")}
    assert runs == {f"{arm}/seed-{seed}" for arm in ("slow", "fast") for seed in (0, 1)}
    for arm in ("slow", "fast"):
        files = [tmp_path / "runs" / arm / f"seed-{seed}" / "result.json" for seed in (0, 1)]
        found = [100 * (1 - json.loads(file.read_text())["final"]["top1"]) for file in files]
        row = next(r for r in plain["table"] if (r["arm"], r["measure"]) == (arm, "test_error"))
        assert row["n"] == 2
        assert row["mean"] == pytest.approx(sum(found) / 2)
        assert row["std"] == pytest.approx(abs(found[0] - found[1]) / 2**0.5)
        assert (row["paper"], row["difference"]) == (9.0, pytest.approx(row["mean"] - 9.0))
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("errors", "last-errors") for kind in ("png", "svg")
    }
    assert plain["measures"] == ERRORS
    assert plain["settings"]["arms"] == {"slow": {"optim.lr": 0.001}, "fast": {"optim.lr": 0.1}}
    shared = {"data": "digits", "recipe": "cifar10-paper", "model.name": "resnet8", "schedule.steps": STEPS}
    assert shared.items() <= plain["settings"]["shared"].items()
    page = result.page.read_text()
    for told in (
        "<code>optim.lr=0.001</code>",
        "<code>model.name=resnet8</code>",
        "<code>test_error</code>: test error, %",
    ):
        assert told in page
    html.parser.HTMLParser().feed(page)
    assert "A rate matters." in page
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "http:" not in page.replace("http://www.w3.org", "")


@pytest.mark.usefixtures("_tiny")
def test_again_nothing_is_trained_and_more_seeds_add_to_what_is_there(tmp_path: Path) -> None:
    first = studies.study("tiny", out=tmp_path, seeds=1)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/result.json")}
    again = studies.study("tiny", out=tmp_path, seeds=1)
    assert again.to_dict() == first.to_dict()
    studies.study("tiny", out=tmp_path, seeds=2)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert len(list(tmp_path.glob("runs/*/*/result.json"))) == 4


@pytest.mark.parametrize("parallel", [1, 2])
def test_a_run_that_diverges_is_a_result_and_decides_nothing(
    parallel: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = studies.train

    def ahead(jobs: list[studies.Job], parallel: int, tell: Callable[[studies.Job, Ended], None]) -> None:
        for job in jobs:
            end = _train(job)
            assert end is not None
            assert not end.message or end.diverged  # no failure
            tell(job, end)

    def diverging(**settings: Any) -> Any:
        wild = settings["out"] == tmp_path / "runs" / "fast" / "seed-1"
        return train(**settings | {"overrides": latest((*settings["overrides"], *["optim.lr=1e30"] * wild))})

    monkeypatch.setattr(studies, "train", diverging)
    slow = Claim("The slow one errs.", lambda r: limit(r, "test_error", "slow", above=0))
    chosen = dataclasses.replace(tiny(), claims=(*tiny().claims, slow))
    monkeypatch.setattr(studies, "get_study", lambda name: chosen)
    monkeypatch.setattr(studies, "train_ahead", ahead)
    result = studies.study("tiny", out=tmp_path, seeds=3, parallel=parallel)
    assert [(one["arm"], one["seed"]) for one in result.diverged] == [("fast", 1)]
    assert result.diverged[0]["reason"].startswith("step 1: no checkpoint is written, model/")
    assert [claim["holds"] for claim in result.claims] == [None, True]
    assert result.claims[0]["reason"] == f"fast diverged, seed 1: {result.diverged[0]['reason']}"
    assert {(row["arm"], row["n"]) for row in result.table} == {("slow", 3), ("fast", 2)}
    assert "fast, seed 1, diverged: step " in result.page.read_text()
    assert json.loads((tmp_path / "study.json").read_text()) == result.to_dict()


def test_a_study_whose_runs_all_diverge_has_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverging(*, out: Path, **_: Any) -> Any:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.json").write_text('{"versions": {}}')
        raise DivergedError("step 3: the loss is nan.", "Lower optim.lr.")

    monkeypatch.setattr(studies, "train", diverging)
    monkeypatch.setattr(studies, "get_study", lambda name: tiny())
    result = studies.study("tiny", out=tmp_path, seeds=1)
    assert (len(result.diverged), result.table, result.holds) == (2, (), None)
    assert "slow, seed 0, diverged: step 3: the loss is nan." in result.page.read_text()
    capsys.readouterr()
    cli._print_study(result)
    assert "slow, seed 0, diverged: step 3: the loss is nan." in capsys.readouterr().out


def killed_study(folder: Path, step: int) -> None:
    """The study that kills itself before a step; all its runs' steps count."""
    made = itertools.count(1)

    def look(number: int, module: torch.nn.Module) -> None:
        if next(made) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    studies.get_study = lambda name: tiny(lambda folder: look)  # type: ignore[assignment]
    studies.study("tiny", out=folder, seeds=2)


@pytest.mark.usefixtures("_tiny")
def test_a_killed_study_ends_in_the_same_table(tmp_path: Path) -> None:
    whole = studies.study("tiny", out=tmp_path / "whole", seeds=2)
    for step in (2, 5):  # in the middle of the first run and of a later one
        process = Fork(killed_study, tmp_path / "killed", step, path=tmp_path / f"told-{step}")
        assert process.wait() == -signal.SIGKILL, process.told()
    again = studies.study("tiny", out=tmp_path / "killed", seeds=2)
    assert again.table == whole.table
    assert again.claims == whole.claims


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_runs_and_reaches_a_verdict_for_each_claim(name: str, tmp_path: Path) -> None:
    changes = (f"schedule.steps={STEPS}", "engine.batch=16", "data.normalize=channel")
    result = studies.study(name, out=tmp_path, seeds=1, overrides=changes)
    chosen = studies.get_study(name)
    assert chosen.name == name
    assert {row["measure"] for row in result.table} == set(chosen.measures)
    assert all(np.isfinite(row["mean"]) for row in result.table)
    assert all(claim["holds"] is None and claim["reason"] for claim in result.claims)  # one seed decides nothing
    assert len(list((tmp_path / "figures").glob("*.png"))) == len(chosen.figures)


@pytest.mark.parametrize("name", STUDIES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_every_arm_is_a_run_that_can_be_decided(name: str, budget: str) -> None:
    arms = studies.get_study(name).arms(budget)
    assert len({arm.name for arm in arms}) == len(arms) >= 2
    known = facts(noise("noise", DataConfig()))
    for arm in arms:
        decide(Request(**{**arm.train, "overrides": tuple(arm.train["overrides"])}), known)


def test_the_papers_arms_of_cifar10_train_as_section_4_2_says() -> None:
    known = facts(noise("noise", DataConfig()))
    for arm in studies.get_study("degradation").arms("paper"):
        config, _ = decide(Request(**{**arm.train, "overrides": tuple(arm.train["overrides"])}), known)
        assert (config.recipe, config.schedule.steps, arm.train["data"]) == ("cifar10-paper", 64_000, "cifar10")


def digit_jobs(folder: Path, *changes: str) -> list[studies.Job]:
    """The runs of the study `tiny` with one seed, which other processes find under another study's name."""
    arms = tiny().arms("quick")
    return [studies.Job("colour", arm, 0, folder / "runs" / arm.name / "seed-0", changes) for arm in arms]


@pytest.mark.usefixtures("_tiny")
def test_runs_side_by_side_end_in_the_same_table(tmp_path: Path) -> None:
    one = studies.study("tiny", out=tmp_path / "one", seeds=1, overrides="engine.threads=1")
    train_ahead(digit_jobs(tmp_path / "two", "engine.threads=1"), 2, lambda job, end: None)
    stamps = [path.stat().st_mtime_ns for path in tmp_path.glob("two/runs/*/*/result.json")]
    two = studies.study("tiny", out=tmp_path / "two", seeds=1, overrides="engine.threads=1")
    assert [path.stat().st_mtime_ns for path in tmp_path.glob("two/runs/*/*/result.json")] == stamps
    assert len(stamps) == 2
    assert one.table == two.table
    assert {"torch", "cores", "processor", "system", "date"} <= two.machine.keys()
    assert (one.machine["threads"], two.machine["threads"]) == ("1", "1")


def test_a_failure_in_one_of_several_processes_is_told(tmp_path: Path) -> None:
    with pytest.raises(PlusxError, match=r"engine\.device: got 'cuda:9'"):  # which only a run finds out
        train_ahead(digit_jobs(tmp_path, "engine.device=cuda:9")[:1], 2, lambda job, end: None)


def test_a_study_goes_on_wherever_its_folder_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    short = ("schedule.steps=1", "engine.batch=16", "data.normalize=channel")
    monkeypatch.chdir(tmp_path)
    first = studies.study("colour", out="here", seeds=1, overrides=short)
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    assert studies.study("colour", out=tmp_path / "there", seeds=1, overrides=short).table == first.table


def test_what_cannot_be_set_is_told_before_data_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(SOURCES, "cifar10-part")
    with pytest.raises(
        ConfigError, match=r"--set model\.name: the study colour names its networks; --set augment\.col"
    ):
        studies.study("colour", out=tmp_path, overrides=("model.name=resnet56", "augment.colour=0.1"))
    with pytest.raises(ConfigError, match=r"optim\.rate: no such field"):
        studies.study("colour", out=tmp_path, overrides=("optim.rate=1",))
    with pytest.raises(ConfigError, match=r"engine\.device: got 'cuda:9'"):  # once, not for every run
        studies.study("colour", out=tmp_path, parallel=2, overrides=("engine.device=cuda:9",))


@pytest.mark.parametrize(
    ("name", "override", "field"),
    [
        ("shortcuts", "model.shortcut=A", "model.shortcut"),
        ("gradients", "optim.lr=0.1", "optim.lr"),
        ("colour", "augment.colour=0.1", "augment.colour"),
    ],
)
def test_what_a_study_compares_cannot_be_set_for_every_run(
    name: str, override: str, field: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"--set {field}: got a value for every run, .* study {name} differ in it"):
        studies.study(name, out=tmp_path, overrides=("engine.batch=16", override))
    assert not (tmp_path / "runs").exists()


def test_the_split_that_a_study_measures_cannot_be_set(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set data\.val_fraction: a study's errors are those of the test split"):
        studies.study("colour", out=tmp_path, overrides=("engine.batch=16", "data.val_fraction=0.25"))


def test_epochs_that_would_change_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set schedule\.epochs: this budget is counted in steps"):
        studies.study("mlp", out=tmp_path, overrides=("schedule.epochs=1",))


class Untrained:
    """In the place of training: a run that reached nothing."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, value: Callable[[str, int], float], seconds: float = 1.0
    ) -> None:
        self.value, self.seconds = value, seconds
        monkeypatch.setattr(studies, "train", self.train)
        monkeypatch.setattr(studies, "get_study", lambda name: dataclasses.replace(tiny(), measure=self.measure))

    def train(self, *, out: Path, seed: int, **_: Any) -> Any:
        out.mkdir(parents=True, exist_ok=True)
        made = {"torch": "2.14.1", "threads": str(1 + seed), "date": "2026-01-01"}
        (out / "config.json").write_text(json.dumps({"versions": made}))
        (out / "result.json").write_text("{}")
        return SimpleNamespace(folder=out, seconds=self.seconds)

    def measure(self, run: Any) -> Measured:
        value = self.value(run.folder.parent.name, int(run.folder.name[-1]))
        return Measured(values={"test_error": value}, series={"test_error": [(1, value)]})


@pytest.mark.parametrize(
    ("budget", "overrides", "verdict"),
    [
        ("paper", ("engine.batch=16",), "does not hold"),
        ("paper", ("schedule.steps=200",), "opposite at this budget"),
        ("quick", (), "opposite at this budget"),
    ],
)
def test_what_was_changed_from_a_budget_is_recorded_and_shortened_runs_refute_nothing(
    budget: str, overrides: tuple[str, ...], verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Untrained(monkeypatch, lambda arm, seed: (80.0 if arm == "fast" else 20.0) + seed)
    made = studies.study("tiny", out=tmp_path, budget=budget, seeds=2, overrides=("data.root=/home/me", *overrides))
    assert [claim["verdict"] for claim in made.claims] == [verdict]
    assert made.holds is (False if verdict == "does not hold" else None)
    plain, page = json.loads((tmp_path / "study.json").read_text()), made.page.read_text()
    assert plain["overrides"] == list(overrides)
    assert parse_overrides(overrides).items() <= plain["settings"]["shared"].items()
    command = "".join(f" --set {text}" for text in overrides)
    assert f"<code>plusx study tiny --budget {budget} --seeds 2{command}</code>" in page
    assert (f"Changed from the <code>{budget}</code> budget" in page) is bool(overrides)
    assert "/home/me" not in page


def test_fewer_epochs_than_the_papers_refute_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    colour = studies.get_study("colour")
    untrained = Untrained(monkeypatch, lambda arm, seed: (80.0 if arm == "with" else 20.0) + seed)
    chosen = dataclasses.replace(colour, measure=untrained.measure, figures=(), measures={"test_error": ""})
    monkeypatch.setattr(studies, "get_study", lambda name: chosen)
    for epochs, verdict in ((("schedule.epochs=2",), "opposite at this budget"), ((), "does not hold")):
        made = studies.study("colour", out=tmp_path, budget="paper", seeds=2, overrides=epochs)
        assert [claim["verdict"] for claim in made.claims] == [verdict]


def test_a_study_names_the_surroundings_of_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Untrained(monkeypatch, lambda arm, seed: 20.0)
    assert studies.study("tiny", out=tmp_path, seeds=2).machine == {
        "torch": "2.14.1",
        "threads": "1 and 2",
        "date": "2026-01-01",
    }


def test_a_study_tells_how_long_it_will_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Untrained(monkeypatch, lambda arm, seed: 20.0, seconds=600)
    studies.study("tiny", out=tmp_path, seeds=1)
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["tiny: run 1 of 2, slow, seed 0", "tiny: run 2 of 2, fast, seed 0, about 10 min left"]
    monkeypatch.setattr(studies, "_macs", lambda arm: {"slow": 1, "fast": 29}[arm.name])
    studies.study("tiny", out=tmp_path, seeds=2)  # the two of before are not told again
    assert capsys.readouterr().err.splitlines() == [
        "tiny: run 3 of 4, slow, seed 1, about 20 min left",  # 30 units of work in 20 minutes
        "tiny: run 4 of 4, fast, seed 1, about 28 min left",
    ]


def test_runs_side_by_side_are_told_as_they_end_and_those_of_before_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def ahead(jobs: list[studies.Job], parallel: int, tell: Callable[[studies.Job, Ended], None]) -> None:
        for job, end in zip(jobs, (Ended(), Ended("step 1", diverged=True), Ended("no disk", "hint")), strict=True):
            clock[0] += 60
            tell(job, end)

    clock = [0.0]
    monkeypatch.setattr(studies, "train_ahead", ahead)
    monkeypatch.setattr(studies.time, "perf_counter", lambda: clock[0])
    arms = tiny().arms("quick")
    runs = [(arms[0], 0), (arms[1], 0), (arms[0], 1)]
    jobs = [studies.Job("tiny", arm, seed, tmp_path / f"{arm.name}-{seed}", ()) for arm, seed in runs]
    monkeypatch.setattr(studies.Job, "finished", property(lambda job: (job.arm.name, job.seed) == ("slow", 0)))
    studies.side_by_side("tiny", jobs, 2)
    assert capsys.readouterr().err.splitlines() == [
        "tiny: 2 of 3 runs to train, 2 at a time; each writes its own log.txt",
        "tiny: fast, seed 0, diverged: step 1; 2 of 3 done, about 2 min left",
        "tiny: slow, seed 1, no disk; 3 of 3 done",
    ]


def test_of_runs_side_by_side_the_longest_start_first(tmp_path: Path) -> None:
    arms = studies.get_study("degradation").arms("paper")
    jobs = [studies.Job("degradation", arm, seed, tmp_path, ()) for seed in range(2) for arm in arms]
    found = [(job.seed, job.arm.name) for job in studies.longest_first(jobs)]
    assert found[:3] == [(0, "plain110"), (0, "resnet110"), (0, "plain56")]
    assert found[len(arms)] == (1, "plain110")
    assert sorted(found) == sorted((job.seed, job.arm.name) for job in jobs)


def test_what_a_run_costs_is_its_networks_whatever_else_is_set() -> None:
    wide, stem, named, unnamed = (
        Arm(name="arm", train={"data": "digits", "overrides": changes, **model})
        for changes, model in (
            (["model.width=32", "model.init=xavier", "model.zero_init_last=true"], {"model": "resnet20"}),
            (["model.whiten_stem=true"], {"model": "resnet20"}),
            (["model.name=resnet20"], {}),
            (["model.width=32"], {}),
        )
    )
    assert studies._macs(wide) > 3 * studies._macs(stem)
    assert studies._macs(stem) == studies._macs(named) > 0
    jobs = [studies.Job("s", dataclasses.replace(a, name=n), 0, Path(), ()) for a, n in ((wide, "a"), (unnamed, "b"))]
    assert studies.costs(jobs[:1]) == {"a": studies._macs(wide)}
    assert studies.costs(jobs) == {"a": 1, "b": 1}


@pytest.mark.parametrize("given", ["model.width=5", iter(["model.width=5"])])
def test_changes_may_stand_alone_or_come_once(given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Untrained(monkeypatch, lambda arm, seed: 20.0)
    assert studies.study("tiny", out=tmp_path, seeds=1, overrides=given).overrides == ("model.width=5",)


TRUE: dict[str, dict[str, dict[str, float]]] = {  # study -> measure -> arm -> a value with which its claims hold
    "degradation": {
        "train_error": {"plain8": 5, "plain20": 6, "plain32": 7, "resnet8": 4, "resnet20": 3, "resnet32": 2}
    },
    "gradients": {
        "start_norm": {f"no-norm-{init}-{depth}": -depth for init in ("xavier", "he") for depth in (20, 56)},
        "start_share": {"no-norm-xavier-56": -2.1, "plain-56": 0.9, "residual-56": -0.9},
        "median_share": {"no-norm-xavier-56": -2.1, "plain-56": -1.9},
        "train_error": {"plain-20": 5, "plain-56": 6},
    },
    "responses": {"response": {"plain20": 5, "plain32": 4, "resnet20": 3, "resnet32": 2}},
    "shortcuts": {"test_error": {"plain": 5, "option-A": 4, "option-B": 3, "option-C": 2}},
    "init": {
        "train_error": {
            f"{net}-{init}": len(init) for net in ("no-norm", "plain", "residual") for init in ("he", "xavier")
        }
    },
    "colour": {"test_error": {"with": 4, "without": 5}},
    "placement": {"test_error": {"stride-in-3x3": 4, "stride-in-1x1": 5, "norm-before": 4, "norm-after": 5}},
    "mlp": {"train_error": {"plain-4": 5, "plain-24": 6, "residual-4": 4, "residual-24": 3}},
    "depth": {"median_cost": {"plain32": 9, "resnet32": 4.9}},
}


@pytest.mark.parametrize("name", STUDIES)
def test_claims_hold_where_they_are_so(name: str) -> None:
    arms = {arm for found in TRUE[name].values() for arm in found}
    results = {
        arm: [
            Measured(values={key: found[arm] * (1 + seed / 1000) for key, found in TRUE[name].items() if arm in found})
            for seed in range(3)
        ]
        for arm in arms
    }
    verdicts = {claim.text: claim.verdict(results, short=False).holds for claim in studies.get_study(name).claims}
    assert verdicts == dict.fromkeys(verdicts, True)


def test_the_papers_errors_stand_beside_runs_of_its_length_alone() -> None:
    arms = studies.get_study("degradation").arms
    assert not any(arm.paper for arm in arms("quick"))
    published = {"resnet20": 8.75, "resnet32": 7.51, "resnet44": 7.17, "resnet56": 6.97, "resnet110": 6.61}
    assert {arm.name: arm.paper["test_error"] for arm in arms("paper") if arm.paper} == published


def test_quick_runs_rise_for_a_fifth_and_fall_in_a_line() -> None:
    known = facts(noise("noise", DataConfig()))
    for name, steps in (("colour", 632), ("degradation", 790), ("gradients", 79), ("depth", 948), ("placement", 395)):
        arm = studies.get_study(name).arms("quick")[0]
        config, _ = decide(Request(**{**arm.train, "overrides": tuple(arm.train["overrides"])}), known)
        assert arm.train["data"] == "cifar10-part"
        assert (config.schedule.name, config.schedule.warmup, config.augment.pad) == ("linear", 0.2, 2)
        assert (config.schedule.steps, config.schedule.epochs, config.recipe) == (steps, None, "cifar10-paper")


def metrics(folder: Path, rows: list[tuple[str, int, float]]) -> Any:
    """A finished run that wrote these metrics."""
    keys = ("split", "step", "top1")
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return SimpleNamespace(folder=folder, watched="test")


def test_errors_are_those_of_the_last_epoch(tmp_path: Path) -> None:
    found = errors(metrics(tmp_path, [("train", 5, 0.5), ("test", 5, 0.75), ("train", 10, 0.875), ("test", 10, 0.5)]))
    assert found.values == {"train_error": 12.5, "test_error": 50}
    assert found.series == {"train_error": [(5, 50), (10, 12.5)], "test_error": [(5, 25), (10, 50)]}


def test_gradients_are_measured_at_the_start_through_training_and_at_the_end(tmp_path: Path) -> None:
    from plusx.studies.gradients import FILE, measure

    norms = {1: [9, 10, 1, 100, 9], 10: [9, 2, 1, 4, 9], 20: [9, 3, 1, 30, 9]}  # of the stem, three layers, the head
    (tmp_path / FILE).write_text("".join(json.dumps({"step": s, "norms": n}) + "\n" for s, n in norms.items()))
    found = measure(metrics(tmp_path, [("train", 20, 0.5), ("test", 20, 0.5)]))
    start = {"start_norm": 1, "start_share": pytest.approx(-1), "median_share": pytest.approx(-1)}
    assert found.values == {"train_error": 50, "test_error": 50, **start}
    assert found.series["start"] == [(2, 10), (3, 1), (4, 100)]
    assert found.series["end"] == [(2, 3), (3, 1), (4, 30)]
    assert found.series["share"] == [(step, pytest.approx(share)) for step, share in ((1, 0.1), (10, 0.5), (20, 0.1))]


def test_a_blocks_cost_is_the_error_that_dropping_it_adds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from plusx.studies import depth

    network, top1, splits = create_model("resnet14", 10), iter([0.75, 0.5, 0.625, 0.75, 0.25]), []
    monkeypatch.setattr(depth, "trained", lambda run: (None, network, None))
    monkeypatch.setattr(depth, "droppable_blocks", lambda network: droppable_blocks(network)[:4])
    monkeypatch.setattr(depth, "evaluate", lambda *_, split: splits.append(split) or SimpleNamespace(top1=next(top1)))
    found = depth.measure(SimpleNamespace(watched="test"))  # type: ignore[arg-type]
    assert found.values == {"test_error": 25, "median_cost": 18.75, "largest_cost": 50}
    assert found.series == {"cost": [(1, 25), (2, 12.5), (3, 0), (4, 50)]}
    assert splits == ["test"] * 5


def test_a_trained_net_is_tested_on_data_from_where_its_run_had_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = create_model("resnet8", 10)
    monkeypatch.setattr(trained, "load", lambda *_, **__: SimpleNamespace(module=network))
    monkeypatch.setattr(trained, "open_dataset", lambda *given: given)
    record = {"config": {"data": {"root": "/here", "background": 0}}, "request": {"data": "noise"}}
    (tmp_path / "config.json").write_text(json.dumps(record))
    given = SimpleNamespace(folder=tmp_path, data_root="/there")  # where they lie now
    _, found, data = trained.trained(given)  # type: ignore[arg-type]
    assert (found, data) == (network, ("noise", DataConfig(root="/there", background=0)))


def test_lines_are_means_in_a_band_from_the_lowest_to_the_highest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    scales: list[str] = []
    monkeypatch.setattr(Axes, "set_yscale", lambda axes, scale: scales.append(scale))
    results = {"a": [Measured(values={"m": y}, series={"m": [(1, y), (2, 2 * y)]}) for y in (1.0, 2.0, 6.0)]}
    for log, wanted in ((False, []), (True, ["log"])):
        figure = Figure("Lines", "m", "step", "%", log=log)
        assert write_figures(tmp_path, [figure], results) == [("Lines", tmp_path / "lines.svg")]
        assert scales == wanted
    axes = Canvas().subplots()
    draw_lines(axes, figure, results)
    assert [axes.lines[0].get_xdata().tolist(), axes.lines[0].get_ydata().tolist()] == [[1, 2], [3, 6]]
    corners = {tuple(corner) for corner in axes.collections[0].get_paths()[0].vertices.tolist()}
    assert corners == {(1, 1), (2, 2), (1, 6), (2, 12)}


def test_unknown_studies_and_budgets_are_told() -> None:
    with pytest.raises(ConfigError, match="study: got 'vanishing', expected one of degradation"):
        studies.study("vanishing")
    with pytest.raises(ConfigError, match="--budget: got 'huge'"):
        studies.study("mlp", budget="huge")
    with pytest.raises(ConfigError, match="--seeds, --parallel: got 0 and 1"):
        studies.study("mlp", seeds=0)


def test_what_gradients_claims_of_the_start_and_the_course_of_training_can_be_refuted_by_short_runs() -> None:
    claims = studies.get_study("gradients").claims
    of_trained_nets = ("the higher training error", "vanish through training")  # the paper's, of hundreds of epochs
    assert [c.early for c in claims] == [not any(words in c.text for words in of_trained_nets) for c in claims]


def test_gradients_of_a_step_made_twice_count_once(tmp_path: Path) -> None:
    from plusx.studies.gradients import FILE, records

    rows = [{"step": 1, "norms": [1]}, {"step": 10, "norms": [2]}, {"step": 1, "norms": [1]}]
    (tmp_path / FILE).write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 20, "no')
    assert records(tmp_path, 19) == rows[:2]


def test_a_gradient_that_was_lost_is_told(tmp_path: Path) -> None:
    from plusx.studies.gradients import FILE, records

    (tmp_path / FILE).write_text('{"step": 10, "norms": [2]}\n')
    said = r"gradients\.jsonl: no record of step 1, 20; expected step 1 and every 10th of 29\."
    with pytest.raises(PlusxError, match=said) as caught:
        records(tmp_path, 29)
    assert caught.value.hint == f"Delete {tmp_path}; the same command trains this run again."
    (tmp_path / FILE).unlink()
    with pytest.raises(PlusxError, match="no record of step 1;"):
        records(tmp_path, 3)


def test_a_gradient_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    from plusx.studies.gradients import FILE, watch

    (tmp_path / FILE).mkdir()
    with pytest.raises(PlusxError, match=r"gradients\.jsonl: cannot be written: Is a directory"):
        watch(tmp_path)(1, torch.nn.Linear(2, 1))


def test_a_record_after_one_that_was_cut_off_is_whole(tmp_path: Path) -> None:
    from plusx.studies.gradients import FILE, records, watch

    module = torch.nn.Linear(2, 1, bias=False)
    module(torch.ones(1, 2)).sum().backward()
    (tmp_path / FILE).write_text('{"step": 10, "no')
    for step in (1, 2, 10):
        watch(tmp_path)(step, module)
    assert records(tmp_path, 19) == [{"step": step, "norms": [pytest.approx(2**0.5)]} for step in (1, 10)]


def test_the_first_layers_share_leaves_stem_and_head_out() -> None:
    from plusx.studies.gradients import share

    assert share([100.0, 3.0, 4.0, 9.0, 9.0, 6.0, 8.0, 100.0]) == pytest.approx(0.5)


def test_as_many_layers_more_with_the_same_gradients_have_the_same_norm() -> None:
    from plusx.studies.gradients import thirds

    assert thirds([9.0] + [2.0] * 18 + [9.0]) == pytest.approx((2, 2))
    assert thirds([9.0] + [2.0] * 54 + [9.0]) == pytest.approx((2, 2))
