"""Smaller copies of large photos, kept until a run ends, so that its later epochs need not decode the photos."""

import hashlib
import os
import shutil
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from plusx.config import RESERVE
from plusx.data.decode import smaller
from plusx.data.transforms import Preprocess

FOLDER = "copies"  # of a run


@dataclass(frozen=True)
class Copies:
    """Copies of photos, JPEG files whose checksum follows them.

    A copy is a function of the photo's bytes, and crops of the photo are taken from it whether the disk holds it or
    not. So a copy may be lost or damaged at any time, and two processes may write the same one.

    Arguments:
        folder: where they are; made with the first.
        side: that their shorter side has at least, px; there is none of a photo less than twice as large.
        rules: how photos are decoded.
    """

    folder: Path
    side: int
    rules: Preprocess

    def source(self, path: str) -> str | bytes:
        """The bytes to decode instead of a file's, or its path where it has no copy.

        Raises:
            ImageError: the file cannot be decoded.
        """
        try:
            status = os.stat(path)
        except OSError:  # whoever decodes it says so
            return path
        key = f"{path}\n{status.st_size}\n{status.st_mtime_ns}"
        place = self.folder / f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.jpg"
        with suppress(OSError):
            kept = place.read_bytes()
            if kept[-4:] == _checksum(kept[:-4]):
                return kept[:-4] or path
        made = smaller(path, self.side, **self.rules.decoding)
        with suppress(OSError):  # what cannot be kept is made again
            self.folder.mkdir(exist_ok=True)
            if shutil.disk_usage(self.folder).free > RESERVE:
                place.write_bytes(made + _checksum(made))
        return made or path


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")
