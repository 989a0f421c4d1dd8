"""Smaller copies of large photos, kept until a run ends: only its first epoch decodes the photos themselves."""

import hashlib
import os
import shutil
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import simplejpeg

from plusx.data.decode import decode_smaller
from plusx.data.transforms import Preprocess

QUALITY = 95  # of a JPEG file with its colours at full resolution
RESERVE = 5 * 2**30  # bytes of the disk that are left to others, checkpoints first of all


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
        with suppress(OSError):
            kept = (self.folder / self._name(path)).read_bytes()
            if kept[-4:] == _checksum(kept[:-4]):
                return kept[:-4] or path
        pixels = decode_smaller(path, self.side, **self.rules.decoding)
        made = b""  # what is kept of a photo that has none
        if pixels is not None:
            space = "GRAY" if self.rules.channels == 1 else "RGB"
            made = simplejpeg.encode_jpeg(pixels.numpy(), QUALITY, space, colorsubsampling="444")
        with suppress(OSError):  # what cannot be kept is made again
            self.folder.mkdir(exist_ok=True)
            if shutil.disk_usage(self.folder).free > RESERVE:
                (self.folder / self._name(path)).write_bytes(made + _checksum(made))
        return made or path

    def _name(self, path: str) -> str:
        status = os.stat(path)
        key = f"{path}\n{status.st_size}\n{status.st_mtime_ns}"
        return f"{hashlib.sha256(os.fsencode(key)).hexdigest()[:32]}.jpg"


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")
