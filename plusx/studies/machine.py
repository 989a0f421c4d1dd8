"""What the runs of a study were made with."""

from collections.abc import Sequence
from pathlib import Path

from plusx.plan import read_json


def machine(folders: Sequence[Path]) -> dict[str, str]:
    """Versions, CPU, threads and date as the runs recorded them; where they differ, every value."""
    records = [read_json(folder / "config.json", ("versions",))["versions"] for folder in folders]
    names = dict.fromkeys(name for record in records for name in record)
    return {name: " and ".join(sorted({record.get(name, "not recorded") for record in records})) for name in names}
