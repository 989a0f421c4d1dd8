"""Text for people."""

import pytest

from plusx.text import in_bytes, listed, plural, show


def test_names_show_as_one_harmless_line() -> None:
    assert show("é 猫 🐈") == "é 猫 🐈"
    assert show("a\x1b[31m\n\u2028b") == r"a\x1b[31m\n\u2028b"
    assert show("\u202egnp.exe\u2066") == r"\u202egnp.exe\u2066"
    assert show("\udcff") == r"\udcff"


@pytest.mark.parametrize("name", ["می\u200cخواهم", "क्\u200dष", "👨\u200d👩\u200d👧 family"])
def test_joiners_are_letters(name: str) -> None:
    assert show(name) == name


def test_lists_are_short() -> None:
    assert listed(f"{i}\n" for i in range(5)) == r"0\n, 1\n, 2\n, 3\n, 4\n"
    assert listed(map(str, range(2000))) == "0, 1, 2, 3, 4 and 1,995 more"


def test_one_is_one() -> None:
    assert [plural("image", n) for n in (0, 1, 2, 1000)] == ["0 images", "1 image", "2 images", "1,000 images"]
    assert [plural("class", n) for n in (1, 2)] == ["1 class", "2 classes"]


def test_bytes_have_a_unit_that_tells() -> None:
    assert [in_bytes(n) for n in (0, 1, 2_316, 99_999)] == ["0 bytes", "1 byte", "2,316 bytes", "99,999 bytes"]
    assert [in_bytes(n) for n in (100_000, 94_260_000, 1_234_000_000)] == ["0.1 MB", "94.3 MB", "1,234.0 MB"]
