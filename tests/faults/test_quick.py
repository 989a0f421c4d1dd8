"""Every fault of bench/faults, injected a few times; and the page of figures says what the figures are."""

import json
from pathlib import Path

import pytest

from bench.faults.__main__ import FIGURES, PAGE
from bench.faults.cases import CASES
from bench.faults.page import page


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.quick])
def test_survived(name: str, tmp_path: Path) -> None:
    if not CASES[name].possible():
        pytest.skip(f"`{' '.join(CASES[name].needs)}` fails here")
    result = CASES[name].run(CASES[name].quick, tmp_path)
    assert result.case == name
    assert result.passed == result.tries > 0, result.notes


def test_the_page_says_what_the_figures_are() -> None:
    assert PAGE.read_text() == page(json.loads(FIGURES.read_text()))
