"""The segmentation network as a critic: a filled wrinkle must not be seen as one again."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["WrinkleCritic"]


class WrinkleCritic(nn.Module):
    """Scores how much wrinkle a trained segmenter still sees inside the hole.

    Args:
        segmenter: image [N, 3, H, W] in [0, 1] -> logits [N, 1, H, W]; it is frozen here.
    """

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter.eval().requires_grad_(False)

    def forward(self, predicted: Tensor, mask: Tensor) -> Tensor:
        """Mean over the hole of softplus(logit), the cross entropy against "no wrinkle".

        Args:
            predicted: [N, 3, H, W] filled pictures; gradients flow back into them.
            mask: [N, 1, H, W], 1 = hole.
        """
        logits: Tensor = self.segmenter(predicted)
        # Half precision sums badly.
        surprise = functional.softplus(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        return (surprise * mask).sum() / mask.sum().clamp(min=1)
