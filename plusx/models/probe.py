"""What a network does inside: the size of its layers' responses and gradients, and what it is without one block."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from plusx.errors import ConfigError
from plusx.models.blocks import BatchNorm, Block, Shift
from plusx.models.network import Network


def layer_responses(network: Network, images: Tensor) -> dict[str, float]:
    """Standard deviation of each 3x3 layer's output, after its batch norm and before ReLU or addition (Fig. 7).

    It is taken over all images, channels and positions at once, in evaluation mode; the network is left as it was. In a
    bottleneck the 3x3 layer counts alone, in a fully connected network every layer but the head. Where an addition or a
    ReLU comes before the next batch norm, the layer's own output counts.

    Arguments:
        network: in any mode.
        images: (N, C, H, W), normalised, on the network's device; one batch.

    Returns:
        name of the layer, such as `layer1.0.conv2`, -> standard deviation, in the order of the forward pass.
    """
    names = {module: name for name, module in network.named_modules() if _is_measured(module)}
    names.pop(network.fc, None)
    found: dict[str, float] = {}
    name, response, version = "", torch.empty(0), 0

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal name, response, version
        # ReLU and addition overwrite a response in place, which its version tells: what follows them is not its norm.
        untouched = inputs[0] is response and response._version == version
        if module in names or untouched:
            name = names.get(module, name)
            found[name] = output.double().std(correction=0).item()
            response, version = output, output._version

    followers = [module for module in network.modules() if isinstance(module, BatchNorm | Shift | nn.MaxPool2d)]
    hooks = [module.register_forward_hook(note) for module in (*names, *followers)]
    modes = {module: module.training for module in network.modules()}
    try:
        with torch.inference_mode(False), torch.no_grad():
            network.eval()(images)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return found


def _is_measured(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3))


def gradient_norms(network: nn.Module, *, relative: bool = False) -> dict[str, float]:
    """L2 norm of each weight's gradient in convolutions and fully connected layers, as `.grad` holds it now.

    Arguments:
        network: after a backward pass.
        relative: divide by the weight's own norm.

    Returns:
        name of the weight, such as `layer1.0.conv2.weight`, -> norm, in the order of the forward pass; weights without
        a gradient are left out.
    """
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and module.weight.grad is not None:
            # In float64: the square of a vanished gradient is zero in float32.
            norm = torch.linalg.vector_norm(module.weight.grad, dtype=torch.float64)
            if relative:
                norm = norm / torch.linalg.vector_norm(module.weight.detach(), dtype=torch.float64)
            found[f"{name}.weight"] = norm.item()
    return found


def droppable_blocks(network: nn.Module) -> list[str]:
    """Names of the blocks, such as `layer2.1`, that the identity can stand for: those that keep their input's shape."""
    return [name for name, block in network.named_modules() if isinstance(block, Block) and _keeps_shape(block)]


@contextmanager
def without_block(network: nn.Module, name: str) -> Iterator[None]:
    """Inside, the identity stands in the place of a block: a residual block's shortcut alone.

    Arguments:
        network: changed inside and restored on leaving, after an exception too.
        name: one of `droppable_blocks`.

    Raises:
        ConfigError: no such block, or its shortcut is not the identity.
    """
    if name not in droppable_blocks(network):
        message = f"block: got {name!r}, expected one that keeps its input's shape"
        raise ConfigError(message, "`droppable_blocks` lists them.")
    block = network.get_submodule(name)
    network.set_submodule(name, nn.Identity())
    try:
        yield
    finally:
        network.set_submodule(name, block)


def _keeps_shape(block: Block) -> bool:
    """Where H and W are halved the channels double (section 3.3), so the channels tell."""
    layers = [layer for layer in block.children() if isinstance(layer, nn.Conv2d | nn.Linear)]
    return block.downsample is None and layers[0].weight.shape[1] == layers[-1].weight.shape[0]
