"""The filler's training task and its evaluation, on drawn faces."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from revisage.errors import RecipeError
from revisage.training.models.wrinkle_segmenter import CompactSegmenter
from revisage.training.recipe import read_recipe, recipe_path
from revisage.training.tasks.wrinkle_filler import aligned_squares, build, skin_region
from tests.training.drawn_face import drawn_landmarks, plain_skin


@pytest.fixture
def portraits(tmp_path: Path) -> Path:
    """A folder with one portrait to train on and one kept back, all skin."""
    lines = []
    for split in ("train", "val"):
        name = f"{split}.png"
        cv2.imwrite(str(tmp_path / name), plain_skin()[:, :, ::-1])
        entry = {
            "id": split,
            "file": name,
            "identity": split,
            "split": split,
            "width": 512,
            "height": 512,
            "box": [120, 100, 270, 370],
            "landmarks": drawn_landmarks().tolist(),
            "native_face_px": 270,
        }
        lines.append(json.dumps(entry))
    (tmp_path / "annotations.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def _recipe(portraits: Path, **loss: object) -> dict[str, dict[str, object]]:
    return {
        "model": {"stem": 8, "width": 16, "blocks": 1},
        "data": {"portraits": [str(portraits)], "crop": 64},
        "loss": loss,
    }


def test_a_step_with_every_loss(portraits: Path, tmp_path: Path) -> None:
    segmenter = tmp_path / "segmenter.safetensors"
    save_file(CompactSegmenter().state_dict(), segmenter)
    task = build(
        _recipe(portraits, focal_frequency=2000.0, wrinkle_critic=0.1, segmenter=str(segmenter))
    )
    batch = task.sample(np.random.default_rng(1), 3)
    assert batch["image"].shape == (3, 3, 64, 64)
    assert batch["mask"].shape == (3, 1, 64, 64)
    assert set(batch["mask"].unique().tolist()) == {0.0, 1.0}
    loss, parts = task.loss(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert {"l1", "psnr", "focal_frequency", "wrinkle_critic"} <= set(parts)
    head = task.networks["filler"].get_submodule("head")
    assert isinstance(head.weight, torch.nn.Parameter)
    assert head.weight.grad is not None
    assert head.weight.grad.abs().max() > 0


def test_batches_follow_the_seed(portraits: Path) -> None:
    task = build(_recipe(portraits))
    first = task.sample(np.random.default_rng(5), 2)
    again = task.sample(np.random.default_rng(5), 2)
    assert torch.equal(first["image"], again["image"])
    assert torch.equal(first["mask"], again["mask"])


def test_critic_without_segmenter_is_refused(portraits: Path) -> None:
    with pytest.raises(RecipeError, match=r"set loss\.segmenter"):
        build(_recipe(portraits, wrinkle_critic=0.1))


def test_the_shipped_recipe_uses_every_loss() -> None:
    loss = read_recipe(recipe_path("wrinkle_filler"))["loss"]
    assert all(loss[part] > 0 for part in ("l1", "focal_frequency", "wrinkle_critic"))


def test_squares_keep_back_what_is_asked(portraits: Path) -> None:
    squares, points = aligned_squares((str(portraits),), "val", 128, 200.0)
    assert [square.shape for square in squares] == [(128, 128, 3)]
    assert points[0].shape == (68, 2)
    none, _ = aligned_squares((str(portraits),), "val", 128, 300.0)
    assert none == []


def test_skin_leaves_features_out() -> None:
    landmarks = drawn_landmarks()
    region = skin_region(landmarks, 512)
    for feature in (landmarks[36:42], landmarks[42:48], landmarks[48:60]):
        x, y = np.rint(feature.mean(axis=0)).astype(int)
        assert region[y, x] == 0
    assert region[300, 190] == 1  # a cheek
    assert region[5, 5] == 0
