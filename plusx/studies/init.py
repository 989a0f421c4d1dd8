"""Xavier's initialisation, which the notes name, against He's, which the paper cites, with and without batch norm."""

from collections.abc import Sequence
from pathlib import Path

from plusx.studies.core import Arm, Claim, Figure, Study, lower
from plusx.studies.curves import ERRORS, errors
from plusx.studies.settings import cifar_arms


def arms(budget: str, folder: Path, root: str | None) -> Sequence[Arm]:
    """Each initialiser in a plain net without batch norm, in one with it, and in a residual net."""
    nets = {}
    for init in ("he", "xavier"):
        nets[f"no-norm-{init}"] = ["plain20", "model.norm=none", "optim.lr=0.01", f"model.init={init}"]
        nets[f"plain-{init}"] = ["plain20", f"model.init={init}"]
        nets[f"residual-{init}"] = ["resnet20", f"model.init={init}"]
    return cifar_arms(budget, folder, root, nets)


STUDY = Study(
    name="init",
    claim="He's initialisation trains better than Xavier's: without batch norm, with it, and with shortcuts.",
    source="Section 3.4 cites He et al. [13]; the reader's notes name Xavier",
    measures=ERRORS,
    arms=arms,
    measure=errors,
    claims=(
        Claim(
            "He's trains a plain net without batch norm better.",
            lambda r: lower(r, "train_error", "no-norm-he", "no-norm-xavier"),
        ),
        Claim(
            "He's trains a plain net with batch norm better.",
            lambda r: lower(r, "train_error", "plain-he", "plain-xavier"),
        ),
        Claim(
            "He's trains a residual net better.", lambda r: lower(r, "train_error", "residual-he", "residual-xavier")
        ),
    ),
    figures=(
        Figure("Training error by initialiser", "train_error", "", "%"),
        Figure("Training error over steps", "train_error", "step", "%"),
    ),
)
