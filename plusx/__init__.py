"""plusx: residual learning from the paper to production. y = F(x) + x.

The names below are the public API; each is loaded when it is first used, so that `import plusx` imports no torch.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plusx.engine import Stopped as Stopped
    from plusx.errors import PlusxError as PlusxError
    from plusx.evaluation import Evaluation as Evaluation
    from plusx.evaluation import evaluate as evaluate
    from plusx.modelfile import Classifier as Classifier
    from plusx.modelfile import load as load
    from plusx.models import create_model as create_model
    from plusx.models import list_models as list_models
    from plusx.prediction import predict as predict
    from plusx.result import Run as Run
    from plusx.run import check as check
    from plusx.run import train as train
    from plusx.studies.study import StudyResult as StudyResult
    from plusx.studies.study import study as study

__version__ = "0.1.0"

# PyTorch's threads spin where they wait, for longer than it takes to fall asleep, on the cores that the decoding
# processes need. The OpenMP library reads this once, when torch is imported; what the user has set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_NAMES = {
    "engine": ("Stopped",),
    "errors": ("PlusxError",),
    "evaluation": ("Evaluation", "evaluate"),
    "modelfile": ("Classifier", "load"),
    "models": ("create_model", "list_models"),
    "prediction": ("predict",),
    "run": ("Run", "check", "train"),
    "studies.study": ("StudyResult", "study"),
}
_HOMES = {name: f"plusx.{module}" for module, names in _NAMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'plusx' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
