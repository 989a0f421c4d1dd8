"""Temperature scaling: one number that makes probabilities mean what they say (Guo et al. 2017)."""

import math

import torch
from torch import Tensor

COLDEST, HOTTEST = 0.05, 20.0
ROWS = 4096  # logits that are in memory in float64 at a time


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """The temperature with the lowest cross-entropy on held-out examples; it changes probabilities and no answer.

    Targets are smoothed by 1 / (N + 2), the rule of succession that Platt (1999) uses: a few hundred examples without
    a mistake do not prove that mistakes are impossible.

    Arguments:
        logits: (N, K) of examples that no weight was trained on.
        targets: int64 (N,).

    Returns:
        what to divide logits by, between 0.05 and 20.
    """
    from scipy.optimize import minimize_scalar  # half a second to import

    n, smoothing, parts = len(targets), 1 / (len(targets) + 2), torch.split(logits, ROWS)
    wanted = 0.0
    for part, true in zip(parts, torch.split(targets, ROWS), strict=True):
        x = part.double()
        of_true = x.gather(1, true[:, None]).squeeze(1)
        wanted += float(((1 - smoothing) * of_true + smoothing * x.mean(1)).sum()) / n

    def loss(log_t: float) -> float:  # cross-entropy, of which only the first term needs every logit
        scale = math.exp(-log_t)
        return sum(float((part.double() * scale).logsumexp(1).sum()) for part in parts) / n - scale * wanted

    edges = math.log(COLDEST), math.log(HOTTEST)
    found = minimize_scalar(loss, bounds=edges, method="bounded", options={"xatol": 1e-8})
    return round(math.exp(found.x), 6)
