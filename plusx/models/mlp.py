"""Fully connected residual networks: nothing in y = F(x) + x asks for convolutions (section 3.2)."""

from torch import Tensor, nn

from plusx.errors import DataError
from plusx.models.blocks import Block
from plusx.models.network import Network


class MLPBlock(Block):
    """Two fully connected layers of one width, so that every shortcut is the identity."""

    expansion = 1
    last_norm = "bn2"

    def __init__(self, width: int, residual: bool, norm_order: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, width, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(width, width, bias=False)
        self.bn2 = nn.BatchNorm1d(width)
        self.residual = residual
        self.downsample = None
        self.norm_after = norm_order == "after"

    def branch(self, x: Tensor) -> Tensor:
        """F(x) of equation 1, with W1 and W2 as matrices; x is (N, width)."""
        x = self.relu(self.bn1(self.fc1(x)))
        x = self.fc2(x)
        if not self.norm_after:
            x = self.bn2(x)
        return x


class ResMLP(Network):
    """Pixels -> one layer of `width` -> `blocks` blocks -> head; 2 * blocks + 2 weighted layers.

    Arguments:
        blocks: number of blocks.
        width: units of every hidden layer.
        residual: False leaves the shortcuts out, the plain twin.
        num_classes: K.
        in_channels: C of the images.
        size: side of the square images, px.
        norm_order: the last batch norm of a block, `before` its addition (the paper) or `after` it.
    """

    stages = ("layer1",)

    def __init__(
        self,
        blocks: int,
        width: int,
        *,
        residual: bool,
        num_classes: int,
        in_channels: int,
        size: int,
        norm_order: str = "before",
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.size = size
        self.total_stride = size
        self.fc1 = nn.Linear(in_channels * size * size, width, bias=False)
        self.bn1 = nn.BatchNorm1d(width)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(*(MLPBlock(width, residual, norm_order) for _ in range(blocks)))
        self.fc = nn.Linear(width, num_classes)

    def stem(self, x: Tensor) -> Tensor:
        """Images (N, C, size, size) -> (N, width)."""
        y: Tensor = self.relu(self.bn1(self.fc1(x.flatten(1))))
        return y

    def pool(self, x: Tensor) -> Tensor:
        """The last block's output is the head's input."""
        return x

    def check(self, x: Tensor) -> None:
        """Refuse, in words, images of another size than the first layer was made for."""
        super().check(x)
        if x.shape[2:] != (self.size, self.size):
            raise DataError(
                f"got images of {x.shape[3]}x{x.shape[2]} px, expected {self.size}x{self.size}",
                "A fully connected network takes one size only: create it with size=, the size of the data.",
            )
