"""R5: a checkpoint of which a bit flipped, or whose end is missing."""

import random
from pathlib import Path

from bench.faults import tiny
from bench.faults.tiny import Result
from plusx.engine import checkpoint
from plusx.errors import ModelFileError


def damage(tries: int, folder: Path) -> Result:
    """Ten flipped bits anywhere in the newest checkpoint for each cut."""
    draw, passed, notes = random.Random("R5"), 0, []
    said = tiny.finished(tiny.orders(folder / "run"))
    assert not said, said
    checkpoints = folder / "run" / "run" / "checkpoints"
    newest, before = checkpoint.stored(checkpoints)
    whole = newest.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    for number in range(tries):
        damaged, end = bytearray(whole), header if number % 4 == 0 else len(whole)  # the header is small and matters
        if number % 11 == 10:
            what = f"cut to {(place := draw.randrange(len(whole)))} bytes"
            del damaged[place:]
        else:
            what = f"bit {(place := draw.randrange(8 * end))}"
            damaged[place // 8] ^= 1 << place % 8
        newest.write_bytes(damaged)
        try:
            found, told = checkpoint.newest(checkpoints)
            good = found is not None and found.path == before and newest.name in "".join(told)
        except ModelFileError as error:
            good, told = False, [error.message]
        newest.with_suffix(".damaged").unlink(missing_ok=True)
        passed += good
        notes += [] if good else [f"{what}: {told}"]
    newest.write_bytes(whole)
    found, _ = checkpoint.newest(checkpoints)
    if found is None or found.path != newest:
        passed, notes = 0, ["the whole one is refused"]
    cuts = len([number for number in range(tries) if number % 11 == 10])
    return Result(
        "R5",
        f"{tries - cuts:,} flipped bits, a quarter of them in the header, and {cuts} cuts, in the newest checkpoint",
        "the damage is told with the file's name, and the checkpoint before is taken",
        tries,
        passed,
        tuple(notes),
    )
