"""Optimizers, what they decay and how fast each part moves, and the average of weights."""

import copy
import inspect
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from plusx.config import OptimConfig
from plusx.errors import ConfigError

Kind = TypeVar("Kind", bound=Optimizer)


def build_optimizer(module: nn.Module, config: OptimConfig) -> Optimizer:
    """The optimizer of a network; freezes what the configuration says.

    Parameter groups carry `share`, their learning rate as a share of the run's, and `decays`, their weight decay as
    one. Weights are parameters of two dimensions or more; biases and batch norm have one.

    Raises:
        ConfigError: a part is to be treated apart in a network without a named head, or nothing is left to train.
    """
    head = _head(module, config)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, weight in module.named_parameters():
        in_head = head is None or name.startswith(f"{head}.")
        if config.freeze == "body" and not in_head:
            weight.requires_grad_(False)
        elif weight.requires_grad:
            decays = config.decay == "all" or weight.ndim >= 2
            groups.setdefault((in_head, decays), []).append(weight)
    if not groups:
        raise ConfigError("optim.freeze: nothing is left to train.", "Set optim.freeze=none.")
    plain = [
        {
            "params": weights,
            "share": 1.0 if in_head else config.body_lr,
            "decays": float(decays),
            "weight_decay": config.weight_decay * decays,
            "foreach": not (config.nesterov and config.weight_decay * decays == 0),  # it would write into gradients
        }
        for (in_head, decays), weights in groups.items()
    ]
    # foreach: on a CPU a quarter faster than one by one and the same bits; fused is faster still, but rounds otherwise.
    if config.name == "adamw":
        return _uncompiled(AdamW)(plain, lr=config.lr, betas=(config.momentum, 0.999), foreach=True)
    return _uncompiled(SGD)(plain, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, foreach=True)


def _uncompiled(kind: type[Kind]) -> type[Kind]:
    """The optimizer without what PyTorch wraps around its methods for `torch.compile`.

    At their first call they import the compiler, which takes as long as all of PyTorch, and nothing but the network is
    ever compiled here.
    """
    methods = {name: inspect.unwrap(getattr(kind, name)) for name in ("step", "zero_grad", "add_param_group")}
    return type(kind.__name__, (kind,), methods | {"step": torch.no_grad()(methods["step"])})


def set_rates(optimizer: Optimizer, rate: float, decay: float) -> None:
    """Gives each group its share of the run's learning rate and weight decay."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
        group["weight_decay"] = decay * group["decays"]


def set_training_mode(module: nn.Module, config: OptimConfig) -> None:
    """Training mode; a frozen body stays in evaluation mode, so that its batch-norm statistics stay as given."""
    module.train()
    if config.freeze == "body":
        module.eval()
        module.get_submodule(_head(module, config) or "").train()


def state_tensors(optimizer: Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The optimizer's state as `{"parameter/key": tensor}`."""
    found = {}
    for name, weight in module.named_parameters():
        for key, value in optimizer.state.get(weight, {}).items():
            found[f"{name}/{key}"] = value
    return found


def load_state_tensors(optimizer: Optimizer, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """The inverse of `state_tensors`; tensors take their parameter's device, and its memory format if of its shape."""
    weights = dict(module.named_parameters())
    for path, value in tensors.items():
        name, key = path.rsplit("/", 1)
        weight = weights[name].detach()
        if key == "step":  # a number that AdamW keeps on the CPU
            own = value.clone()
        else:
            own = torch.empty_like(weight if value.shape == weight.shape else value, device=weight.device).copy_(value)
        optimizer.state[weights[name]][key] = own


class AveragedWeights:
    """The exponential average of a network's parameters and batch-norm statistics.

    The decay of a step starts low and reaches its value after about 9 / (1 - decay) steps, so that a short run
    forgets its random start.

    Attributes:
        module: a copy of the network that holds the average.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False)
        self._decay = decay
        pairs = list(zip(self.module.state_dict().values(), module.state_dict().values(), strict=True))
        self._means = [own for own, _ in pairs if own.is_floating_point()]
        self._sources = [current for own, current in pairs if own.is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follows the network after its step of that number; the first is 1."""
        torch._foreach_lerp_(self._means, self._sources, 1 - min(self._decay, step / (step + 9)))
        for own, current in self._counts:  # batch norm's count of batches
            own.copy_(current)


def _head(module: nn.Module, config: OptimConfig) -> str | None:
    """The name of the classifier's submodule; None where it is trained like everything else."""
    if config.body_lr == 1.0 and config.freeze == "none":
        return None
    head = getattr(module, "head_name", None)
    if not isinstance(head, str):
        raise ConfigError(
            "optim.body_lr, optim.freeze: this network names no head.", "Set optim.body_lr=1 and optim.freeze=none."
        )
    return head
