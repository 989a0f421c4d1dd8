"""Temperature scaling: one number that makes probabilities mean what they say (Guo et al. 2017)."""

import torch
import torch.nn.functional as F
from torch import Tensor

COLDEST, HOTTEST = 0.05, 20.0
ROUNDS = 60  # of golden-section search; each shrinks the interval by 0.618


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
    x, smoothing = logits.double(), 1 / (len(targets) + 2)

    def loss(log_t: float) -> float:
        return float(F.cross_entropy(x * torch.tensor(-log_t).exp(), targets, label_smoothing=smoothing))

    low, high = torch.tensor([COLDEST, HOTTEST], dtype=torch.float64).log().tolist()
    golden = (5**0.5 - 1) / 2
    for _ in range(ROUNDS):
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return round(float(torch.tensor((low + high) / 2).exp()), 6)
