"""AutoRetouch-style network: full resolution, crops agree with the whole, residual."""

from __future__ import annotations

import pytest
import torch

from revisage.training.models.autoretouch import AutoRetouch


def _lively() -> AutoRetouch:
    torch.manual_seed(0)
    return AutoRetouch(8, 2).eval()


def test_a_silent_head_leaves_the_picture() -> None:
    network = AutoRetouch.compact().eval()
    image = torch.rand(2, 3, 20, 28)
    with torch.no_grad():
        assert not torch.equal(network(image), image)
        network.head.weight.zero_()
        network.head.bias.zero_()  # type: ignore[union-attr]
        torch.testing.assert_close(network(image), image, atol=0, rtol=0)


def test_a_crop_gives_what_the_whole_picture_gives() -> None:
    """Nothing but neighbourhoods counts: it may train on crops and run on whole photos."""
    network = _lively()
    image = torch.rand(1, 3, 96, 112)
    # Two blocks of dilation 1 and 2, with three single convolutions: 8 cells of 4 pixels.
    reach = 4 * (1 + (1 + 1) + (2 + 1) + 1 + 1)
    with torch.inference_mode():
        whole, crop = network(image), network(image[:, :, 8:88, 12:108])
    inner = (..., slice(reach, 80 - reach), slice(reach, 96 - reach))
    torch.testing.assert_close(crop[inner], whole[:, :, 8:88, 12:108][inner])
    assert not torch.equal(whole, image)


def test_every_pixel_matters() -> None:
    """Regrouping loses nothing, unlike striding."""
    network = _lively()
    image = torch.rand(1, 3, 16, 16, requires_grad=True)
    network(image).square().sum().backward()
    assert image.grad is not None
    assert bool((image.grad != 0).all())


def test_sizes_that_do_not_fit_are_errors() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        AutoRetouch(4, 1)(torch.zeros(1, 3, 10, 12))
    with pytest.raises(ValueError, match="at least 1"):
        AutoRetouch(4, 0)
