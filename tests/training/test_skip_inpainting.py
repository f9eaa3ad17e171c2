"""The skip-connection network, and the training of all networks that fill a hole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from revisage.errors import RecipeError
from revisage.training.models.context_encoder import ContextEncoder
from revisage.training.models.skip_inpainting import SkipInpainting, composite_hole
from revisage.training.models.wrinkle_filler import prefill
from revisage.training.tasks.inpaint import TINY, InpaintTask, build


def weights(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("mask_input", [False, True])
def test_any_hole_and_any_shape(mask_input: bool) -> None:
    torch.manual_seed(0)
    network = SkipInpainting(ngf=4, levels=3, mask_input=mask_input).eval()
    image, mask = torch.rand(2, 3, 24, 40), (torch.rand(2, 1, 24, 40) > 0.5).float()
    with torch.inference_mode():
        predicted = network(image, mask)
        other = network(image * (1 - mask) + 0.3 * mask, mask)
    assert predicted.shape == image.shape
    assert predicted.min() >= 0
    assert predicted.max() <= 1
    torch.testing.assert_close(predicted, other)  # what stands in the hole is not looked at


def test_it_is_model_3_with_skip_connections() -> None:
    with torch.device("meta"):
        skip, plain = SkipInpainting.paper(), ContextEncoder.paper(3)
    down = [m.out_channels for m in skip.modules() if isinstance(m, nn.Conv2d)]
    assert down == [m.out_channels for m in plain.modules() if isinstance(m, nn.Conv2d)]
    ups = [m for m in skip.modules() if isinstance(m, nn.ConvTranspose2d)]
    ours = [m.out_channels for m in ups]
    assert ours == [m.out_channels for m in plain.modules() if isinstance(m, nn.ConvTranspose2d)]
    widths = list(zip(reversed(down), [0, *reversed(down[:-1])], [512, *ours[:-1]], strict=True))
    assert [m.in_channels for m in ups] == [skip + before for _, skip, before in widths]
    assert skip.critic_norm == plain.critic_norm == "instance"


def test_skips_carry_detail() -> None:
    """Without the bottleneck's information the known pixels still reach the output."""
    torch.manual_seed(0)
    network = SkipInpainting(ngf=4, levels=3).eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.2)  # not the small ones that training starts from
    image = torch.rand(1, 3, 32, 32)
    mask = torch.zeros(1, 1, 32, 32)
    with torch.inference_mode():
        before = network(image, mask)
        nn.init.zeros_(network.decoder[0][0].weight)  # type: ignore[index, arg-type]
        after = network(image, mask)
        moved = network(image.roll(2, dims=3), mask)
    assert not torch.allclose(before, after)
    assert not torch.allclose(after, moved)


def test_it_corrects_a_smooth_fill() -> None:
    torch.manual_seed(0)
    network = SkipInpainting(ngf=4, levels=3, mask_input=True, prefilled=True).eval()
    image, mask = torch.rand(1, 3, 32, 32), torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    last = network.decoder[-1][0]  # type: ignore[index]
    with torch.inference_mode():
        predicted = network(image, mask)
        nn.init.zeros_(last.weight)  # type: ignore[arg-type]
        smooth = network(image, mask)
        other = network(image * (1 - mask), mask)
    torch.testing.assert_close(smooth, prefill(image, mask, levels=3, sweeps=2))
    torch.testing.assert_close(smooth, other)
    assert not torch.allclose(predicted, smooth)


def test_composite_keeps_what_is_known() -> None:
    image, mask = torch.rand(1, 3, 4, 4), (torch.rand(1, 1, 4, 4) > 0.5).float()
    filled = composite_hole(torch.full_like(image, 2.0), image, mask)
    torch.testing.assert_close(filled, torch.where(mask > 0, torch.full_like(image, 2.0), image))


def test_sides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 8"):
        SkipInpainting(ngf=2, levels=3)(torch.rand(1, 3, 12, 16), torch.zeros(1, 1, 12, 16))


# --- training ------------------------------------------------------------------------------------


def tiny(folder: Path, **changes: Any) -> InpaintTask:
    recipe = {table: dict(TINY.get(table, {})) for table in ("model", "data", "loss")}
    recipe["data"]["portraits"] = (str(folder),)
    for key, value in changes.items():
        table, _, name = key.partition("_")
        recipe[table][name] = value
    return build(recipe)


