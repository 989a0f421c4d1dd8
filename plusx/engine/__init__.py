"""Training and inference: the step, the loop, and what they stand on. Models and data come in as arguments."""

from plusx.engine.calibration import fit_temperature
from plusx.engine.infer import measure, predict_logits
from plusx.engine.log import Log, Row
from plusx.engine.metrics import Metrics
from plusx.engine.precision import resolve as resolve_precision
from plusx.engine.saved import begun
from plusx.engine.stop import Stopped
from plusx.engine.trainer import FitResult, Trainer

__all__ = [
    "FitResult",
    "Log",
    "Metrics",
    "Row",
    "Stopped",
    "Trainer",
    "begun",
    "fit_temperature",
    "measure",
    "predict_logits",
    "resolve_precision",
]
