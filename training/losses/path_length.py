"""Path length regularisation: a step in W should change the picture by a fixed amount.

Source: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN", section 3.2
and equation 4: E over w and y of (|J^T y| - a)^2, with J = d picture / d w, y normal noise in the
space of pictures, and a the moving mean of |J^T y|.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["PathLength", "path_lengths"]


def path_lengths(images: Tensor, latents: Tensor, noise: Tensor | None = None) -> Tensor:
    """|J^T y| of every sample.

    The noise is divided by the root of the number of pixels, as the authors' code does, so that
    lengths do not grow with the resolution.

    Args:
        images: [N, C, H, W], computed from `latents`.
        latents: [N, L, D]; must require gradients. Layers count as a mean of squares.
        noise: [N, C, H, W] of deviation 1; None draws it.

    Returns:
        [N], differentiable a second time.
    """
    if noise is None:
        noise = torch.randn_like(images)
    scale = math.sqrt(images.shape[2] * images.shape[3])
    (gradient,) = torch.autograd.grad((images * noise).sum() / scale, latents, create_graph=True)
    return gradient.square().sum(dim=2).mean(dim=1).sqrt()


class PathLength(nn.Module):
    """Equation 4, with the moving mean in a buffer.

    Args:
        decay: share of the old mean that a batch takes away; the authors' code has 0.01.
    """

    mean: Tensor

    def __init__(self, decay: float = 0.01) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros([]))

    def forward(self, lengths: Tensor) -> Tensor:
        """The penalty of a batch of lengths [N], a scalar; moves the mean first."""
        with torch.no_grad():
            self.mean.lerp_(lengths.detach().mean().to(self.mean.dtype), self.decay)
        return (lengths - self.mean.clone()).square().mean()
