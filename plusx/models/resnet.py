"""Residual networks and their plain twins, in the paper's order: stem, stages of blocks, average pool, classifier.

The paper's conv1 is `conv1`, its conv2_x ... conv5_x are `layer1` ... `layer4`. Parameters carry torchvision's names
(the "D" variants timm's), so that weights move in and out with a plain `load_state_dict`.
"""

import dataclasses

from torch import Tensor, nn

from plusx.models.blocks import BasicBlock, BlockStyle, Bottleneck, PreActivation, PreBasicBlock, PreBottleneck, conv3x3
from plusx.models.network import Network

ConvBlock = type[BasicBlock] | type[Bottleneck] | type[PreBasicBlock] | type[PreBottleneck]


class ResNet(Network):
    """Stem, `len(blocks)` stages, global average pool, fully connected head (section 3.3, Table 1).

    Arguments:
        block: the residual branch.
        blocks: number of blocks in each stage; each stage after the first halves H and W and doubles the channels.
        num_classes: K.
        in_channels: C of the images.
        width: channels of the first stage, before a bottleneck's expansion.
        stem: `imagenet` 7x7 stride 2 and max-pool, `cifar` 3x3 stride 1, `deep` three 3x3 and max-pool ("C", "D").
        shortcut: option A, B or C (section 4.1); None leaves all shortcuts out, a plain net.
        stride_in: convolution of a bottleneck that has the stride: `1x1` (the paper) or `3x3` ("v1.5").
        pool_shortcut: projections average 2x2 before they project ("D", He et al. 2018, arXiv 1812.01187).
        norm_order: the last batch norm of a block, `before` its addition (the paper) or `after` it.
    """

    def __init__(
        self,
        block: ConvBlock,
        blocks: tuple[int, ...],
        *,
        num_classes: int,
        in_channels: int,
        width: int,
        stem: str,
        shortcut: str | None = None,
        stride_in: str | None = None,
        pool_shortcut: bool = False,
        norm_order: str = "before",
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv1 = stem_convolution(stem, in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(3, stride=2, padding=1)

        style = BlockStyle(shortcut, stride_in, pool_shortcut, norm_order=norm_order)
        channels = width
        self.stages = tuple(f"layer{i + 1}" for i in range(len(blocks)))
        for i, name in enumerate(self.stages):
            stage_width = width * 2**i
            self.add_module(name, make_stage(block, blocks[i], channels, stage_width, style, first=i == 0))
            channels = stage_width * block.expansion
        self.total_stride = (1 if stem == "cifar" else 4) * 2 ** (len(blocks) - 1)

        # Pre-activation blocks end in an addition: the sum of the last one still needs its batch norm and ReLU.
        self.last_bn = nn.BatchNorm2d(channels) if issubclass(block, PreActivation) else None
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)

    def stem(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) -> (N, width, H', W'), the paper's conv1 and max-pool."""
        y: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return y

    def pool(self, x: Tensor) -> Tensor:
        """The last stage's output (N, F, H', W') -> (N, F)."""
        if self.last_bn is not None:
            x = self.relu(self.last_bn(x))
        y: Tensor = self.avgpool(x)
        return y.flatten(1)


def stem_convolution(stem: str, in_channels: int, width: int) -> nn.Module:
    """The convolutions of the stem; batch norm and ReLU follow them in the network."""
    if stem == "imagenet":
        return nn.Conv2d(in_channels, width, 7, stride=2, padding=3, bias=False)
    if stem == "cifar":
        return conv3x3(in_channels, width)
    half = max(width // 2, 1)
    return nn.Sequential(
        conv3x3(in_channels, half, stride=2),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        conv3x3(half, half),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        conv3x3(half, width),
    )


def make_stage(
    block: ConvBlock, count: int, in_channels: int, width: int, style: BlockStyle, *, first: bool
) -> nn.Sequential:
    """`count` blocks of one width; the first block changes the channels and, past the first stage, halves H and W."""
    start = block(in_channels, width, 1 if first else 2, dataclasses.replace(style, after_stem=first))
    rest = [block(width * block.expansion, width, 1, style) for _ in range(count - 1)]
    return nn.Sequential(start, *rest)
