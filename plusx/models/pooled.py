"""The fast residual networks for small images: wide layers at low resolution, where a CPU multiplies fastest.

After David Page's ResNet-9 (DAWNBench 2018): a stage halves the image by a plain 3x3 convolution and a max-pool, and
then adds residual blocks of the paper (section 3.2) with identity shortcuts alone.
"""

from torch import Tensor, nn

from plusx.models.blocks import BasicBlock, BlockStyle, conv3x3
from plusx.models.network import Network


class PooledConv(nn.Module):
    """3x3 convolution, 2x2 max-pool, batch norm, ReLU; pooling first leaves a quarter of the work to the others."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(in_channels, out_channels)
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.bn = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', ceil(H / 2), ceil(W / 2))."""
        y: Tensor = self.relu(self.bn(self.pool(self.conv(x))))
        return y


class PooledResNet(Network):
    """3x3 stem, `len(blocks)` stages that double the channels and halve H and W, global average pool, head.

    Arguments:
        blocks: number of residual blocks in each stage.
        num_classes: K.
        in_channels: C of the images.
        width: channels of the stem.
        norm_order: the last batch norm of a block, `before` its addition (the paper) or `after` it.
    """

    def __init__(
        self, blocks: tuple[int, ...], *, num_classes: int, in_channels: int, width: int, norm_order: str = "before"
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.conv1 = conv3x3(in_channels, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        style = BlockStyle("A", norm_order=norm_order)
        self.stages = tuple(f"layer{i + 1}" for i in range(len(blocks)))
        for i, name in enumerate(self.stages):
            channels = width * 2 ** (i + 1)
            residual = [BasicBlock(channels, channels, 1, style) for _ in range(blocks[i])]
            self.add_module(name, nn.Sequential(PooledConv(channels // 2, channels), *residual))
        self.total_stride = 2 ** len(blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(width * 2 ** len(blocks), num_classes)

    def stem(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) -> (N, width, H, W)."""
        y: Tensor = self.relu(self.bn1(self.conv1(x)))
        return y

    def pool(self, x: Tensor) -> Tensor:
        """The last stage's output (N, F, H', W') -> (N, F)."""
        y: Tensor = self.avgpool(x)
        return y.flatten(1)
