"""PCA colour augmentation: shifts along the directions in which the training images' colours vary (section 3.4).

To every pixel of an image [p1 p2 p3] [a1 l1, a2 l2, a3 l3]^T is added. p and l are the eigenvectors and eigenvalues of
the covariance of the training set's RGB values; a is drawn once an image from N(0, 0.1) (Krizhevsky et al. 2012).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plusx.data.sampling import Stream, uniform


@dataclass(frozen=True)
class Colours:
    """The colour directions of a training set, strongest first; RGB in 0..1 units.

    Arguments:
        values: eigenvalues l of the covariance.
        vectors: the 3x3 matrix P, row by row; its columns are the eigenvectors p.
    """

    values: tuple[float, ...]
    vectors: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, covariance: Sequence[Sequence[float]]) -> "Colours":
        """From a covariance (3, 3); each eigenvector points to where red, or the first channel it has, rises."""
        values, vectors = np.linalg.eigh(np.array(covariance))
        values, vectors = values[::-1], vectors[:, ::-1]
        signs = np.sign(vectors[np.argmax(np.abs(vectors) > 1e-12, axis=0), range(3)])
        return cls(tuple(values.clip(0).tolist()), tuple(map(tuple, (vectors * signs).tolist())))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Colours":
        """From plain JSON values; the inverse of `dataclasses.asdict`."""
        return cls(tuple(plain["values"]), tuple(map(tuple, plain["vectors"])))

    def shifts(self, std: float, seed: int, epoch: int, ids: NDArray[np.int64]) -> Tensor:
        """What is added to each pixel of each image, a function of (seed, epoch, id): float32 (N, 3) in 0..1 units.

        Arguments:
            std: standard deviation of the factors a; the paper's is 0.1.
            seed: of the run.
            epoch: counted from 0.
            ids: (N,) examples.
        """
        chances = torch.from_numpy(uniform(seed, epoch, ids, Stream.COLOUR, 3)).clamp_(min=2.0**-54)
        factors = std * torch.special.ndtri(chances)
        matrix = torch.tensor(self.vectors, dtype=torch.float64) * torch.tensor(self.values, dtype=torch.float64)
        shifts: Tensor = (factors @ matrix.T).float()
        return shifts


IMAGENET_COLOURS = Colours(
    values=(0.2175, 0.0188, 0.0045),
    vectors=((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203)),
)  # the values that Facebook's fb.resnet.torch published for ImageNet and others repeat


def shift_colours(images: Tensor, shifts: Tensor, std: tuple[float, ...]) -> Tensor:
    """Add to every pixel of each image its shift, in place.

    Arguments:
        images: (N, 3, H, W), normalised by division by `std`; with std 1 in 0..1 units.
        shifts: (N, 3), in 0..1 units.
        std: of each channel, as in the normalisation.

    Returns:
        the same tensor.
    """
    return images.add_((shifts / torch.tensor(std)).to(images.device)[:, :, None, None])
