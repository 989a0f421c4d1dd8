"""Training and inference: the step, the loop, and what they stand on. Models and data come in as arguments."""

from plusx.engine.calibration import fit_temperature as fit_temperature
from plusx.engine.infer import measure as measure
from plusx.engine.infer import predict_logits as predict_logits
from plusx.engine.log import Log as Log
from plusx.engine.log import Row as Row
from plusx.engine.metrics import Metrics as Metrics
from plusx.engine.precision import resolve_precision as resolve_precision
from plusx.engine.saved import begun as begun
from plusx.engine.stop import Stopped as Stopped
from plusx.engine.trainer import FitResult as FitResult
from plusx.engine.trainer import Trainer as Trainer
