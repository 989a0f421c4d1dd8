"""Xavier's initialisation, which the notes name, against He's, which the paper cites, with and without batch norm."""

from plusx.studies.core import Figure, Study, is_lower
from plusx.studies.settings import cifar_arms

NETS = {}
for init in ("he", "xavier"):
    NETS[f"no-norm-{init}"] = ["plain20", "model.norm=none", "optim.lr=0.01", f"model.init={init}"]
    NETS[f"plain-{init}"] = ["plain20", f"model.init={init}"]
    NETS[f"residual-{init}"] = ["resnet20", f"model.init={init}"]

STUDY = Study(
    name="init",
    claim="He's initialisation trains better than Xavier's: without batch norm, with it, and with shortcuts.",
    source="Section 3.4 cites He et al. [13]; the reader's notes name Xavier",
    arms=cifar_arms(NETS),
    claims=(
        is_lower("He's trains a plain net without batch norm better.", "train_error", "no-norm-he", "no-norm-xavier"),
        is_lower("He's trains a plain net with batch norm better.", "train_error", "plain-he", "plain-xavier"),
        is_lower("He's trains a residual net better.", "train_error", "residual-he", "residual-xavier"),
    ),
    figures=(
        Figure("Training error by initialiser", "train_error", "", "%"),
        Figure("Training error over steps", "train_error", "step", "%"),
    ),
)
