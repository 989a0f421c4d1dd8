"""What decides a claim."""

import pytest

from plusx.studies.core import Arm, Claim, Measured, Verdict, ends, limit, lower, settings, spread, together, words


def results(**arms: list[float]) -> dict[str, list[Measured]]:
    return {arm: [Measured(values={"error": value}) for value in found] for arm, found in arms.items()}


def test_spread_is_mean_and_sample_deviation() -> None:
    assert spread([1.0, 2.0, 3.0]) == (3, 2.0, 1.0)
    assert spread([5.0]) == (1, 5.0, None)


@pytest.mark.parametrize(
    ("a", "b", "holds"),
    [
        ([1.0, 1.1, 0.9], [2.0, 2.1, 1.9], True),
        ([2.0, 2.1, 1.9], [1.0, 1.1, 0.9], False),
        ([1.0, 2.0, 3.0], [1.5, 2.5, 3.5], None),
        ([1.0], [9.0], None),
        ([1.0, 1.0], [2.0, 2.0], None),
        ([2.0, 2.0], [1.0, 1.0], None),
        ([1.0, 1.0], [1.0, 1.0], None),
    ],
)
def test_a_difference_of_means_counts_beyond_chance(a: list[float], b: list[float], holds: bool | None) -> None:
    verdict = lower(results(a=a, b=b), "error", "a", "b")
    assert verdict.holds is holds
    assert f"n = {len(a)}" in verdict.reason


def test_what_cannot_decide_says_why() -> None:
    assert lower(results(a=[1.0], b=[2.0]), "error", "a", "b").reason.endswith("n = 1: one seed decides nothing")
    assert limit(results(a=[1.0]), "error", "a", below=5).reason == "error of a 1, n = 1: one seed decides nothing"
    assert limit(results(a=[1.0, 1.0]), "error", "a", below=5).reason.endswith("n = 2: no spread over seeds, no test")
    same = lower(results(a=[1.0, 1.0], b=[2.0, 2.0]), "error", "a", "b")
    assert same.reason.endswith("n = 2: no spread over seeds, no test")


def test_p_is_that_of_welchs_test() -> None:
    # Worked by hand: t = -1.5 / sqrt(0.5 / 2 + 2 / 2), 1.47 degrees of freedom.
    assert "p = 0.35" in lower(results(a=[1.0, 2.0], b=[2.0, 4.0]), "error", "a", "b").reason
    # One run of arm a diverged: t = -2.5 / sqrt(0.5 / 2 + 4 / 3), 2.64 degrees of freedom.
    assert "p = 0.15" in lower(results(a=[1.0, 2.0], b=[2.0, 4.0, 6.0]), "error", "a", "b").reason


@pytest.mark.parametrize(
    ("found", "holds"),
    [
        ([0.1, 0.11, 0.12], True),
        ([0.6, 0.61, 0.62], False),
        ([0.3, 0.4, 0.49], None),  # all of them inside, p = 0.16
        ([0.1, 0.7], None),
        ([0.1], None),
        ([0.6], None),
    ],
)
def test_a_bound_is_crossed_beyond_chance(found: list[float], holds: bool | None) -> None:
    assert limit(results(a=found), "error", "a", below=0.5).holds is holds
    assert limit(results(a=[-x for x in found]), "error", "a", above=-0.5).holds is holds
    assert limit(results(a=found), "error", "a", above=-9, below=0.5).holds is holds


def test_p_of_a_bound_is_that_of_students_test() -> None:
    # Worked by hand: t = (2 - 0.5) / (1 / sqrt(3)) = 2.60, 2 degrees of freedom.
    verdict = limit(results(a=[1.0, 2.0, 3.0]), "error", "a", above=0.5, below=90)
    assert verdict.reason == (
        "error of a 2 (sd 1), n = 3; the claim needs above 0.5 (p = 0.12) and below 90 (p = 4.3e-05)"
    )


@pytest.mark.parametrize(
    ("parts", "whole"), [((True, True), True), ((True, None), None), ((None, False), False), ((True, False), False)]
)
def test_a_claim_fails_with_any_part_and_holds_with_all(parts: tuple[bool | None, ...], whole: bool | None) -> None:
    assert together([Verdict(part, "") for part in parts]) is whole


@pytest.mark.parametrize(
    ("early", "short", "holds", "said"),
    [
        (False, True, None, "opposite at this budget"),
        (False, False, False, "does not hold"),
        (True, True, False, "does not hold"),
    ],
)
def test_short_runs_do_not_refute_what_is_said_of_trained_nets(
    early: bool, short: bool, holds: bool | None, said: str
) -> None:
    found = results(a=[2.0, 2.1, 1.9], b=[1.0, 1.1, 0.9])
    verdict = Claim("a is lower", lambda r: lower(r, "error", "a", "b"), early).verdict(found, short)
    assert (verdict.holds, words(verdict.holds, verdict.opposite)) == (holds, said)
    other = Claim("b is lower", lambda r: lower(r, "error", "b", "a"), early).verdict(found, short)
    assert (other.holds, other.opposite) == (True, False)


def test_verdicts_have_words() -> None:
    assert [words(v) for v in (True, False, None)] == ["holds", "does not hold", "not decided at this budget"]


def test_shared_is_what_all_arms_have_and_what_was_changed_for_all() -> None:
    batch = "engine.batch=4"
    given = (["optim.lr=1"], ["optim.lr=2", batch], ["optim.lr=1", batch])
    arms = [Arm(name=f"{i}", train={"data": "d", "overrides": changes}) for i, changes in enumerate(given)]
    found = settings(arms, {"engine.ema": 0.5})
    assert found["shared"] == {"data": "d", "engine.ema": 0.5}
    assert found["arms"] == {
        "0": {"optim.lr": 1.0},
        "1": {"optim.lr": 2.0, "engine.batch": 4},
        "2": {"optim.lr": 1.0, "engine.batch": 4},
    }


def test_depths_are_numbers() -> None:
    assert ends(results(net8=[1.0], net110=[1.0], net20=[1.0], other3=[1.0]), "net") == ("net8", "net110")
