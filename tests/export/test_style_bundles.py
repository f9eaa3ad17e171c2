"""StyleRetoucher, its prior and the live network: other layers in the graph, the same pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from revisage.bundle import Bundle
from revisage.engines import open_engine
from revisage.errors import CheckpointError
from revisage.export import export_named
from revisage.export.portable_layers import portable_form
from revisage.kernels import onnxruntime_library
from revisage.training.importers import read_network, save_imported
from revisage.training.models.live import LiveRetoucher
from revisage.training.models.style_retoucher import BLENDS, StyleRetoucher
from revisage.training.models.stylegan2 import StyleGAN2

SIDE = 32
Network = TypeVar("Network", bound=nn.Module)


def seeded(network: Network, change: float = 0.2) -> Network:
    """No parameter, mean or variance at the value that hides a mistake."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in network.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2.0, generator=generator)
        elif tensor.is_floating_point() and not name.endswith("kernel"):
            tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=change)
    return network.eval()


def prior(*channels: int) -> StyleGAN2:
    torch.manual_seed(0)
    channels = channels or (40, 24, 12, 6)
    return StyleGAN2(4 << (len(channels) - 1), style_dim=12, n_mlp=2, channels=channels)


def retoucher(blend: str = "both") -> StyleRetoucher:
    return seeded(StyleRetoucher(prior(), blend))


def saved(network: nn.Module, path: Path) -> Path:
    tensors = {key: value.clone().contiguous() for key, value in network.state_dict().items()}
    save_file(tensors, path)
    return path


def imported(network: nn.Module, folder: Path) -> Path:
    """Weights as `revisage import` writes them."""
    trained = saved(network, folder / "weights.safetensors")
    return save_imported(read_network(trained), folder / "imported.safetensors")


