"""Perceptual networks: published weights from files, the stand-in, and what the losses measure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from revisage.errors import CheckpointError, RecipeError
from revisage.training.losses.perceptual import (
    KINDS,
    PerceptualNetwork,
    high_receptive_field_loss,
    perceptual_loss,
    perceptual_network,
)
from revisage.training.metrics.lpips import Lpips
from revisage.training.models.perceptual_trunks import (
    AlexNetTrunk,
    DilatedResNet50,
    SequentialTrunk,
    VggTrunk,
)


@pytest.fixture(scope="module")
def stand_in() -> PerceptualNetwork:
    return perceptual_network("stand_in")


@pytest.fixture(scope="module")
def alexnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AlexNet of random weights, as torchvision stores it."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "alexnet.pth"
    torch.save({**AlexNetTrunk().state_dict(), "classifier.1.weight": torch.zeros(4, 4)}, path)
    return path


def picture(size: int = 96) -> torch.Tensor:
    """[1, 3, size, size] of shading, an edge and grain."""
    generator = torch.Generator().manual_seed(3)
    coarse = torch.rand(1, 3, 5, 5, generator=generator)
    image = 0.2 + 0.6 * functional.interpolate(coarse, (size, size), mode="bilinear")
    image[..., size // 3 : size // 3 + 3] *= 0.6
    return (image + 0.03 * torch.randn(1, 3, size, size, generator=generator)).clamp(0, 1)


def blurred(image: torch.Tensor, side: int) -> torch.Tensor:
    padded = functional.pad(image, (side // 2,) * 4, mode="reflect")
    return functional.avg_pool2d(padded, side, 1)


# --- trunks ---------------------------------------------------------------------------------------


def test_trunks_have_the_published_sizes() -> None:
    with torch.device("meta"):
        trunks = VggTrunk(19), VggTrunk(16), AlexNetTrunk(), DilatedResNet50()
    sizes = [sum(p.numel() for p in trunk.parameters()) for trunk in trunks]
    # torchvision's vgg19, vgg16, alexnet and resnet50 less their classifiers; the last with another
    # stem: 112 832 values for 9 536, whose 128 channels in place of 64 cost 20 480 behind it.
    assert sizes == [20_024_384, 14_714_688, 2_469_696, 23_508_032 - 9_536 + 112_832 + 20_480]


def test_layers_carry_the_papers_names() -> None:
    with torch.device("meta"):
        trunk = VggTrunk(19)
    index = {name: trunk.names.index(name) for name in ("relu1_1", "relu3_1", "relu5_4", "pool5")}
    assert index == {"relu1_1": 1, "relu3_1": 11, "relu5_4": 35, "pool5": 36}


def test_dilated_stages_keep_the_size_and_see_far() -> None:
    torch.manual_seed(0)
    trunk = DilatedResNet50().eval()
    image = torch.rand(1, 3, 64, 72)
    with torch.inference_mode():
        features = trunk(image, frozenset(DilatedResNet50.names))
    assert [tuple(f.shape[1:]) for f in features.values()] == [
        (256, 16, 18),
        (512, 8, 9),
        (1024, 8, 9),
        (2048, 8, 9),
    ]
    dilations = {
        name: [block.conv2.dilation[0] for block in trunk.get_submodule(name).children()]  # type: ignore[index, union-attr]
        for name in DilatedResNet50.names
    }
    assert dilations == {
        "layer1": [1, 1, 1],
        "layer2": [1, 1, 1, 1],
        "layer3": [1, 2, 2, 2, 2, 2],
        "layer4": [2, 4, 4],
    }


def test_layers_behind_the_wanted_ones_do_not_run() -> None:
    class Forbidden(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            raise AssertionError("this layer was not asked for")

    trunk = SequentialTrunk([("first", nn.Identity()), ("second", Forbidden())])
    assert list(trunk(torch.zeros(1, 3, 4, 4), frozenset({"first"}))) == ["first"]


# --- weights from files ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "stand_in"])
def test_without_a_file_the_error_says_what_to_get(kind: str) -> None:
    with pytest.raises(RecipeError, match=r"needs its published weights; get .* 'stand_in'"):
        perceptual_network(kind)
    with pytest.raises(RecipeError, match=r"absent\.pth is not a file"):
        perceptual_network(kind, "absent.pth")


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(RecipeError, match="known: vgg19, vgg_face, alexnet"):
        perceptual_network("inception")
    with pytest.raises(RecipeError, match="known: imagenet, dmfn"):
        perceptual_network("vgg19", centring="none")


def test_alexnet_normalises_and_records(alexnet_file: Path) -> None:
    network = perceptual_network("alexnet", str(alexnet_file))
    assert network.record.startswith(f"alexnet of {alexnet_file}, sha256 ")
    image = picture()
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    wanted = network.trunk((image - mean) / deviation, frozenset(network.default_layers))
    found = network(image)
    assert list(found) == ["relu1", "relu2", "relu3", "relu4", "relu5"]
    for name, features in found.items():
        torch.testing.assert_close(features, wanted[name])


def test_dmfn_centring_is_its_code(alexnet_file: Path) -> None:
    network = perceptual_network("alexnet", str(alexnet_file), centring="dmfn")
    assert "DMFN" in network.record
    image = picture()
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1)
    shifted = (2 * image - 1 - (mean - 1)) / (2 * deviation)
    wanted = network.trunk(shifted, frozenset({"conv1"}))
    torch.testing.assert_close(network(image, ["conv1"]), wanted)


def test_alexnet_from_an_lpips_state_dict(tmp_path: Path) -> None:
    torch.manual_seed(0)
    lpips = Lpips("alex")
    torch.save(lpips.state_dict(), tmp_path / "lpips.pth")
    network = perceptual_network("alexnet", str(tmp_path / "lpips.pth"))
    image = picture()
    wanted = lpips.net(lpips.scaling_layer(2 * image - 1))
    for one, two in zip(network(image).values(), wanted, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("style", ["features.{index}", "conv{name}", "conv_{name}"])
def test_vgg_face_in_every_layout(style: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = VggTrunk(16)
    state = {"fc6.weight": torch.zeros(2, 2)}
    for index, name in enumerate(trunk.names):
        for part in ("weight", "bias"):
            key = f"features.{index}.{part}"
            if key in trunk.state_dict():
                layer = style.format(index=index, name=name.removeprefix("conv"))
                state[f"{layer}.{part}"] = trunk.state_dict()[key]
    torch.save(state, tmp_path / "face.pth")
    network = perceptual_network("vgg_face", str(tmp_path / "face.pth"))
    image = picture(32)
    mean = torch.tensor([129.1863, 104.7624, 93.5940]).reshape(1, 3, 1, 1)
    wanted = trunk((255 * image - mean).flip(1), frozenset({"relu2_2"}))["relu2_2"]
    found = network(image, ["relu2_2"])["relu2_2"]
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-4)


def test_dilated_resnet_out_of_a_lama_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trunk = DilatedResNet50().eval()
    state = {f"loss_resnet_pl.impl.{k}": v for k, v in trunk.state_dict().items()}
    state["generator.model.1.weight"] = torch.zeros(3)
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "best.ckpt")
    network = perceptual_network("resnet50_dilated", str(tmp_path / "best.ckpt"))
    one, two = picture(32), blurred(picture(32), 3)
    found = high_receptive_field_loss(network, one, two)
    first, second = network(one), network(two)
    wanted = sum(functional.mse_loss(first[name], second[name]) for name in first)
    assert list(first) == ["layer1", "layer2", "layer3", "layer4"]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("features.3.bias"), r"missing keys: features\.3\.bias"),
        (lambda s: s.update({"norm.weight": torch.zeros(1)}), r"unknown keys: norm\.weight"),
        (
            lambda s: s.update({"features.0.bias": torch.zeros(3)}),
            r"wrong shapes: features\.0\.bias \[3\] instead of \[64\]",
        ),
        (
            lambda s: s.update({"features.0.bias": torch.full((64,), torch.nan)}),
            r"features\.0\.bias holds values that are not finite",
        ),
    ],
)
def test_files_that_do_not_fit(
    change: Callable[[dict[str, torch.Tensor]], object],
    match: str,
    alexnet_file: Path,
    tmp_path: Path,
) -> None:
    state = torch.load(alexnet_file, weights_only=True)
    change(state)
    torch.save(state, tmp_path / "changed.pth")
    with pytest.raises(CheckpointError, match=match):
        perceptual_network("alexnet", str(tmp_path / "changed.pth"))


def test_files_of_something_else(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="holds no tensor of alexnet"):
        perceptual_network("alexnet", str(tmp_path / "other.pth"))
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(CheckpointError):
        perceptual_network("alexnet", str(tmp_path / "text.pth"))


# --- the stand-in ---------------------------------------------------------------------------------


def test_the_stand_in_says_what_it_is(stand_in: PerceptualNetwork, tmp_path: Path) -> None:
    assert stand_in.record.startswith("stand-in (encoders trained here, no published network)")
    assert stand_in.record.count("sha256") == 2
    with pytest.raises(RecipeError, match=r"wrinkle_segmenter\.safetensors"):
        perceptual_network("stand_in", str(tmp_path))


def test_the_stand_in_takes_any_size(stand_in: PerceptualNetwork) -> None:
    features = stand_in(torch.rand(2, 3, 37, 50))
    assert [f.shape[0] for f in features.values()] == [2] * len(stand_in.layers)
    assert features["skin2"].shape == (2, 16, 24, 32)
    assert list(stand_in(torch.rand(1, 3, 32, 32), ["face8", "skin4"])) == ["skin4", "face8"]


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_the_stand_in_sees_as_people_do(stand_in: PerceptualNetwork, distance: str) -> None:
    image = picture()

    def far(other: torch.Tensor) -> float:
        return float(perceptual_loss(stand_in, other, image, distance=distance))

    brighter, blur = image * 1.08, blurred(image, 3)
    # The brighter picture is farther in pixels, and looks more alike.
    assert float((brighter - image).abs().mean()) > float((blur - image).abs().mean())
    assert far(image) == 0
    assert far(brighter) < 0.7 * far(blur)
    assert far(blur) < far(blurred(image, 5)) < far(blurred(image, 9))
    assert far(image + 0.02 * torch.randn_like(image)) < far(image + 0.1 * torch.randn_like(image))


def test_networks_stay_frozen_and_in_eval_mode(stand_in: PerceptualNetwork) -> None:
    holder = nn.ModuleList([stand_in]).train()
    assert holder.training
    assert not any(module.training for module in stand_in.modules())
    image = picture(32).requires_grad_()
    perceptual_loss(stand_in, image, blurred(picture(32), 3)).backward()
    assert image.grad is not None
    assert float(image.grad.abs().max()) > 0
    assert all(p.grad is None and not p.requires_grad for p in stand_in.parameters())


# --- the losses -----------------------------------------------------------------------------------


def identity_network() -> PerceptualNetwork:
    trunk = SequentialTrunk([("same", nn.Identity()), ("half", nn.AvgPool2d(2))])
    return PerceptualNetwork("identity", trunk, ("same", "half"))


def test_losses_of_a_network_that_changes_nothing() -> None:
    network = identity_network()
    one, two = torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), 0.5)
    assert float(perceptual_loss(network, one, two)) == pytest.approx(0.5 + 0.5)
    assert float(perceptual_loss(network, one, two, distance="l2")) == pytest.approx(0.25 + 0.25)
    assert float(perceptual_loss(network, one, two, ["half"])) == pytest.approx(0.5)
    weighed = perceptual_loss(network, one, two, layer_weights=(3, 0.5))
    assert float(weighed) == pytest.approx(1.75)
    assert float(high_receptive_field_loss(network, one, two)) == pytest.approx(0.5)


def test_what_cannot_be_compared_is_refused() -> None:
    network, image = identity_network(), torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="no layer other; it has same, half"):
        perceptual_loss(network, image, image, ["other"])
    with pytest.raises(ValueError, match="known: l1, l2"):
        perceptual_loss(network, image, image, distance="l3")
    with pytest.raises(ValueError, match="one shape"):
        perceptual_loss(network, image, image[..., :2])
    with pytest.raises(ValueError, match="as many weights"):
        perceptual_loss(network, image, image, layer_weights=(1.0,))
    with pytest.raises(ValueError, match=r"\[N, 3, H, W\]"):
        network(torch.zeros(3, 4, 4))
