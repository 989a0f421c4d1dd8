"""Learning rates and weight decay at their boundaries."""

import math

import pytest

from plusx.config import ScheduleConfig
from plusx.engine.schedule import NOTHING, SCHEDULES, SoFar, decay_factor, learning_factor

PAPER = ScheduleConfig(name="multistep", steps=64_000, milestones=(0.5, 0.75))


@pytest.mark.parametrize(
    ("step", "power"), [(0, 0), (31_999, 0), (32_000, 1), (32_001, 1), (47_999, 1), (48_000, 2), (63_999, 2)]
)
def test_multistep_decays_exactly_at_the_papers_steps(step: int, power: int) -> None:
    assert learning_factor(PAPER, step, 64_000) == 0.1**power


def test_warmup_rises_linearly_to_the_peak() -> None:
    config = ScheduleConfig(name="multistep", steps=100, warmup=0.1, milestones=(0.5,))
    assert [learning_factor(config, s, 100) for s in (0, 4, 9, 10, 49, 50)] == [0.1, 0.5, 1.0, 1.0, 1.0, 0.1]


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_falling_schedules_start_at_the_peak_and_end_at_final(name: str) -> None:
    config = ScheduleConfig(name=name, steps=100, warmup=0.2, final=0.01)
    assert learning_factor(config, 19, 100) == learning_factor(config, 20, 100) == 1.0
    assert learning_factor(config, 60, 100) == pytest.approx(0.01 + 0.99 / 2)
    assert SCHEDULES[name](config, 100, 100, 20, NOTHING) == 0.01
    rates = [learning_factor(config, s, 100) for s in range(20, 100)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0.01


def test_linear_to_zero_is_exact() -> None:
    config = ScheduleConfig(name="linear", steps=10)
    assert [learning_factor(config, s, 10) for s in range(10)] == [(10 - s) / 10 for s in range(10)]
    assert SCHEDULES["linear"](config, 10, 10, 0, NOTHING) == 0.0


@pytest.mark.parametrize(
    ("final", "wanted"), [(1.0, [1, 1, 1, 1]), (0.0, [1, 0.75, 0.5, 0.25]), (3.0, [1, 1.5, 2, 2.5])]
)
def test_weight_decay_goes_in_a_line_from_the_first_step_on(final: float, wanted: list[float]) -> None:
    config = ScheduleConfig(name="linear", steps=4, warmup=0.5, final_weight_decay=final)
    assert [decay_factor(config, s, 4) for s in range(4)] == wanted


@pytest.mark.parametrize("name", list(SCHEDULES))
@pytest.mark.parametrize("warmup", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("total", [1, 2, 7])
def test_every_step_of_short_runs_has_a_rate(name: str, warmup: float, total: int) -> None:
    config = ScheduleConfig(name=name, steps=total, warmup=warmup, milestones=(0.5,))
    rates = [learning_factor(config, s, total) for s in range(total)]
    assert all(math.isfinite(r) and 0 <= r <= 1 for r in rates)
    assert rates[0] > 0


def test_plateau_decays_after_evaluations_without_a_lower_error() -> None:
    config = ScheduleConfig(name="plateau", steps=100, patience=2)

    def factor(*errors: float) -> float:
        return learning_factor(config, 50, 100, SoFar(errors=errors))

    assert factor() == factor(0.5) == factor(0.5, 0.4, 0.4) == 1
    assert factor(0.5, 0.4, 0.4, 0.5) == 0.1
    assert factor(0.5, 0.4, 0.4, 0.5, 0.41) == 0.1
    assert factor(0.5, 0.4, 0.4, 0.5, 0.41, 0.42) == 0.1**2
    assert factor(0.5, 0.4, 0.4, 0.5, 0.39, 0.42) == 0.1


def test_a_run_stays_low_until_its_training_error_has_fallen() -> None:
    config = ScheduleConfig(name="multistep", steps=100, milestones=(0.5,), warmup_error=0.8)
    assert learning_factor(config, 0, 100, SoFar(warm=False)) == 0.1
    assert learning_factor(config, 60, 100, SoFar(warm=False)) == 0.1
    rising = ScheduleConfig(name="multistep", steps=100, milestones=(0.5,), warmup=0.4, warmup_error=0.8)
    assert learning_factor(rising, 30, 100, SoFar(warm=False)) == 0.1
    later = ScheduleConfig(name="multistep", steps=100, milestones=(0.5, 0.75), warmup_error=0.8)
    assert learning_factor(later, 80, 100, SoFar(warm=False)) == pytest.approx(0.01)  # never over the schedule
    assert [learning_factor(config, step, 100, SoFar(warm=True)) for step in (1, 60)] == [1, 0.1]


def test_shares_that_floats_miss_are_whole_steps() -> None:
    assert (int(0.29 * 100), int(0.57 * 100)) == (28, 56)
    config = ScheduleConfig(name="multistep", steps=100, warmup=0.29, milestones=(0.57,))
    assert [learning_factor(config, step, 100) for step in (0, 28, 56, 57)] == [1 / 29, 1, 1, 0.1]


def test_a_run_of_one_step_has_its_first_rate() -> None:
    assert learning_factor(PAPER, 0, 1) == 1


def test_every_schedule_can_be_chosen_and_every_choice_is_one() -> None:
    assert set(ScheduleConfig.__dataclass_fields__["name"].metadata["choices"]) == set(SCHEDULES)
