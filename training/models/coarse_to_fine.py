"""Coarse-to-fine network that fills any hole in an aligned face.

What belongs into a wide hole, an eye or half a mouth, is learnt where a face is small: at a quarter
of the size a sample costs a sixteenth. So a first network (`SkipInpainting` on 64 px of 256)
corrects the smooth fill of the hole there, and a second one (`CompactFiller`) corrects that at full
size: edges, lashes, grain. Two networks in a row are Yu et al. 2018, "Generative Image Inpainting
with Contextual Attention"; these two and the smooth fill that they correct are ours.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from revisage.training.models.skip_inpainting import SkipInpainting
from revisage.training.models.wrinkle_filler import CompactFiller, prefill

__all__ = ["CoarseToFine"]

REDUCED = 4  # pixels of the full size along one of the coarse network


class CoarseToFine(nn.Module):
    """image [N, 3, H, W] in [0, 1], mask [N, 1, H, W] (1 = hole) -> filled picture [N, 3, H, W].

    Sides are multiples of `multiple_of`; the face is as large as in an aligned square of 256 px.
    The result is the picture itself outside of the hole.

    Args:
        ngf, levels: of the coarse network, which is trained by itself and frozen here.
        stem, width, blocks, ratio: of the fine network.
    """

    critic_norm = "instance"

    def __init__(
        self,
        ngf: int = 48,
        levels: int = 4,
        stem: int = 32,
        width: int = 96,
        blocks: int = 4,
        ratio: float = 0.5,
    ) -> None:
        super().__init__()
        self.coarse = SkipInpainting(ngf, levels, mask_input=True, prefilled=True)
        self.coarse.requires_grad_(False)
        self.fine = CompactFiller(stem, width, blocks, ratio)
        self.multiple_of = REDUCED * self.coarse.multiple_of

    def train(self, mode: bool = True) -> CoarseToFine:
        """The coarse network stays as it was trained, its batch norms too."""
        super().train(mode)
        self.coarse.eval()
        return self

    def coarse_fill(self, image: Tensor, mask: Tensor) -> Tensor:
        """[N, 3, H, W]: the picture with its hole filled by the coarse network."""
        height, width = image.shape[-2:]
        if height % self.multiple_of or width % self.multiple_of:
            raise ValueError(
                f"sides must be multiples of {self.multiple_of}, not {height} x {width}"
            )
        start = prefill(image, mask, levels=len(self.coarse.encoder) + 1, sweeps=2)
        small = functional.avg_pool2d(start, REDUCED)
        hole = functional.max_pool2d(mask, REDUCED)
        correction = self.coarse.correction(small, hole).to(start.dtype)
        for _ in range(2):  # in steps of two, for a smoother slope
            correction = functional.interpolate(
                correction, scale_factor=2, mode="bilinear", align_corners=False
            )
        return (start + mask * correction).clamp(0, 1)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return self.fine.corrected(self.coarse_fill(image, mask), mask)
