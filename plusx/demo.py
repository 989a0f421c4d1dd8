"""The demo: the main job from image files to answers, on real data that ships with a dependency."""

from pathlib import Path
from typing import Any

from PIL import Image

from plusx.config import DataConfig
from plusx.data import open_dataset
from plusx.errors import PlusxError
from plusx.evaluation import Evaluation, evaluate
from plusx.prediction import predict
from plusx.result import Run
from plusx.run import train

EPOCHS = 16  # the recipe's own 37 take twice as long, for a few tenths of a point


def demo(out: Path) -> tuple[Run, Evaluation, list[dict[str, Any]]]:
    """Write scikit-learn's handwritten digits as an image folder, train on it, evaluate, predict.

    Arguments:
        out: folder to write: `digits/{train,test}/{0..9}/*.png` and `run/`; what is there already is used again.

    Returns:
        The run, its exact metrics on the test split, and the labels of one test image of each class.

    Raises:
        PlusxError: the folder cannot be written, or holds another run.
    """
    try:
        folder = write_digits(out / "digits")
    except OSError as error:
        raise PlusxError(f"{out}: cannot be written: {error.strerror}.", "Name another folder with --out.") from error
    run = train(str(folder), out=out / "run", epochs=EPOCHS)
    evaluation = evaluate(str(run.folder), str(folder), split="test")
    firsts = [str(next(iter(sorted(kind.iterdir())))) for kind in sorted((folder / "test").iterdir())]
    return run, evaluation, predict(str(run.folder), firsts, top=1)


def write_digits(folder: Path) -> Path:
    """The 1,797 real 8x8 digits (UCI, via scikit-learn) as PNG class folders, with their train and test split."""
    if (folder / "test" / "9").is_dir() and (folder / ".complete").exists():
        return folder
    dataset = open_dataset("digits", DataConfig())
    for split in dataset.splits.values():
        assert split.images is not None, "digits are arrays"
        for name in dataset.classes:
            (folder / split.name / name).mkdir(parents=True, exist_ok=True)
        for i, (image, target) in enumerate(zip(split.images, split.targets, strict=True)):
            Image.fromarray(image[0]).save(folder / split.name / dataset.classes[target] / f"{i:04d}.png")
    (folder / ".complete").touch()
    return folder
