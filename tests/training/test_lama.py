"""LaMa at paper size: same keys, same numbers as advimman/lama."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from revisage.training.losses.adversarial import (
    critic_loss,
    feature_matching_loss,
    filler_adversarial_loss,
    gradient_penalty,
)
from revisage.training.losses.masked import known_missing_l1
from revisage.training.models.lama import (
    LamaDiscriminator,
    LamaGenerator,
    composite,
    inpaint_reference,
)
from tests.training.parity import close, fixtures

TOLERANCE = 2e-4  # of the fixtures; their float32 noise is below 2e-6


def _close(found: torch.Tensor, wanted: np.ndarray) -> None:
    close(found, wanted, TOLERANCE)


def test_generator_fixtures() -> None:
    for fill, meta, arrays in fixtures("lama_g_*.json"):
        network = LamaGenerator.from_configuration(meta["ctor"]).eval()
        state = fill.state_dict_torch(meta)
        assert list(network.state_dict()) == list(state)
        network.load_state_dict(state, strict=True)
        for name in [name for name in arrays if name.startswith("in")]:
            with torch.inference_mode():
                out = network(torch.from_numpy(arrays[name]))
            _close(out, arrays["out" + name[2:]])


def test_discriminator_fixtures_and_losses() -> None:
    for fill, meta, arrays in fixtures("lama_d_*.json"):
        network = LamaDiscriminator(**meta["ctor"]).eval()
        state = fill.state_dict_torch(meta)
        assert list(network.state_dict()) == list(state)
        network.load_state_dict(state, strict=True)
        real = torch.from_numpy(arrays["real"]).requires_grad_()
        fake, mask = torch.from_numpy(arrays["fake"]), torch.from_numpy(arrays["mask"])
        real_scores, real_features = network(real)
        fake_scores, fake_features = network(fake)
        _close(real_scores, arrays["pred_real"])
        _close(fake_scores, arrays["pred_fake"])
        for index, feature in enumerate(real_features):
            _close(feature.abs().mean(), arrays[f"feat_real{index}_mean_abs"])
        penalty = gradient_penalty(real_scores, real)
        _close(0.001 * penalty, arrays["r1_penalty_times_coef"])
        _close(critic_loss(real_scores, fake_scores, mask, penalty), arrays["loss_disc"])
        _close(10 * filler_adversarial_loss(fake_scores), arrays["loss_gen_adv"])
        matching = feature_matching_loss(fake_features, real_features)
        _close(matching, arrays["loss_feature_matching"])
        _close(known_missing_l1(fake, real, mask), arrays["loss_l1_known10_missing0"])


def test_prediction_script_fixtures() -> None:
    for fill, meta, arrays in fixtures("lama_e2e_*.json"):
        network = LamaGenerator.from_configuration(meta["ctor"]["generator"]).eval()
        state = fill.state_dict_torch(meta, "generator")
        assert list(network.state_dict()) == list(state)
        network.load_state_dict(state, strict=True)
        critic = LamaDiscriminator(**meta["ctor"]["discriminator"])
        critic.load_state_dict(fill.state_dict_torch(meta, "discriminator"), strict=True)
        image, mask = arrays["image_u8"].transpose(1, 2, 0), arrays["mask_u8"]
        found = inpaint_reference(network, image, mask).transpose(2, 0, 1)
        # A value at the edge between two steps may fall on either side of it.
        assert np.abs(found.astype(int) - arrays["out_u8"].astype(int)).max() <= 1
        assert (found != arrays["out_u8"]).mean() < 1e-3
        known = np.broadcast_to(mask == 0, found.shape)
        np.testing.assert_array_equal(found[known], arrays["out_u8"][known])


def test_paper_size_has_the_published_number_of_values() -> None:
    with torch.device("meta"):
        network = LamaGenerator(n_blocks=18)
    values = sum(v.numel() for v in network.state_dict().values())
    assert round(values / 1e6, 2) == 51.06


@pytest.mark.parametrize(
    ("settings", "height", "width"),
    [
        ({"ngf": 4, "n_downsampling": 2, "n_blocks": 1, "ratio": 0.5}, 12, 20),
        ({"ngf": 6, "n_downsampling": 1, "n_blocks": 2, "ratio": 0.25}, 10, 14),
        ({"ngf": 8, "n_downsampling": 3, "n_blocks": 1, "ratio": 0.0}, 16, 24),
        ({"ngf": 8, "n_downsampling": 4, "n_blocks": 1, "max_features": 32}, 32, 48),
        ({"ngf": 8, "n_blocks": 1, "stem_ratio": 0.5, "down_ratio": 0.25}, 16, 16),
        ({"ngf": 8, "n_blocks": 1, "enable_lfu": True}, 32, 32),
    ],
)
def test_other_sizes_run(settings: dict[str, Any], height: int, width: int) -> None:
    network = LamaGenerator(**settings).eval()
    with torch.inference_mode():
        out = network(torch.rand(1, 4, height, width))
    assert out.shape == (1, 3, height, width)
    assert bool((out > 0).all())
    assert bool((out < 1).all())


@pytest.mark.parametrize(("kind", "low"), [("sigmoid", 0.0), ("tanh", -1.0), (True, -1.0)])
def test_output_activation(kind: str | bool, low: float) -> None:
    network = LamaGenerator(ngf=4, n_downsampling=1, n_blocks=0, add_out_act=kind).eval()
    head = network.get_submodule("model.8")
    assert isinstance(head, torch.nn.Conv2d)
    assert head.bias is not None
    torch.nn.init.constant_(head.bias, -50.0)
    with torch.inference_mode():
        out = network(torch.rand(1, 4, 8, 8))
    torch.testing.assert_close(out, torch.full_like(out, low))


def test_without_activation_nothing_bounds_the_output() -> None:
    network = LamaGenerator(ngf=4, n_downsampling=1, n_blocks=0, add_out_act=False).eval()
    head = network.get_submodule("model.8")
    assert isinstance(head, torch.nn.Conv2d)
    assert head.bias is not None
    torch.nn.init.constant_(head.bias, -50.0)
    with torch.inference_mode():
        assert network(torch.rand(1, 4, 8, 8)).max() < -10


def test_configuration_refuses_what_it_cannot_build() -> None:
    with pytest.raises(ValueError, match="add_out_act"):
        LamaGenerator(ngf=4, add_out_act="softmax")
    with pytest.raises(ValueError, match="ratio_gin equal to ratio_gout"):
        LamaGenerator.from_configuration({"resnet_conv_kwargs": {"ratio_gin": 0.5}})
    with pytest.raises(ValueError, match="unknown gated"):
        LamaGenerator.from_configuration({"init_conv_kwargs": {"gated": True}})


class _Constant(torch.nn.Module):
    """Predicts one value, and remembers what it was shown."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value
        self.seen = torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x
        return torch.full_like(x[:, :3], self.value)