def test_reconstruction_counts_the_hole_and_its_rim(portraits_folder: Path) -> None:
    image = torch.full((1, 3, 32, 32), 0.5)
    mask, hidden = torch.zeros(1, 1, 32, 32), torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    hidden[..., 10:22, 10:22] = 1
    batch = {"image": image, "mask": mask, "hidden": hidden}
    off = image + 0.1 * mask + 0.4 * (1 - mask)  # 0.2 and 0.8 of [-1, 1]
    task = tiny(portraits_folder, data_overlap=2)
    rim = 1 - 144 / 256
    expected = 0.04 * (1 + 9 * rim)
    assert task.reconstruction_loss(off, batch).item() == pytest.approx(expected, rel=1e-4)
    whole = tiny(portraits_folder, data_overlap=2, loss_region="picture", loss_distance="l1")
    expected = 0.2 * 0.25 * (1 + 9 * rim) + 0.8 * 0.75
    assert whole.reconstruction_loss(off, batch).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_network": "skip"},
        {"model_network": "skip", "data_hole": "free_form", "model_mask_input": True},
        {"model_network": "skip", "data_hole": "rectangle"},
        {"model_network": "skip", "data_hole": "polygon_chain"},
        {"model_network": "skip", "data_hole": "mixed", "data_jitter": 1.0},
        {"model_network": "skip", "model_prefilled": True, "loss_log_mse": 1.0},
        {"model_network": "coarse_to_fine", "data_hole": "free_form"},
        {"model_network": "coarse_to_fine", "data_hole": "free_form", "data_crop": 16},
        *({"model_network": "context_encoder", "model_context_model": n} for n in range(4)),
        {"model_network": "context_encoder", "data_overlap": 2},
        {"loss_kind": "relativistic"},
        {"loss_adversarial": 0.0},
    ],
)
def test_both_players_learn(portraits_folder: Path, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    task = tiny(portraits_folder, **changes)
    batch = task.sample(np.random.default_rng(0), 2)
    again = task.sample(np.random.default_rng(0), 2)
    assert all(torch.equal(batch[name], again[name]) for name in batch)
    for turn in task.turns:
        players = [task.networks[name] for name in turn.networks]
        players_weights = [p for player in players for p in player.parameters() if p.requires_grad]
        optimiser = torch.optim.Adam(players_weights, lr=2e-3)
        values = []
        for _ in range(6):
            loss, _ = turn.loss(batch)
            optimiser.zero_grad()
            loss.backward()
            assert all(p.grad is not None for p in players_weights)
            optimiser.step()
            values.append(loss.item())
        assert values[-1] < values[0]


def test_validation_names_its_baselines(portraits_folder: Path, tmp_path: Path) -> None:
    task = tiny(portraits_folder)
    networks = {name: network.eval() for name, network in task.networks.items()}
    with torch.no_grad():
        figures = task.validate(networks, tmp_path, 0)
    for prefix in ("", "telea_", "mean_face_"):
        assert {prefix + name for name in ("psnr", "ssim", "l1", "psnr_picture")} <= set(figures)
        assert figures[prefix + "psnr_picture"] > figures[prefix + "psnr"]
    (sheet,) = task.pictures(networks).values()
    assert sheet.shape == (3 * 32, 2 * 32, 3)


def test_weights_to_start_from(portraits_folder: Path, tmp_path: Path) -> None:
    changes = {"model_mask_input": True, "model_prefilled": True, "data_hole": "free_form"}
    first = tiny(portraits_folder, **changes).networks["inpainting"]
    file = tmp_path / "w.safetensors"
    save_file(first.state_dict(), file)
    started = tiny(portraits_folder, **changes, model_weights=str(file)).networks["inpainting"]
    changes = {"model_network": "coarse_to_fine", "data_hole": "free_form"}
    both = tiny(portraits_folder, **changes, model_coarse_weights=str(file))
    coarse = both.networks["inpainting"].coarse
    assert isinstance(coarse, SkipInpainting)
    for name, value in first.state_dict().items():
        torch.testing.assert_close(started.state_dict()[name], value)
        torch.testing.assert_close(coarse.state_dict()[name], value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_network": "unet"}, "skip, context_encoder"),
        ({"data_hole": "star"}, "centre, rectangle"),
        ({"model_network": "context_encoder", "data_hole": "rectangle"}, "half the side"),
        ({"data_size": 36}, "multiples of 8"),
        ({"data_overlap": 8}, "leaves nothing"),
        ({"data_hole": "mixed", "data_hole_side": 32}, "below the size"),
        ({"data_hole": "free_form", "data_crop": 16}, "coarse_to_fine"),
        ({"model_network": "coarse_to_fine", "data_crop": 16}, "holes anywhere"),
        ({"model_network": "coarse_to_fine", "data_size": 48}, "multiples of 32"),
        ({"loss_kind": "wasserstein"}, "gradient penalty"),
    ],
)
def test_bad_recipes_are_refused(
    portraits_folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        tiny(portraits_folder, **changes)
