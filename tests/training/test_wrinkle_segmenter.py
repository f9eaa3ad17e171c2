"""The compact segmenter: its size, its loss, its score, and what the shipped weights find."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from revisage.training.data.portraits import read_portraits
from revisage.training.data.ridges import IGNORE
from revisage.training.data.wrinkle_crops import AlignedFace, aligned_face, wrinkle_crop
from revisage.training.losses.dice import dice_loss
from revisage.training.metrics.segmentation import Overlap
from revisage.training.models.wrinkle_segmenter import CompactSegmenter
from revisage.training.tasks.wrinkle_segmenter import segmentation_figures
from tests.support import ROOT, shared_folder
from tests.training.drawn_face import drawn_landmarks, plain_skin


def test_it_is_small() -> None:
    network = CompactSegmenter().eval()
    assert sum(p.numel() for p in network.parameters()) <= 1_200_000
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 128, 128))
    # Multiply-adds at 512 px, which has 16 times the area.
    assert counter.get_total_flops() / 2 * 16 <= 3e9


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (2, 3, 48, 112)])
def test_logits_have_the_size_of_the_picture(shape: tuple[int, ...]) -> None:
    with torch.no_grad():
        out = CompactSegmenter().eval()(torch.rand(shape))
    assert out.shape == (shape[0], 1, *shape[2:])
    # Untrained, it expects few wrinkles.
    assert float(torch.sigmoid(out).mean()) < 0.2


def test_dice_of_obvious_masks() -> None:
    target = torch.zeros(2, 1, 16, 16)
    target[:, :, 4:12] = 1
    sure = (target * 2 - 1) * 40
    assert float(dice_loss(sure, target)) == pytest.approx(0, abs=1e-5)
    assert float(dice_loss(-sure, target)) == pytest.approx(1, abs=0.01)
    # Half of the probability everywhere: 2 * 0.5 * 256 / (0.5 * 512 + 256).
    assert float(dice_loss(torch.zeros_like(target), target)) == pytest.approx(0.5, abs=0.01)
    weight = torch.zeros_like(target)
    weight[0] = 1
    wrong_where_nobody_looks = sure.clone()
    wrong_where_nobody_looks[1] *= -1
    assert float(dice_loss(wrong_where_nobody_looks, target, weight)) == pytest.approx(0, abs=1e-5)


def test_overlap_of_obvious_masks() -> None:
    overlap = Overlap()
    found, truth = np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8)
    found[0], truth[:2] = 1, 1
    overlap.add(found, truth)
    assert (overlap.iou, overlap.precision, overlap.recall) == (0.5, 1.0, 0.5)
    overlap.add(truth, found)
    assert overlap.iou == pytest.approx(8 / 16)
    limited = Overlap()
    limited.add(found, truth, found)
    assert limited.iou == 1.0
    assert Overlap().iou == 1.0


def _plain_face() -> AlignedFace:
    labels = np.zeros((512, 512), np.uint8)
    labels[300:310, 150:200] = IGNORE
    labels[320:330, 150:200] = 1
    return AlignedFace(plain_skin(), drawn_landmarks(), np.ones((512, 512), np.uint8), labels)


def test_crops_join_drawn_and_real_wrinkles() -> None:
    rng = np.random.default_rng(0)
    unknown, wrinkles = 0, 0
    for _ in range(12):
        image, target, known = wrinkle_crop(_plain_face(), 128, rng)
        assert image.shape == (128, 128, 3)
        assert image.dtype == np.uint8
        assert target.shape == known.shape == (128, 128)
        assert not ((known == 0) & (target == 1)).any()
        unknown += int((known == 0).sum())
        wrinkles += int(target.sum())
    assert unknown > 0
    assert wrinkles > 0


def test_it_learns() -> None:
    torch.manual_seed(0)
    network = CompactSegmenter((8, 8, 16), (1, 1)).train()
    rng = np.random.default_rng(1)
    crops = [wrinkle_crop(_plain_face(), 128, rng) for _ in range(4)]
    image = torch.from_numpy(np.stack([c[0] for c in crops])).permute(0, 3, 1, 2) / 255
    target = torch.from_numpy(np.stack([c[1] for c in crops]))[:, None]
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = dice_loss(network(image), target)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2


def test_the_shipped_weights_find_drawn_wrinkles() -> None:
    folder = shared_folder("data", "portraits")
    weights = ROOT / "training" / "weights" / "wrinkle_segmenter.safetensors"
    network = CompactSegmenter().eval()
    network.load_state_dict(load_file(weights))
    portraits = read_portraits(folder, "val", 300)[:6]
    faces = [aligned_face(portrait) for portrait in portraits]
    figures = segmentation_figures(network, faces, 2024)
    assert figures["iou"] >= 0.45
    # Faces without drawn wrinkles are not covered with finds.
    assert figures["bare"] < 0.02