@pytest.mark.parametrize("blend", BLENDS)
def test_exchanged_layers_compute_the_same(blend: str) -> None:
    network = retoucher(blend)
    image = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    strength = torch.tensor([1.0, 1.0, 1.0, 1.0])
    if blend in ("channel", "both"):
        strength = torch.tensor([1.0, 0.3, 0.0, 1.0])
    with torch.inference_mode():
        true, found = (n(image, strength) for n in (network, portable_form(network)))
    assert true.std() > 0.05
    torch.testing.assert_close(found, true, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(("widths", "head"), [((4, 8), 3), ((6, 6, 10), 8)])
def test_the_live_network_in_blocks_computes_the_same(widths: tuple[int, ...], head: int) -> None:
    torch.manual_seed(0)
    network = seeded(LiveRetoucher(widths, (1,) * (len(widths) - 1), head))
    image = torch.rand(2, 3, 24, 40, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        true, found = network(image), portable_form(network)(image)
    for one, other in zip(true, found, strict=True):
        assert one.std() > 0.02
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-5)


def test_values_between_the_layers_fit_into_float16() -> None:
    """Styles and weights a thousand times as large do not make the convolutions' sums larger."""
    network = prior()
    with torch.no_grad():
        for layer in (network.conv1, *network.convs):
            layer.conv.weight.mul_(1000)
            layer.conv.modulation.bias.mul_(1000)
    largest = 0.0

    def watch(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal largest
        largest = max(largest, inputs[0].abs().max().item(), output.abs().max().item())

    form = portable_form(network)
    for module in form.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(watch)
    latent = torch.randn(2, network.n_latent, network.style_dim)
    with torch.inference_mode():
        found, _ = form.synthesise(latent, network.stored_noise())  # type: ignore[operator]
        true, _ = network.synthesise(latent, network.stored_noise())
    assert 0 < largest < 200
    torch.testing.assert_close(found, true, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles")
    return export_named("style_retoucher_paper", folder, weights=imported(retoucher(), folder))


@pytest.mark.parametrize("operators", ["portable", "native"])
def test_every_picture_has_a_strength_of_its_own(
    bundle: Bundle, operators: str, rng: np.random.Generator
) -> None:
    if operators == "native" and onnxruntime_library() is None:
        pytest.skip("built without ONNX Runtime's headers, so there are no custom operators")
    network = retoucher()
    image = rng.random((3, 3, SIDE, SIDE), dtype=np.float32)
    strengths = [0.25, 1.0, 0.0]
    with open_engine(bundle, "cpu", threads=1, operators=operators) as engine:
        assert engine.operators == {"FeatureBlend": operators, "WinogradConv": operators}
        found = engine.infer({"image": image, "strength": np.array(strengths, np.float32)})
        alone = engine.infer({"image": image[:1], "strength": np.array([0.25], np.float32)})
    np.testing.assert_array_equal(alone["retouched"], found["retouched"][:1])
    for index, strength in enumerate(strengths):
        with torch.inference_mode():
            true = network(torch.from_numpy(image[index : index + 1]), strength).clamp(0, 1)
        assert np.abs(found["retouched"][index] - true[0].numpy()).max() < 2e-5


def test_the_retouchers_bundle_says_what_it_takes(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.operation, manifest.size, manifest.working_size) == (
        "blemishes",
        "paper",
        SIDE,
    )
    assert [(spec.name, spec.shape) for spec in manifest.inputs] == [
        ("image", ("N", 3, SIDE, SIDE)),
        ("strength", ("N",)),
    ]
    assert bundle.certificate.errors["onnxruntime-cpu"]["fp32"]["retouched"]["max_abs"] < 2e-5


def test_nodes_and_values_bear_the_names_of_modules(bundle: Bundle) -> None:
    graph = onnx.load_from_string(bundle.read()).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    assert {
        "retoucher.encoder.stem.0/Conv",
        "retoucher.prior.convs.0.conv/ConvTranspose",
        "retoucher.selection.1/FeatureBlend",
        "retoucher.prior.to_rgbs.2/MatMul",
    } <= set(names)
    known = {value.name for value in (*graph.input, *graph.initializer)}
    for node in graph.node:
        assert set(node.input) <= known | {""}
        assert node.output[0] in {node.name, "retouched"}
        known |= set(node.output)
    shapes = {value.name: value.type.tensor_type.shape.dim for value in graph.value_info}
    weights = {tensor.name for tensor in graph.initializer}
    dense = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
    assert len(dense) > 20
    for node in dense:
        assert node.input[1] in weights  # one for the whole batch
        batch, _, height, _ = shapes[node.output[0]]
        assert batch.dim_param
        assert height.dim_value


def test_a_retoucher_is_recognised_with_its_blend(tmp_path: Path) -> None:
    for blend in BLENDS:
        network = retoucher(blend)
        found = read_network(saved(network, tmp_path / f"{blend}.safetensors"))
        assert found.architecture == "style_retoucher"
        assert found.arguments["blend"] == blend
        assert found.arguments["channels"] == [40, 24, 12, 6]
        for key, value in found.network.state_dict().items():
            assert torch.equal(value, network.state_dict()[key])


def test_a_blend_without_strength_is_refused(tmp_path: Path) -> None:
    weights = imported(retoucher("spatial"), tmp_path)
    with pytest.raises(CheckpointError, match="blend 'spatial', which has no channel masks"):
        export_named("style_retoucher_paper", tmp_path, weights=weights)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    weights = saved(prior(), tmp_path / "prior.safetensors")
    with pytest.raises(CheckpointError, match="not imported as style_retoucher"):
        export_named("style_retoucher_paper", tmp_path, weights=weights)
    for name in ("style_retoucher", "live"):
        with pytest.raises(CheckpointError, match="not the weights of this network"):
            export_named(name, tmp_path, weights=weights)


def test_an_imported_generator_exports(tmp_path: Path, rng: np.random.Generator) -> None:
    network = seeded(prior(20, 10))
    torch.save({"g_ema": network.state_dict()}, tmp_path / "published.pt")
    found = read_network(tmp_path / "published.pt")
    weights = save_imported(found, tmp_path / "stylegan2.safetensors")
    made = export_named("stylegan2", tmp_path / "bundles", weights=weights)
    latent = rng.standard_normal((3, network.n_latent, network.style_dim)).astype(np.float32)
    with open_engine(made, "cpu", threads=1) as engine, torch.inference_mode():
        found = engine.infer({"latent": latent})["picture"]
        true, _ = network.synthesise(torch.from_numpy(latent), network.stored_noise())
    np.testing.assert_allclose(found, ((true + 1) / 2).clamp(0, 1).numpy(), atol=2e-5)


def test_the_live_network_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr("revisage.export.live.WORKING_SIZE", 64)
    torch.manual_seed(0)
    network = seeded(LiveRetoucher.compact(), 0.02)
    weights = saved(network, tmp_path / "live.safetensors")
    made = export_named("live", tmp_path, weights=weights)
    assert (made.manifest.operation, made.manifest.size) == ("retouch", "live")
    with open_engine(made, "cpu", threads=1) as engine:
        for batch, height, width in ((1, 64, 64), (3, 32, 80)):
            image = rng.random((batch, 3, height, width), dtype=np.float32)
            with torch.inference_mode():
                true = network(torch.from_numpy(image))
            found = engine.infer({"image": image})
            for name, output in zip(("delta", "mask"), true, strict=True):
                np.testing.assert_allclose(found[name], output.numpy(), atol=2e-5)
