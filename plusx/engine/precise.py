"""Precise batch norm: running statistics as a true average over batches, as the paper's authors took them."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from plusx.engine.step import Batch


def reestimate(module: nn.Module, batches: Iterable[Batch], precision: str, layout: torch.memory_format) -> None:
    """Replaces each batch norm's running mean and variance by their means over the given training batches.

    The moving average of training follows the last batches of weights that still moved; this one has the final weights
    alone. Nothing else changes; the result does not depend on what the statistics were.

    Arguments:
        module: the trained network.
        batches: augmented as in training, images (N, C, H, W).
        precision: "fp32" or "bf16".
        layout: memory format of the images.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    if not norms:
        return
    with _averaging(module, norms), torch.no_grad():
        for batch in batches:
            with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=precision == "bf16"):
                module(batch.images.contiguous(memory_format=layout))


@contextmanager
def _averaging(module: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    """Batch norms that start anew and give every batch the same weight; modes, momenta and counts come back after."""
    modes = [(m, m.training) for m in module.modules()]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    module.eval()
    for norm in norms:
        norm.train()
        norm.get_buffer("running_mean").zero_()  # a synchronised one computes relative to it
        norm.momentum, norm.num_batches_tracked = None, torch.zeros_like(norm.get_buffer("num_batches_tracked"))
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
        for m, mode in modes:
            m.training = mode
