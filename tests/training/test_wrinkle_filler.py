"""The compact filler: what it may look at, what it leaves alone, and its parameter-free start."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from revisage.training.metrics.psnr import psnr
from revisage.training.models.ffc import use_fourier_transform
from revisage.training.models.wrinkle_filler import CompactFiller, prefill
from tests.support import ROOT

WEIGHTS = ROOT / "training" / "weights" / "wrinkle_filler.safetensors"


def _stroke(height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, height, width)
    mask[:, :, height // 2 - 3 : height // 2 + 2, 4 : width - 4] = 1
    return mask


def _lively() -> CompactFiller:
    """An untrained network whose head is not zero, so that every layer matters."""
    torch.manual_seed(5)
    network = CompactFiller(stem=8, width=16, blocks=1).eval()
    torch.nn.init.normal_(network.head.weight, std=0.1)
    return network


@pytest.mark.parametrize("fill", [prefill, _lively()], ids=["prefill", "network"])
def test_hole_content_never_matters(fill: torch.nn.Module) -> None:
    torch.manual_seed(0)
    image, mask = torch.rand(1, 3, 32, 48), _stroke(32, 48)
    with torch.inference_mode():
        first = fill(image, mask)
        second = fill(torch.where(mask > 0, torch.rand_like(image), image), mask)
    torch.testing.assert_close(first, second, atol=0, rtol=0)


@pytest.mark.parametrize("fill", [prefill, _lively()], ids=["prefill", "network"])
def test_known_pixels_are_returned(fill: torch.nn.Module) -> None:
    torch.manual_seed(1)
    image, mask = torch.rand(2, 3, 24, 40), _stroke(24, 40).repeat(2, 1, 1, 1)
    with torch.inference_mode():
        out = fill(image, mask)
    known = (mask == 0).expand_as(image)
    assert torch.equal(out[known], image[known])
    assert not torch.equal(out, image)


def test_training_starts_at_the_prefill() -> None:
    image, mask = torch.rand(1, 3, 32, 32), _stroke(32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(CompactFiller()(image, mask), prefill(image, mask))


@pytest.mark.parametrize("size", [(8, 8), (16, 24), (40, 56), (64, 64)])
def test_flat_pictures_are_filled_flat(size: tuple[int, int]) -> None:
    colour = torch.tensor([0.8, 0.5, 0.3]).reshape(1, 3, 1, 1)
    image, mask = colour.expand(1, 3, *size), torch.zeros(1, 1, *size)
    mask[:, :, 1:-1, 2:-1] = 1  # nearly everything is hole
    torch.testing.assert_close(prefill(image, mask), image, atol=2e-3, rtol=0)


def test_prefill_follows_a_ramp() -> None:
    ramp = torch.linspace(0.2, 0.8, 64).expand(1, 3, 64, 64)
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, 10:54, 30:35] = 1
    error = (prefill(ramp, mask) - ramp).abs().max().item()
    flat = (0.8 - 0.2) / 63 * 3  # what copying one side would miss in the middle of the hole
    assert error < flat / 2


def test_a_picture_that_is_all_hole_is_filled_with_something() -> None:
    out = prefill(torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16))
    assert bool(torch.isfinite(out).all())


@pytest.mark.parametrize("size", [(24, 40), (16, 8), (56, 56)])
def test_matrix_form_gives_the_same_picture(size: tuple[int, int]) -> None:
    network = _lively()
    image, mask = torch.rand(1, 3, *size), torch.zeros(1, 1, *size)
    mask[:, :, 3:7, 2:-2] = 1
    with torch.inference_mode():
        fast = network(image, mask)
        use_fourier_transform(network, "matrices")
        portable = network(image, mask)
    torch.testing.assert_close(fast, portable, atol=1e-5, rtol=0)


def test_size_is_compact() -> None:
    values = sum(v.numel() for v in CompactFiller().state_dict().values())
    assert 300_000 < values < 800_000


def test_shipped_weights_beat_the_prefill_and_opencv_on_a_soft_texture() -> None:
    """Blurred noise over a soft shade, as skin is at 512 px; holes the width of a wrinkle."""
    if not WEIGHTS.exists():
        pytest.skip("needs the trained weights, which are kept in the repository only")
    network = CompactFiller().eval()
    network.load_state_dict(load_file(WEIGHTS))
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:128, 0:128] / 128
    shade = 0.55 + 0.1 * np.sin(3 * x + 2 * y)[..., None] * np.array([1.0, 0.8, 0.7])
    grain = cv2.GaussianBlur(rng.normal(0, 0.06, (128, 128)), (0, 0), 1.5)[..., None]
    picture = np.rint(255 * np.clip(shade + grain, 0, 1)).astype(np.uint8)
    hole = np.zeros((128, 128), np.uint8)
    for row in range(12, 116, 20):
        hole[row : row + 5, 10:118] = 1
    image = torch.from_numpy(picture.transpose(2, 0, 1).copy())[None].float() / 255
    mask = torch.from_numpy(hole)[None, None].float()
    with torch.inference_mode():
        filled = network(image, mask)[0].permute(1, 2, 0).numpy() * 255
        start = prefill(image, mask)[0].permute(1, 2, 0).numpy() * 255
    ours = psnr(filled, picture, hole)
    assert ours > psnr(start, picture, hole)
    for way in (cv2.INPAINT_TELEA, cv2.INPAINT_NS):
        assert ours > psnr(cv2.inpaint(picture, hole, 3, way), picture, hole) + 0.5
