"""Skin retouching of modelscope: same keys, same numbers, same blending."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from revisage.training.importers import from_state_dict
from revisage.training.models.skin_retouching import (
    BlendUNet,
    DetectionUNet,
    InpaintingUNet,
    SkinRetoucher,
    blend_layer_over,
    border_fade,
    face_square,
    join_tiles,
    keep_mask,
    retouch_locally,
    soft_light,
    split_tiles,
    strengthened,
    whitening_layer,
)
from tests.training.parity import close, fixtures

TOLERANCE = 2e-4  # the fixtures' own float32 noise is about 3e-6


def test_network_fixtures() -> None:
    """Whatever network they are: the state is recognised, and called with the inputs in order."""
    found = 0
    for fill, meta, arrays in fixtures("msr_*.json"):
        if not meta["networks"]:
            continue
        found += 1
        ((part, _),) = meta["networks"].items()
        state = fill.state_dict_torch(meta, part)
        network = from_state_dict(state)
        assert not network.training
        assert list(network.state_dict()) == list(state)
        inputs = [torch.from_numpy(arrays[name]) for name in arrays if name.startswith("in")]
        (wanted,) = [arrays[name] for name in arrays if name.startswith("out")]
        with torch.inference_mode():
            close(network(*inputs), wanted, TOLERANCE)
    assert found


def test_blend_fixtures() -> None:
    for _, meta, arrays in fixtures("msr_blend*.json"):
        assert not meta["networks"]
        roi, layer = torch.from_numpy(arrays["roi"]), torch.from_numpy(arrays["mg_small"])
        strengths = [name.removeprefix("pred_u8_") for name in arrays if "pred_u8" in name]
        assert strengths
        for strength in strengths:
            picture, used = blend_layer_over(roi, layer, float(strength.replace("_", ".")))
            close(used[0].permute(1, 2, 0), arrays[f"mg_smooth_{strength}"], 1e-6)
            close(picture[0].permute(1, 2, 0), arrays[f"pred_{strength}"], 1e-6)
            found = (picture[0].permute(1, 2, 0) * 255).byte().numpy()
            wanted = arrays[f"pred_u8_{strength}"]
            # Truncation turns a last bit of float32 into a step.
            differs = found != wanted
            assert np.abs(found.astype(int) - wanted).max() <= 1
            assert differs.mean() < 1e-3
        big = torch.from_numpy(arrays["big"])
        tiles = split_tiles(big, 64, 8)
        close(tiles, arrays["patches"], 0)
        close(join_tiles(tiles, 1, 2, 8), arrays["aggregated"], 0)
        fade = border_fade()
        close(fade[250], arrays["diffuse_mask_row250"], 1e-7)
        close(fade[:30, :30], arrays["diffuse_mask_corner"], 1e-7)


@pytest.mark.parametrize("network", [DetectionUNet, InpaintingUNet, BlendUNet])
def test_every_size_comes_back(network: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    made = network(5, 2, width=4).eval()
    again = from_state_dict(made.state_dict())
    assert type(again) is network
    image, mask = torch.rand(1, 5, 64, 128), torch.ones(1, 1, 64, 128)
    inputs = [image[:, :4], mask] if network is InpaintingUNet else [image]
    with torch.inference_mode():
        out = made(*inputs)
        torch.testing.assert_close(again(*inputs), out, atol=0, rtol=0)
    assert out.shape == (1, 2, 64, 128)


def test_a_joint_checkpoint_gives_either_network() -> None:
    joint = {
        **{f"inpainting_net.{k}": v for k, v in InpaintingUNet(width=2).state_dict().items()},
        **{f"detection_net.{k}": v for k, v in DetectionUNet(width=2).state_dict().items()},
    }
    assert isinstance(from_state_dict(joint, "skin_inpainting"), InpaintingUNet)
    assert isinstance(from_state_dict(joint, "skin_detection"), DetectionUNet)


def test_deep_supervision_and_odd_sizes() -> None:
    torch.manual_seed(0)
    network = BlendUNet(width=2, deep_supervision=True).eval()
    with torch.inference_mode():
        layer, *heads = network(torch.rand(1, 3, 37, 50))
    assert [tuple(head.shape) for head in heads] == [(1, 3, 37, 50)] * 4
    assert 0 < float(layer.min()) < float(layer.max()) < 1
    assert [key for key, _ in network.named_children()][-4:] == [
        "dsoutc4",
        "dsoutc3",
        "dsoutc2",
        "dsoutc1",
    ]


def test_sizes_that_do_not_halve_are_errors() -> None:
    with pytest.raises(ValueError, match="multiples of 64"):
        DetectionUNet(width=2)(torch.zeros(1, 3, 64, 100))
    with pytest.raises(ValueError, match="multiples of 8"):
        split_tiles(torch.zeros(1, 1, 8, 12), 8, 2)


def test_the_mask_keeps_doubtful_pixels_in_part() -> None:
    found = keep_mask(torch.tensor([0.0, 0.34, 0.35, 0.4, 0.5, 1.0]))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, 0.65, 0.6, 0.0, 0.0]))


def test_soft_light() -> None:
    x = torch.linspace(0, 1, 11)
    torch.testing.assert_close(soft_light(x, torch.full_like(x, 0.5)), x)
    torch.testing.assert_close(soft_light(x, torch.zeros_like(x)), x**2)
    torch.testing.assert_close(soft_light(x, torch.ones_like(x)), 1 - (1 - x) ** 2)
    torch.testing.assert_close(strengthened(x, 0.0), torch.full_like(x, 0.5))
    torch.testing.assert_close(strengthened(x, 10.0)[[0, 5, 10]], torch.tensor([0.0, 0.5, 1.0]))


def test_tiles_of_a_batch_come_back() -> None:
    image = torch.rand(2, 3, 24, 16)
    tiles = split_tiles(image, 8, 3)
    assert tiles.shape == (12, 3, 14, 14)
    torch.testing.assert_close(tiles[3][:, 3:-3, 3:-3], image[1, :, :8, 8:])
    torch.testing.assert_close(join_tiles(tiles, 3, 2, 3), image)


def test_local_retouching_changes_only_what_was_found() -> None:
    class Left(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.full_like(x[:, :1], -9.0)
            logits[..., : x.shape[-1] // 2] = 9.0
            return logits

    class Grey(torch.nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            assert not bool((x * (1 - mask)).any())  # what is cut out is not shown
            return torch.full_like(x, 0.25)

    torch.manual_seed(0)
    image = torch.rand(1, 3, 40, 600) * 2 - 1
    out = retouch_locally(Left(), Grey(), image)
    torch.testing.assert_close(out[..., 300:], image[..., 300:], atol=0, rtol=0)
    torch.testing.assert_close(out[..., :300], torch.full_like(image[..., :300], 0.25))


def test_the_pipeline_leaves_the_border_alone() -> None:
    torch.manual_seed(0)
    network = BlendUNet(width=1).eval()
    image = torch.rand(1, 3, 100, 80) * 2 - 1
    out = SkinRetoucher(network)(image)
    same = SkinRetoucher(network)(image, 0.0)
    torch.testing.assert_close(same, (image + 1) / 2)
    change = (out - same).abs()
    # The first of 100 rows shows the third of the mask's 500: a tenth of the full change.
    assert float(change[..., 0, :].mean()) < 0.2 * float(change[..., 40:60, :].mean())
    with pytest.raises(ValueError, match="belong together"):
        SkinRetoucher(network, detection=network)(image)


def test_squares_and_whitening() -> None:
    assert face_square((40, 50, 80, 110), 400, 300) == (15, 35, 105, 125)
    assert face_square((0, 0, 40, 60), 70, 60) == (0, 0, 60, 70)
    skin = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    layer = whitening_layer(skin, 1.0)
    torch.testing.assert_close(layer[0, :, 0, 0], torch.full((3,), 0.5))
    torch.testing.assert_close(layer[0, :, 0, 1], torch.tensor([0.7, 0.65, 0.65]))
