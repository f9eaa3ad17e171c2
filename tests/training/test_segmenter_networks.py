"""The segmenter task trains every network of the comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from revisage.errors import CheckpointError, RecipeError
from revisage.training.data.labelled_wrinkles import LabelledWrinkles
from revisage.training.models.resnext import ResNeXt50
from revisage.training.models.unetpp import UNetPlusPlus
from revisage.training.recipe import overridden, read_recipe, recipe_path
from revisage.training.tasks.wrinkle_segmenter import NETWORKS, TINY, SegmenterTask, build


def tiny(portraits: Path, **model: Any) -> SegmenterTask:
    recipe = overridden(read_recipe(recipe_path("wrinkle_segmenter_paper")), TINY)
    changes = {"data": {"portraits": [str(portraits)]}, "model": model}
    torch.manual_seed(0)
    return build(overridden(recipe, changes))


@pytest.mark.parametrize("network", NETWORKS)
def test_loss_falls(network: str, portraits_folder: Path) -> None:
    task = tiny(portraits_folder, network=network)
    module = task.networks["segmenter"]
    batch = task.sample(np.random.default_rng(1), 2)
    optimiser = torch.optim.Adam(module.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        loss, parts = task.loss(batch)
        losses.append(loss.item())
        # The paper's loss is Dice alone.
        assert parts["dice"] == pytest.approx(loss.item())
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    assert losses[-1] < losses[0]


def test_paper_recipe_is_paper_size(portraits_folder: Path) -> None:
    recipe = read_recipe(recipe_path("wrinkle_segmenter_paper"))
    changes = {"data": {"portraits": [str(portraits_folder)]}}
    task = build(overridden(recipe, changes))
    network = task.networks["segmenter"]
    assert isinstance(network, UNetPlusPlus)
    assert list(network.state_dict()) == list(UNetPlusPlus().state_dict())
    assert sum(p.numel() for p in network.parameters()) == sum(
        p.numel() for p in UNetPlusPlus().parameters()
    )


def test_pictures_are_normalised_for_imagenet_encoders(portraits_folder: Path) -> None:
    task = tiny(portraits_folder, network="unet")
    seen: list[torch.Tensor] = []
    task.networks["segmenter"].register_forward_pre_hook(
        lambda module, given: seen.append(given[0])
    )
    batch = {
        "image": torch.full((1, 64, 64, 3), 255, dtype=torch.uint8),
        "target": torch.zeros(1, 1, 64, 64),
        "known": torch.ones(1, 1, 64, 64),
    }
    task.loss(batch)
    white = [(1 - mean) / dev for mean, dev in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert seen[0].mean(dim=(0, 2, 3)).tolist() == pytest.approx(white, rel=1e-5)


def test_baseline_is_judged_beside_the_network(portraits_folder: Path, tmp_path: Path) -> None:
    recipe = overridden(read_recipe(recipe_path("wrinkle_segmenter")), TINY)
    changes = {"data": {"portraits": [str(portraits_folder)], "baselines": True}}
    task = build(overridden(recipe, changes))
    task.held_out.faces = task.held_out.faces[:1]
    networks = {name: network.eval() for name, network in task.networks.items()}
    figures = task.validate(networks, tmp_path, 0)
    for name in ("iou", "precision", "recall", "f1"):
        assert 0 <= figures[name] <= 1
        assert 0 <= figures[f"gabor_{name}"] <= 1
    assert figures["gabor_recall"] > 0.1


def test_encoder_weights_come_from_a_file(portraits_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "resnext50_32x4d.pth"
    torch.manual_seed(5)
    encoder = ResNeXt50(width=4)
    torch.save(encoder.state_dict() | {"fc.weight": torch.zeros(9, 128)}, file)
    task = tiny(portraits_folder, network="unet", encoder_weights=str(file))
    loaded = task.networks["segmenter"].get_submodule("encoder").state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in encoder.state_dict().items())
    assert "sha256" in task.notes["encoder"]
    torch.save({"conv1.weight": torch.zeros(4, 3, 7, 7)}, file)
    with pytest.raises(CheckpointError, match="missing keys"):
        tiny(portraits_folder, network="unet", encoder_weights=str(file))


def test_wrong_options_say_what_is_known(portraits_folder: Path) -> None:
    with pytest.raises(RecipeError, match="known: compact, unetpp, unet, deeplabv3"):
        tiny(portraits_folder, network="segformer")
    with pytest.raises(RecipeError, match="download"):
        tiny(portraits_folder, network="unetpp", encoder_weights="nowhere.pth")


def labelled_folder(folder: Path, count: int = 11) -> Path:
    """Faces of even colour with one dark line each, in the layout of FFHQ-Wrinkle."""
    for name in ("images1024x1024/00000", "manual_wrinkle_masks"):
        (folder / name).mkdir(parents=True)
    for index in range(count):
        mask = np.zeros((128, 128), np.uint8)
        cv2.line(mask, (20, 20 + 6 * index), (108, 30 + 6 * index), 255, 4)
        image = np.where(mask[..., None] > 0, np.uint8(90), np.uint8(190)) + np.zeros(3, np.uint8)
        cv2.imwrite(str(folder / "images1024x1024" / "00000" / f"{index:05d}.png"), image)
        cv2.imwrite(str(folder / "manual_wrinkle_masks" / f"{index:05d}.png"), mask)
    return folder


def test_labelled_faces_replace_the_synthesis(tmp_path: Path) -> None:
    folder = labelled_folder(tmp_path / "ffhq_wrinkle")
    recipe = overridden(read_recipe(recipe_path("wrinkle_segmenter_paper")), TINY)
    data = {"portraits": [], "labelled": [str(folder)], "baselines": True}
    task = build(overridden(recipe, {"data": data}))
    assert len(task.labelled.records) == 9
    assert len(task.labelled_held_out.records) == 2
    batch = task.sample(np.random.default_rng(2), 3)
    again = task.sample(np.random.default_rng(2), 3)
    assert all(torch.equal(batch[key], again[key]) for key in batch)
    assert batch["image"].shape == (3, 64, 64, 3)
    marked = batch["target"][:, 0].bool()
    assert marked.any()
    # The line is dark in the picture wherever the mask says so, whatever the warp.
    assert batch["image"][marked].float().mean() < 130 < batch["image"][~marked].float().mean()

    class Threshold(torch.nn.Module):
        """Finds what is dark in a picture that ImageNet's mean and deviation shifted."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return -image.mean(dim=1, keepdim=True) + 0.35

    figures = task.validate({"segmenter": Threshold()}, tmp_path, 0)
    assert set(figures) >= {"iou", "precision", "recall", "f1", "gabor_iou", "gabor_f1"}
    assert figures["iou"] > 0.7
    assert task.pictures({"segmenter": Threshold()})["segmenter"].shape == (1024, 1024, 3)


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="masks"):
        LabelledWrinkles([tmp_path], "train")
