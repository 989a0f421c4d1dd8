"""Names of networks: one table of families, one resolver, one constructor.

A new network is a class, a function from its name to a `NetworkPlan`, and an entry of `FAMILIES`.

At the depths of Table 1 (18, 34, 50, 101, 152) a name means the ImageNet network, at any other depth 6n+2 the CIFAR
network of section 4.2; 50 and 152 are both, so `resnet50-cifar` and `resnet152-cifar` name the CIFAR ones.
"""

import difflib
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from plusx.config import ModelConfig
from plusx.errors import ConfigError
from plusx.models.blocks import BasicBlock, Bottleneck, PreBasicBlock, PreBottleneck, remove_norm
from plusx.models.mlp import ResMLP
from plusx.models.network import Network, initialise
from plusx.models.pooled import PooledResNet
from plusx.models.resnet import ResNet
from plusx.models.whitening import Whitening

CHOICES = {f.name: f.metadata["choices"] for f in fields(ModelConfig) if f.metadata["choices"]}
NEEDS = {
    "shortcut": "convolutional residual blocks",
    "stride_in": "bottleneck blocks",
    "stem": "convolutions",
    "width": "a width apart from its name",
    "zero_init_last": "residual branches that end in a batch norm",
    "norm_order": "residual branches that end in a batch norm",
}  # what a network must have for an option to mean something

IMAGENET = {
    18: (False, (2, 2, 2, 2)),
    34: (False, (3, 4, 6, 3)),
    50: (True, (3, 4, 6, 3)),
    101: (True, (3, 4, 23, 3)),
    152: (True, (3, 8, 36, 3)),
}  # depth: bottleneck, blocks of each stage (Table 1)
POOLED = {"resnet9": ((1, 0, 1), 64), "resnet11": ((1, 1, 1), 32)}  # blocks of each stage, width; see `PooledResNet`
CIFAR = (20, 32, 44, 56, 110, 1202)  # depths of Table 6; every other 6n+2 resolves too


@dataclass(frozen=True, kw_only=True)
class NetworkPlan:
    """What a name stands for."""

    network: Callable[..., Network]
    fixed: dict[str, Any]  # arguments that the name decides
    options: dict[str, Any]  # arguments that a user may change, with what they are when not given
    depth: int  # weighted layers
    size: int  # side of the images it was published for, px
    num_classes: int  # classes it was published for
    conv1: bool = False  # whether it begins with one convolution of that name, unless its stem is deep


def create_model(
    name: str,
    num_classes: int = 1000,
    *,
    in_channels: int = 3,
    size: int | None = None,
    width: int | None = None,
    shortcut: str | None = None,
    stride_in: str | None = None,
    stem: str | None = None,
    norm_order: str | None = None,
    norm: str = "batch",
    init: str = "he",
    zero_init_last: bool = False,
    whiten_input: bool = False,
) -> Network:
    """A network by name, with weights drawn from torch's global generator.

    Arguments:
        name: see `list_models`; also `resnet`, `plain` or `preresnet` with any depth 6n+2, and `resmlp-BLOCKSxWIDTH`.
        num_classes: K.
        in_channels: C of the images.
        size: side of the images in px, for fully connected networks; convolutional ones take any size and ignore it.
        width: channels of the first stage.
        shortcut: A (zero-padded identity), B (projection where the shape changes) or C (all projections).
        stride_in: convolution of a bottleneck that has the stride: `1x1` (the paper) or `3x3`.
        stem: `imagenet`, `cifar` or `deep`; see `ResNet`.
        norm_order: last batch norm of a residual block `before` the addition (the paper) or `after` it.
        norm: `batch`, or `none`: a learned shift per channel in the place of every batch norm.
        init: `he` (fan-out), `he-fan-in` or `xavier`.
        zero_init_last: start the last batch norm's scale of every residual branch at zero.
        whiten_input: a fixed convolution before the stem, the identity until `whiten_input` sets it from images.

    None keeps what the name stands for. `create_model(**network.arch)` rebuilds a network.

    Raises:
        ConfigError: an unknown name, or options that it does not have; all problems at once.
    """
    plan = resolve(name)
    given = {
        "width": whole(width),
        "shortcut": shortcut,
        "stride_in": stride_in,
        "stem": stem,
        "norm_order": norm_order,
    }
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if size is not None and "size" in plan.options:
        changes["size"] = whole(size)
    ends = {"num_classes": whole(num_classes), "in_channels": whole(in_channels)}
    start = {"norm": norm, "init": init, "zero_init_last": zero_init_last}
    check_options(name, plan, {**ends, **changes, **start})
    options = plan.options | changes
    network = plan.network(**plan.fixed, **options, **ends)
    if norm == "none":
        remove_norm(network)
    initialise(network, init, zero_init_last)
    if whiten_input:
        network.whitening = Whitening(in_channels)
        start["whiten_input"] = True
    network.arch = {"name": name, **ends, **options, **start}
    return network


