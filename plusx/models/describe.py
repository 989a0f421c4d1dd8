"""What a network costs: parameters, and multiply-adds (the paper's FLOPs) counted where convolutions and layers run."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from plusx.models.names import create_model, list_models, resolve


@dataclass(frozen=True, kw_only=True)
class Description:
    """One row of `plusx models`."""

    name: str
    depth: int  # weighted layers on the longest path
    params: int
    macs: int  # for one image of `size`
    size: int  # side of the square RGB image the name was published for, px


def count_params(model: nn.Module) -> int:
    """Number of trainable and frozen parameters; batch norm's running statistics are not parameters."""
    return sum(p.numel() for p in model.parameters())


def count_macs(model: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-adds of one image in all convolutions and fully connected layers.

    Runs the network on the meta device, whatever device its weights are on: nothing is computed and no weight or
    running statistic changes.

    Arguments:
        model: any network of `nn.Conv2d` and `nn.Linear`.
        shape: (C, H, W) of the image.
    """
    total = 0

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        weights_per_output = module.weight[0].numel()
        total += output.numel() * weights_per_output

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    state = {name: t.detach().to("meta") for name, t in [*model.named_parameters(), *model.named_buffers()]}
    images = 2  # batch norm in training mode may not see one value
    try:
        with torch.no_grad():
            torch.func.functional_call(model, state, (torch.empty(images, *shape, device="meta"),))
    finally:
        for handle in handles:
            handle.remove()
    return total // images


def describe(name: str) -> Description:
    """Cost of the network that a name stands for, with 3 input channels and its usual number of classes.

    Raises:
        ConfigError: an unknown name.
    """
    plan = resolve(name)
    with torch.device("meta"):
        model = create_model(name, plan.num_classes)
    return Description(
        name=name,
        depth=plan.depth,
        params=count_params(model),
        macs=count_macs(model, (3, plan.size, plan.size)),
        size=plan.size,
    )


def describe_all() -> list[Description]:
    """`describe` for every listed name."""
    return [describe(name) for name in list_models()]