def test_reference_truncates_and_pads_symmetrically() -> None:
    image = np.arange(5 * 3 * 3, dtype=np.uint8).reshape(5, 3, 3)
    mask = np.zeros((5, 3), np.uint8)
    mask[1, 2] = 1  # any value above zero is hole
    generator = _Constant(0.5)  # 127.5 is truncated to 127
    out = inpaint_reference(generator, image, mask)
    assert out[1, 2].tolist() == [127, 127, 127]
    known = mask == 0
    # Division by 255 and back may fall just short of the step, and is then truncated below it.
    assert np.abs(out[known].astype(int) - image[known]).max() <= 1
    seen = generator.seen[0].permute(1, 2, 0).numpy()
    assert seen.shape == (8, 8, 4)
    assert seen[1, 2].tolist() == [0, 0, 0, 1]  # the hole is blanked, the mask says so
    np.testing.assert_array_equal(seen[:, 3], seen[:, 2])  # the edge pixel itself is repeated
    np.testing.assert_array_equal(seen[5], seen[4])


def test_composite_keeps_known_pixels() -> None:
    image, mask = torch.rand(2, 3, 8, 8), (torch.rand(2, 1, 8, 8) > 0.5).float()
    predicted, filled = composite(_Constant(2.0), image, mask)
    assert bool((predicted == 2).all())
    torch.testing.assert_close(filled, torch.where(mask > 0, torch.full_like(image, 2.0), image))


def test_critic_counts_fake_patches_outside_the_hole_as_real() -> None:
    real, fake = torch.full((1, 1, 4, 4), 30.0), torch.full((1, 1, 4, 4), 30.0)
    nowhere, everywhere = torch.zeros(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
    assert critic_loss(real, fake, nowhere).item() == pytest.approx(0.0, abs=1e-6)
    assert critic_loss(real, fake, everywhere).item() == pytest.approx(30.0)
    assert critic_loss(real, fake, nowhere, 500.0).item() == pytest.approx(0.5)