def whole(number: Any) -> Any:
    """What NumPy counts with, as Python's int; anything else as it is."""
    return operator.index(number) if hasattr(number, "__index__") else number


def check_options(name: str, plan: NetworkPlan, given: Mapping[str, Any]) -> None:
    """Refuse values that no network takes and options that this one does not have.

    Raises:
        ConfigError: all problems at once.
    """
    problems = []
    for key, value in given.items():
        owned = key in plan.options or (key == "zero_init_last" and "norm_order" in plan.options)
        if key in NEEDS and value and not owned:
            problems.append(f"model.{key}: got {value!r}, but {name} does not have {NEEDS[key]}")
        elif key in CHOICES and value not in CHOICES[key]:
            problems.append(f"model.{key}: got {value!r}, expected one of {', '.join(CHOICES[key])}")
        elif key not in CHOICES and key != "zero_init_last" and not (isinstance(value, int) and value >= 1):
            problems.append(f"model.{key}: got {value!r}, expected a whole number, at least 1")
    if plan.fixed.get("pool_shortcut") and given.get("shortcut") == "A":
        problems.append(f"model.shortcut: got 'A', expected B or C: {name} averages before it projects")
    without, after = given["norm"] == "none", given.get("norm_order") == "after"
    if without and after:
        problems.append("model.norm_order: got 'after', but model.norm=none leaves no batch norm to move")
    if given["zero_init_last"] and (without or after):
        reason = "model.norm=none" if without else "model.norm_order=after"
        problems.append(f"model.zero_init_last: got True, but with {reason} no branch ends in a batch norm")
    if problems:
        raise ConfigError("; ".join(problems), "Leave an option out to keep what the name stands for.")


def list_models() -> list[str]:
    """Names of the paper's networks, their twins and variants; `create_model` takes more (see there)."""
    names = [f"resnet{d}{v}" for v in ("", "-v1.5", "-d") for d in IMAGENET if v != "-v1.5" or IMAGENET[d][0]]
    names += [f"{family}{d}" for family in ("plain", "preresnet") for d in IMAGENET]
    names += [f"resnet{d}" for d in CIFAR]
    # 1202 layers take seconds to count.
    names += [f"{family}{d}" for family in ("plain", "preresnet") for d in CIFAR[:-1]]
    return [*names, *POOLED, "resmlp-8x256", "plainmlp-8x256"]


def resolve(name: str) -> NetworkPlan:
    """What a name stands for.

    Raises:
        ConfigError: an unknown name, with the closest known ones.
    """
    family = re.match("[a-z]*", name)
    assert family is not None
    if name in POOLED:
        return pooled(name)
    if family[0] not in FAMILIES:
        raise unknown(name, f"a name that starts with {', '.join(FAMILIES)}")
    return FAMILIES[family[0]](name, name[family.end() :])


def unknown(name: str, expected: str, close: Sequence[str] = ()) -> ConfigError:
    """The error for a name that does not resolve."""
    close = close or difflib.get_close_matches(name, list_models(), 3)
    meant = f"Did you mean {' or '.join(close)}? " if close else ""
    return ConfigError(f"model.name: got {name!r}, expected {expected}", meant + "`plusx models` lists them.")


