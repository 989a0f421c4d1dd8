"""Every fault of bench/faults, injected a few times; and the page of figures says what the figures are."""

import json
from pathlib import Path

import pytest

from bench.faults.__main__ import FIGURES, PAGE
from bench.faults.cases import CASES
from bench.faults.held import HELD
from bench.faults.page import page

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.quick])
def test_survived(name: str, tmp_path: Path) -> None:
    if not CASES[name].possible():
        pytest.skip(f"`{' '.join(CASES[name].needs)}` fails here")
    result = CASES[name].run(CASES[name].quick, tmp_path)
    assert result.case == name
    assert result.passed == result.tries > 0, result.notes


def test_the_page_says_what_the_figures_are() -> None:
    assert PAGE.read_text() == page(*(json.loads(FIGURES[tier].read_text()) for tier in ("full", "quick")))


@pytest.mark.parametrize("case", HELD)
def test_the_tests_that_the_page_names_exist(case: str) -> None:
    for named in HELD[case].tests:
        file, _, function = named.partition("::")
        assert f"def {function}(" in (TESTS / file).read_text()
