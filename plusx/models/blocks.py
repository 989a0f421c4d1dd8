"""Shortcuts and residual blocks (sections 3.2 and 3.3), their plain twins, and the pre-activation order.

Every ReLU and every addition overwrites its input, a batch norm's or convolution's output that no gradient needs: less
memory traffic is time on a CPU. A hook that keeps such an output must clone it.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True)
class BlockStyle:
    """What the blocks of one network share."""

    shortcut: str | None  # option A, B or C; None: a plain net
    stride_in: str | None = None  # which convolution of a bottleneck has the stride: 1x1 (the paper) or 3x3
    pool_shortcut: bool = False  # the projection averages 2x2 instead of skipping three of four positions ("D")
    after_stem: bool = False  # the stem's batch norm and ReLU are this pre-activation block's own
    norm_order: str = "before"  # the last batch norm: before the addition (the paper) or after it


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """3x3 convolution that keeps H and W at stride 1; the batch norm that follows has the bias."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """1x1 convolution."""
    return nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)


class Shift(nn.Module):
    """A learned shift of each channel: what a batch norm leaves behind in a net without normalisation.

    Arguments:
        channels: C.
        axes: of the input behind C; 0 in fully connected nets.
    """

    def __init__(self, channels: int, axes: int = 2) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.shape = (-1, *[1] * axes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) -> (N, C, …), in the arithmetic of x."""
        return x + self.bias.to(x.dtype).view(self.shape)


def remove_norm(network: nn.Module) -> None:
    """Put a `Shift` in the place of every batch norm, under the same name."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, BatchNorm):
                setattr(module, name, Shift(child.num_features, 2 if isinstance(child, nn.BatchNorm2d) else 0))


class ZeroPad(nn.Module):
    """Shortcut option A: every `stride`-th position, and zeros for the channels that x lacks. No parameters."""

    def __init__(self, extra: int, stride: int) -> None:
        super().__init__()
        self.extra = extra
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + extra, ceil(H / stride), ceil(W / stride))."""
        if self.stride > 1:
            # Pooling over one pixel is a strided slice whose backward is 3 to 4 times faster on a CPU in bf16.
            x = F.avg_pool2d(x, 1, self.stride)
        return F.pad(x, (0, 0, 0, 0, 0, self.extra))


def make_shortcut(
    in_channels: int, out_channels: int, stride: int, style: BlockStyle, *, norm: bool = True
) -> nn.Module | None:
    """The shortcut of one block, None where it is the identity or the net is plain (equations 1 and 2)."""
    same_shape = stride == 1 and in_channels == out_channels
    if style.shortcut is None or (same_shape and style.shortcut != "C"):
        return None
    if style.shortcut == "A":
        return ZeroPad(out_channels - in_channels, stride)
    if not style.pool_shortcut:
        layers: list[nn.Module] = [conv1x1(in_channels, out_channels, stride)]
    else:
        pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
        layers = [pool, conv1x1(in_channels, out_channels)]
    return nn.Sequential(*layers, nn.BatchNorm2d(out_channels)) if norm else nn.Sequential(*layers)


class Block(nn.Module, ABC):
    """y = relu(F(x) + x), or relu(F(x)) in a plain net.

    F(x) ends in a batch norm; `norm_after` moves it behind the addition (arXiv 1603.05027, Fig. 4(b)), and a projection
    keeps its own.
    """

    expansion: int  # output channels per unit of width
    relu: nn.Module
    residual: bool
    downsample: nn.Module | None
    last_norm: str  # name of F(x)'s last batch norm
    norm_after: bool = False

    @abstractmethod
    def branch(self, x: Tensor) -> Tensor:
        """F(x), without the last ReLU, and with `norm_after` without the last batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        out = self.branch(x)
        if self.residual:
            out += x if self.downsample is None else self.downsample(x)
        if self.norm_after:
            out = self.get_submodule(self.last_norm)(out)
        y: Tensor = self.relu(out)
        return y


class BasicBlock(Block):
    """Two 3x3 convolutions (Fig. 5, left)."""

    expansion = 1
    last_norm = "bn2"

    def __init__(self, in_channels: int, width: int, stride: int, style: BlockStyle) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.residual = style.shortcut is not None
        self.downsample = make_shortcut(in_channels, width, stride, style)
        self.norm_after = style.norm_order == "after"

    def branch(self, x: Tensor) -> Tensor:
        """F(x) of equation 1."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.conv2(x)
        if not self.norm_after:
            x = self.bn2(x)
        return x


class Bottleneck(Block):
    """1x1 down to `width` channels, 3x3, 1x1 up to four times as many (Fig. 5, right)."""

    expansion = 4
    last_norm = "bn3"

    def __init__(self, in_channels: int, width: int, stride: int, style: BlockStyle) -> None:
        super().__init__()
        out_channels = width * self.expansion
        stride1, stride2 = (stride, 1) if style.stride_in == "1x1" else (1, stride)
        self.conv1 = conv1x1(in_channels, width, stride1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride2)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.residual = style.shortcut is not None
        self.downsample = make_shortcut(in_channels, out_channels, stride, style)
        self.norm_after = style.norm_order == "after"

    def branch(self, x: Tensor) -> Tensor:
        """F(x) of equation 1."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.conv3(x)
        if not self.norm_after:
            x = self.bn3(x)
        return x


class PreActivation(Block):
    """y = F(x) + x with batch norm and ReLU before each convolution (He et al. 2016, arXiv 1603.05027).

    A shortcut that changes the shape starts after the first batch norm and ReLU, and its projection has no batch norm
    of its own: the next block's normalises the sum.
    """

    bn1: nn.Module | None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H', W')."""
        y = x if self.bn1 is None else self.relu(self.bn1(x))
        out = self.branch(y)
        out += x if self.downsample is None else self.downsample(y)
        return out


class PreBasicBlock(PreActivation):
    """Two 3x3 convolutions, pre-activated."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, style: BlockStyle) -> None:
        super().__init__()
        self.bn1 = None if style.after_stem else nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = conv3x3(in_channels, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width)
        self.downsample = make_shortcut(in_channels, width, stride, style, norm=False)

    def branch(self, x: Tensor) -> Tensor:
        """F(x) after its first batch norm and ReLU."""
        x = self.relu(self.bn2(self.conv1(x)))
        x = self.conv2(x)
        return x


class PreBottleneck(PreActivation):
    """1x1, 3x3, 1x1 convolutions, pre-activated."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, style: BlockStyle) -> None:
        super().__init__()
        out_channels = width * self.expansion
        stride1, stride2 = (stride, 1) if style.stride_in == "1x1" else (1, stride)
        self.bn1 = None if style.after_stem else nn.BatchNorm2d(in_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv1 = conv1x1(in_channels, width, stride1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride2)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, out_channels)
        self.downsample = make_shortcut(in_channels, out_channels, stride, style, norm=False)

    def branch(self, x: Tensor) -> Tensor:
        """F(x) after its first batch norm and ReLU."""
        x = self.relu(self.bn2(self.conv1(x)))
        x = self.relu(self.bn3(self.conv2(x)))
        x = self.conv3(x)
        return x