def convolutional(name: str, rest: str, *, residual: bool = True, preactivation: bool = False) -> NetworkPlan:
    """The plan of a ResNet, its plain twin or its pre-activation form: `50`, `50-v1.5`, `50-d`, `50-cifar`, `20`, …"""
    match = re.fullmatch(r"([1-9]\d{0,4})(|-v1\.5|-d|-cifar)", rest)
    if match is None:
        raise unknown(name, "a depth, then nothing, -v1.5, -d or -cifar")
    depth, variant = int(match[1]), match[2]
    family = name.removesuffix(rest)
    on_imagenet = depth in IMAGENET and variant != "-cifar"
    if not on_imagenet and (depth < 8 or depth % 6 != 2):
        if depth in IMAGENET:
            expected = f"-cifar at a depth of 6n+2; {family}{depth} with model.stem=cifar suits small images"
            raise unknown(name, expected, [f"{family}{depth}"])
        near = sorted({8, *IMAGENET, *range(8, depth + 7, 6)}, key=lambda d: abs(d - depth))[:2]
        depths = f"a depth of 6n+2 (8, 14, 20, …) or {', '.join(map(str, IMAGENET))}"
        raise unknown(name, depths, [f"{family}{d}" for d in sorted(near)])
    if variant == "-d" and not on_imagenet:
        raise unknown(name, f"-d at a depth of {', '.join(map(str, IMAGENET))}", [f"{family}{depth}"])
    bottleneck, blocks = IMAGENET[depth] if on_imagenet else (False, ((depth - 2) // 6,) * 3)
    if variant == "-v1.5" and not bottleneck:
        raise unknown(name, "-v1.5 at a depth with bottlenecks: 50, 101, 152", [f"{family}{depth}"])

    basic, deep = (PreBasicBlock, PreBottleneck) if preactivation else (BasicBlock, Bottleneck)
    options: dict[str, Any] = {"width": 64 if on_imagenet else 16, "stem": "imagenet" if on_imagenet else "cifar"}
    if variant == "-d":
        options["stem"] = "deep"
    if residual:
        options["shortcut"] = "B" if on_imagenet else "A"
    if residual and not preactivation:
        options["norm_order"] = "before"
    if bottleneck:
        options["stride_in"] = "3x3" if variant in ("-v1.5", "-d") else "1x1"
    return NetworkPlan(
        network=ResNet,
        fixed={"block": deep if bottleneck else basic, "blocks": blocks, "pool_shortcut": variant == "-d" and residual},
        options=options,
        depth=depth,
        size=224 if on_imagenet else 32,
        num_classes=1000 if on_imagenet else 10,
        conv1=True,
    )


def pooled(name: str) -> NetworkPlan:
    """The plan of a network of `POOLED`."""
    blocks, width = POOLED[name]
    return NetworkPlan(
        network=PooledResNet,
        fixed={"blocks": blocks},
        options={"width": width, "norm_order": "before"},
        depth=2 + len(blocks) + 2 * sum(blocks),
        size=32,
        num_classes=10,
        conv1=True,
    )


def fully_connected(name: str, rest: str, *, residual: bool = True) -> NetworkPlan:
    """`-8x256`: the plan of a fully connected network of 8 blocks of width 256, or of its plain twin."""
    match = re.fullmatch(r"-([1-9]\d{0,3})x([1-9]\d{0,4})", rest)
    if match is None:
        raise unknown(name, "-BLOCKSxWIDTH after the family, such as -8x256")
    blocks, width = int(match[1]), int(match[2])
    return NetworkPlan(
        network=ResMLP,
        fixed={"blocks": blocks, "width": width, "residual": residual},
        options={"size": 32} | ({"norm_order": "before"} if residual else {}),
        depth=2 * blocks + 2,
        size=32,
        num_classes=10,
    )


FAMILIES: dict[str, Callable[[str, str], NetworkPlan]] = {
    "resnet": convolutional,
    "plain": partial(convolutional, residual=False),
    "preresnet": partial(convolutional, preactivation=True),
    "resmlp": fully_connected,
    "plainmlp": partial(fully_connected, residual=False),
}  # start of a name: (whole name, the rest of it) -> plan
