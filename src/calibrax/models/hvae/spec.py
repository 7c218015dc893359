"""The sizes of a hierarchical VAE's stages."""

import dataclasses
import math
from collections.abc import Sequence

from calibrax.models.interface import check_positive


@dataclasses.dataclass(frozen=True)
class StageSpec:
    """The sizes of one layer of latents and of the blocks around it.

    Attributes:
      filters: channels of the blocks.
      kernel_size: of the blocks.
      stride: of the last inference block and the first generative block.
      latents: channels of the latent map, or length of the latent vector.
      latent_kernel: kernel size of the convolution to the latent map; None for a linear layer to a latent vector.

    Raises:
      ValueError: if a size is not a positive whole number, or the kernel is smaller than the stride.
    """

    filters: int
    kernel_size: int
    stride: int
    latents: int
    latent_kernel: int | None

    def __post_init__(self):
        sizes = dataclasses.asdict(self)
        if self.latent_kernel is None:
            del sizes["latent_kernel"]
        check_positive(**sizes)
        if self.kernel_size < self.stride:
            raise ValueError(f"kernel_size is {self.kernel_size}; expected at least the stride, {self.stride}")


# The CIFAR-10 network of Maaløe et al.: 15 latent maps of 16×16, 8×8 and 4×4, bottom first.
CIFAR_STAGES = (
    StageSpec(96, 5, 2, 38, 16),
    *(StageSpec(96, 3, 1, latents, 16) for latents in range(36, 18, -2)),
    StageSpec(96, 3, 2, 18, 8),
    *(StageSpec(96, 3, 1, latents, 8) for latents in (16, 14, 12)),
    StageSpec(96, 3, 2, 10, 4),
)

# The network for binary images in vlievin/biva-pytorch: 6 latent vectors, for 28×28 images such as MNIST's. The
# original also projects the top latents for a layer above them, which does not exist; that projection is left out.
DENSE_STAGES = (
    StageSpec(64, 5, 2, 48, None),
    *(StageSpec(64, 3, 1, latents, None) for latents in (40, 32, 24, 16)),
    StageSpec(64, 3, 2, 8, None),
)


def feature_maps(image_shape: Sequence[int], stages: Sequence[StageSpec]) -> list[tuple[int, int, int]]:
    """The (height, width, filters) of each stage's features, bottom first.

    Raises:
      ValueError: if there is no stage, or the image's sides are not multiples of the product of the strides.
    """
    if not stages or not all(isinstance(stage, StageSpec) for stage in stages):
        raise ValueError(f"stages is {stages!r}; expected one StageSpec or more, bottom first")
    total = math.prod(stage.stride for stage in stages)
    if len(image_shape) != 3 or min(image_shape) < 1 or any(n % total for n in image_shape[:2]):
        raise ValueError(
            f"image_shape is {tuple(image_shape)}; expected (height, width, channels), "
            f"the sides multiples of {total}, the product of the strides"
        )
    maps, (height, width) = [], image_shape[:2]
    for stage in stages:
        height, width = height // stage.stride, width // stage.stride
        maps.append((height, width, stage.filters))
    return maps


def latent_shape(spec: StageSpec, features: tuple[int, int, int]) -> tuple[int, ...]:
    """(H, W, N) for a latent map, (N,) for a latent vector, in a stage whose features have this shape."""
    return (spec.latents,) if spec.latent_kernel is None else (*features[:2], spec.latents)
