"""What a network costs: parameters, and multiply-adds (the paper's FLOPs) counted where convolutions and layers run."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from plusx.models.blocks import BatchNorm
from plusx.models.names import create_model, list_models, resolve
from plusx.models.whitening import Whitening

COUNTED = nn.Conv2d | nn.Linear | Whitening  # layers whose multiply-adds count


def count_params(model: nn.Module) -> int:
    """Number of trainable and frozen parameters; batch norm's running statistics are not parameters."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-adds of one image in all convolutions and fully connected layers.

    A copy without storage runs on the meta device, so nothing is computed and the model does not change.

    Arguments:
        model: any network of `nn.Conv2d`, `nn.Linear` and `Whitening`, in any mode and on any device.
        shape: (C, H, W) of the image.
    """
    tensors = [*model.parameters(), *model.buffers()]
    return _counted(copy.deepcopy(model, {id(t): torch.empty_like(t, device="meta") for t in tensors}), shape)


def _counted(twin: nn.Module, shape: tuple[int, int, int]) -> int:
    """The multiply-adds of a network on the meta device, which is of no other use afterwards."""
    twin.eval()
    total = 0

    def count(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, COUNTED)
        total += output.numel() * layer.weight[0].numel()

    for module in list(twin.modules()):
        for name, child in module.named_children():
            setattr(module, name, _stand_in(child))
    for module in twin.modules():
        if isinstance(module, COUNTED):
            module.register_forward_hook(count)
    with torch.no_grad():
        twin(torch.empty(1, *shape, device="meta"))
    return total


class Shaped(nn.Linear):
    """A fully connected layer that computes nothing but its output's shape."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, in_features) -> (…, out_features), without values."""
        return x.new_empty(*x.shape[:-1], self.out_features)


def _stand_in(layer: nn.Module) -> nn.Module:
    """The layer, or one of the same shapes that needs no arithmetic of the meta device.

    That is slow for batch norm, and written in Python for the others: it imports PyTorch's compiler, for seconds.
    """
    if isinstance(layer, BatchNorm):
        return nn.Identity()
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        return nn.AdaptiveMaxPool2d(layer.output_size)
    if isinstance(layer, nn.Linear):
        return Shaped(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
    return layer


def describe(name: str) -> dict[str, Any]:
    """One row of `plusx models`: the network that a name stands for, with 3 input channels.

    Returns:
        name; input, "CxHxW" of the images it was published for; depth, weighted layers; params; macs.

    Raises:
        ConfigError: an unknown name.
    """
    plan = resolve(name)
    with torch.device("meta"):
        model = create_model(name, plan.num_classes)
    return {
        "name": name,
        "input": f"3x{plan.size}x{plan.size}",
        "depth": plan.depth,
        "params": count_params(model),
        "macs": _counted(model, (3, plan.size, plan.size)),
    }


def table() -> list[dict[str, Any]]:
    """`describe` for every listed name."""
    return [describe(name) for name in list_models()]
