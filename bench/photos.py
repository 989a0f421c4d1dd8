"""Generated photos: noise with the spectrum of natural images, as JPEG files of the usual quality and size.

A photo of 500x375 px comes to about 95 KB, as ImageNet's. Lens and colour mosaic leave a camera's picture softer at
full resolution than a reduced one: 12 megapixels come to 3.2 MB where `soft` is 2, a phone's usual daylight photo, and
to 4.6 MB where it is 1, a landscape full of detail.
"""

from pathlib import Path

import numpy as np
from PIL import Image


def photo(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """An RGB image whose amplitudes fall as 1/f, as in photos, so that JPEG works as hard on it as on one."""
    planes = np.zeros((height, width, 3), np.float32)
    side = 4
    while side < 2 * max(width, height):
        rows, columns = min(height, side * height // width + 2), min(width, side)
        noise = rng.normal(size=(rows, columns, 3)).astype(np.float32)
        for c in range(3):
            layer = Image.fromarray(noise[:, :, c]).resize((width, height), Image.Resampling.BICUBIC)
            planes[:, :, c] += np.asarray(layer) / side**0.2
        side *= 2
    # Colours of a scene go together: most of the contrast is in the common part.
    planes = 0.3 * planes + planes.mean(2, keepdims=True)
    planes = 110 + 45 * (planes - planes.mean()) / planes.std()
    return Image.fromarray(planes.clip(0, 255).astype(np.uint8))


def write_photos(
    folder: Path, count: int, width: int = 500, height: int = 375, classes: int = 10, soft: int = 1
) -> None:
    """`folder/<class>/<n>.jpg`, quality 90, enlarged `soft` times to their size; file n depends on n alone."""
    for n in range(count):
        path = folder / f"class{n % classes}" / f"{n}.jpg"
        if path.exists():  # from another comparison of the same run
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        image = photo(width // soft, height // soft, np.random.default_rng(n))
        image.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
