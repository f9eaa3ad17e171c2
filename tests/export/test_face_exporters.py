"""Exporters of unmasking, inpainting and guided restoration, with small seeded networks.

Exporters build their networks at full width; here `compact` and `paper` are narrowed, and every
layer kept.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from revisage.bundle import Bundle
from revisage.engines import open_engine
from revisage.engines.profile import Profile
from revisage.engines.tensorrt import build_engine
from revisage.errors import CheckpointError
from revisage.export import export_named, inpaint, pictures, restore, unmask
from revisage.export.exporters import EXPORTERS
from revisage.export.onnx_from_torch import check_portable
from revisage.export.reference_set import (
    degraded,
    reference_flows,
    reference_guides,
    reference_holes,
    reference_pictures,
    with_worn_masks,
)
from revisage.kernels import flow_warp
from revisage.training.importers import read_network, save_imported
from revisage.training.models import dmfn, lama
from revisage.training.models.coarse_to_fine import CoarseToFine
from revisage.training.models.gfrnet import GFRNet
from revisage.training.models.gfrnet_warpnet import PyramidWarpNet, WarpNet, warp
from revisage.training.models.masked_cyclegan import UnmaskGenerator
from revisage.training.models.skip_inpainting import SkipInpainting
from tests.support import needs_tensorrt_rtx

Tensor = torch.Tensor
Run = Callable[[Any, Tensor, Tensor], tuple[Tensor, ...]]


def unmasked(network: UnmaskGenerator, image: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    made = network(2 * image - 1)
    return (made.image + 1) / 2, made.mask


def filled(network: nn.Module, image: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    return (network(image, mask),)


def filled_by_ffc(network: nn.Module, image: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    return (lama.composite(network, image, mask)[0],)


def filled_by_dmfn(network: nn.Module, image: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    return ((dmfn.composite(network, 2 * image - 1, mask)[0] + 1) / 2,)


def restored(network: GFRNet, image: Tensor, guide: Tensor) -> tuple[Tensor, ...]:
    return network(image, guide)[:2]


def warped(network: WarpNet, image: Tensor, guide: Tensor) -> tuple[Tensor, ...]:
    return (warp(guide, network(image, guide)),)


def warped_by_pyramid(network: PyramidWarpNet, image: Tensor, guide: Tensor) -> tuple[Tensor, ...]:
    return (warp(guide, network(2 * image - 1, 2 * guide - 1)[0]),)


# Exporter: a narrow network of the same layers, how it is run, sides.
CASES: dict[str, tuple[Callable[[], nn.Module], Run, tuple[tuple[int, int], ...]]] = {
    "unmask": (lambda: UnmaskGenerator("folded", width=8, blocks=2), unmasked, ((64, 40), (8, 96))),
    "unmask_paper": (lambda: UnmaskGenerator(width=4, blocks=2), unmasked, ((36, 52),)),
    "inpaint_free_form": (
        lambda: lama.LamaGenerator(ngf=4, n_blocks=1),
        filled_by_ffc,
        ((40, 56), (104, 24)),
    ),
    "inpaint_free_form_paper": (
        lambda: lama.LamaGenerator(ngf=2, n_blocks=1),
        filled_by_ffc,
        ((72, 40),),
    ),
    "lama": (
        lambda: lama.LamaGenerator(ngf=4, n_downsampling=2, n_blocks=1),
        filled_by_ffc,
        ((20, 28),),
    ),
    "dmfn": (lambda: dmfn.DMFNGenerator(nf=4, n_res=1), filled_by_dmfn, ((20, 36),)),
    "inpainting": (
        lambda: CoarseToFine(ngf=4, stem=8, width=8, blocks=1),
        filled,
        ((64, 192), (192, 128)),
    ),
    "skip_inpainting": (
        lambda: SkipInpainting(ngf=4, levels=6, mask_input=True),
        filled,
        ((64, 192), (192, 128)),
    ),
    "skip_inpainting_paper": (lambda: SkipInpainting(ngf=4, levels=5), filled, ((96, 32),)),
    "gfrnet": (
        lambda: GFRNet(
            warpnet="pyramid", warp_ngf=4, recnet="folded", rec_ngf=2, reach=0.25, reduced=4
        ),
        restored,
        ((256, 512), (512, 256)),
    ),
    "gfrnet_paper": (lambda: GFRNet(warp_ngf=2, rec_ngf=2, levels=8), restored, ((256, 512),)),
    "gfrnet_warpnet": (lambda: WarpNet(ngf=2, levels=4), warped, ((48, 80),)),
    "gfrnet_pyramid_warpnet": (lambda: PyramidWarpNet(ngf=4), warped_by_pyramid, ((64, 192),)),
}
# Exporting takes seconds, so one exporter of each network goes all the way.
WHOLE = (
    "unmask",
    "inpainting",
    "inpaint_free_form",
    "skip_inpainting",
    "gfrnet",
    "gfrnet_paper",
)
IMPORTED = {"lama", "dmfn", "gfrnet_warpnet", "gfrnet_pyramid_warpnet"}


def seeded(name: str) -> nn.Module:
    torch.manual_seed(3)
    network = CASES[name][0]()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def weights_of(name: str, folder: Path) -> Path:
    file = folder / f"{name}.safetensors"
    save_file({key: value.clone() for key, value in seeded(name).state_dict().items()}, file)
    if name in IMPORTED:
        save_imported(read_network(file, name), file, force=True)
    return file


@contextlib.contextmanager
def narrowed(name: str) -> Iterator[pytest.MonkeyPatch]:
    """Exporters build the narrow network of a case, and run few small references."""
    with pytest.MonkeyPatch.context() as patch:
        for network in (UnmaskGenerator, SkipInpainting, GFRNet):
            patch.setattr(network, "compact", lambda: seeded(name))
            patch.setattr(network, "paper", lambda: seeded(name))
        patch.setattr(inpaint, "CoarseToFine", lambda: seeded(name))
        patch.setattr(inpaint, "FREE_FORM", {"ngf": 4, "n_blocks": 1})
        patch.setattr(inpaint, "FREE_FORM_PAPER", {"ngf": 2, "n_blocks": 1})
        for module in (inpaint, restore, unmask):
            patch.setattr(module, "REFERENCES", 1)
        for module in (inpaint, unmask):
            patch.setattr(module, "PAPER_REFERENCE_SIZE", 64)
        yield patch


@pytest.fixture(scope="module", params=WHOLE)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    name: str = request.param
    folder = tmp_path_factory.mktemp(name)
    with narrowed(name):
        return export_named(name, folder, weights=weights_of(name, folder))


@pytest.mark.parametrize("name", CASES)
def test_what_is_exported_is_the_network_on_pictures(name: str, tmp_path: Path) -> None:
    """The module that is handed to the gate, its manifest and its references."""
    given: list[Any] = []
    with narrowed(name) as patch:
        for module in (inpaint, restore, unmask):
            patch.setattr(module, "export_bundle", lambda *things, **_: given.extend(things))
        export_named(name, tmp_path, weights=weights_of(name, tmp_path))
    network, fields, references, _ = given
    assert fields["name"] == name
    assert bool(fields["recipe"].digest) == (name not in IMPORTED)
    assert fields["licence"].startswith("LicenseRef") == (name in IMPORTED)
    for inputs in references:
        assert list(inputs) == [spec.name for spec in fields["inputs"]]
        tensors = [torch.from_numpy(array) for array in inputs.values()]
        with torch.inference_mode():
            found = network(*tensors)
            true = CASES[name][1](seeded(name), tensors[0], tensors[-1])
        found = found if isinstance(found, tuple) else (found,)
        assert len(found) == len(true) == len(fields["outputs"])
        for one, other, spec in zip(found, true, fields["outputs"], strict=True):
            assert torch.equal(one, other)
            assert spec.range[0] <= one.min() <= one.max() <= spec.range[1]


def test_the_engine_computes_what_the_network_computes(
    exported: Bundle, rng: np.random.Generator
) -> None:
    """Batches and sizes, square or not, that the exporter never saw."""
    name = exported.manifest.name
    network, (_, run, sides) = seeded(name), CASES[name]
    specs = exported.manifest.inputs
    # A step of 1 between pixels of noise turns a flow 5e-5 px off into as much of light.
    limit = 1e-4 if exported.manifest.operation == "restore" else 2e-5
    for operators in ("portable", "native"):
        with open_engine(exported, "cpu", threads=1, operators=operators) as engine:
            for batch, (height, width) in enumerate(sides, 1):
                inputs = {
                    spec.name: rng.random((batch, spec.shape[1], height, width), dtype=np.float32)
                    for spec in specs
                }
                if "mask" in inputs:
                    inputs["mask"] = np.round(inputs["mask"])
                found = engine.infer(inputs)
                tensors = [torch.from_numpy(array) for array in inputs.values()]
                with torch.inference_mode():
                    true = run(network, tensors[0], tensors[-1])
                for spec, expected in zip(exported.manifest.outputs, true, strict=True):
                    np.testing.assert_allclose(found[spec.name], expected.numpy(), atol=limit)


def test_the_graph_is_portable(exported: Bundle) -> None:
    model = onnx.load_from_string(exported.read())
    check_portable(model)
    shaped = {value.name for value in model.graph.value_info}
    shaped |= {value.name for value in (*model.graph.output, *model.graph.initializer)}
    assert not {name for node in model.graph.node for name in node.output if name} - shaped
    ours = {node.op_type for node in model.graph.node if node.domain == "revisage"}
    ours = {name for name in ours if "WinogradConv" not in name}
    operation = exported.manifest.operation
    if operation == "restore":
        assert ours == {"FlowWarp"}
    else:
        fourier = exported.manifest.name in {"inpainting", "inpaint_free_form"}
        assert ours == ({"FftConv", "FourierMatrices"} if fourier else set())


def test_tensorrt_for_rtx_builds_it(exported: Bundle) -> None:
    needs_tensorrt_rtx()
    built = build_engine(
        exported.read(),
        engine="tensorrt-rtx",
        profile=Profile.of(exported.manifest),
        compute_capabilities=("8.9",),
    )
    assert built.report.layers > 10


def test_every_exporter_is_here() -> None:
    folders = ("revisage.export.unmask:", "revisage.export.inpaint:", "revisage.export.restore:")
    assert {name for name, where in EXPORTERS.items() if where.startswith(folders)} == set(CASES)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    weights = weights_of("unmask", tmp_path)
    for name in ("unmask", "skip_inpainting", "inpaint_free_form", "gfrnet"):
        with pytest.raises(CheckpointError, match="not the weights of this network"):
            export_named(name, tmp_path / "b", weights=weights)
    with pytest.raises(CheckpointError, match="not imported as dmfn"):
        export_named("dmfn", tmp_path / "b", weights=weights)
    assert not (tmp_path / "b").exists()


# --- the reference inputs ------------------------------------------------------------------------


def test_reference_inputs_are_seeded_and_what_they_say() -> None:
    faces = reference_pictures(4, 64)
    masked, guides, worn = with_worn_masks(faces), reference_guides(faces), degraded(faces)
    for made, again in ((masked, with_worn_masks(faces)), (guides, reference_guides(faces))):
        np.testing.assert_array_equal(made, again)
    for planes in (masked, guides, worn):
        assert planes.shape == faces.shape
        assert planes.dtype == np.float32
        assert 0 <= planes.min() < planes.max() <= 1
    # A mask hides a part of the lower half, and nothing above it.
    changed = (masked != faces).any(axis=1).mean(axis=(1, 2))
    assert np.all((changed > 0.05) & (changed < 0.5))
    np.testing.assert_array_equal(masked[:, :, :32], faces[:, :, :32])
    # Detail is lost, light is not.
    assert np.abs(worn.mean(axis=(2, 3)) - faces.mean(axis=(2, 3))).max() < 0.02
    assert high_frequencies(worn[1]) != high_frequencies(faces[1])
    holes = reference_holes(6, 64)
    assert set(np.unique(holes)) == {0, 1}
    assert np.all((holes.mean(axis=(1, 2, 3)) > 0.005) & (holes.mean(axis=(1, 2, 3)) < 0.6))


def high_frequencies(picture: npt.NDArray[np.float32]) -> float:
    return float(np.abs(np.diff(picture, axis=-1)).mean())


def test_the_warp_of_a_guide_is_known() -> None:
    """A guide is the face at its flow, but for the light of each channel."""
    faces = reference_pictures(2, 64)
    flows = reference_flows(2, 64)
    for face, flow, guide in zip(faces, flows, reference_guides(faces), strict=True):
        assert 0.5 < np.abs(flow).max() <= 0.05 * 64
        moved = flow_warp(face, flow, layout="chw", impl="reference")
        ratio = guide / np.maximum(moved, 1e-3)
        inside = (moved > 0.05) & (guide < 1)
        for channel in range(3):
            assert np.ptp(ratio[channel][inside[channel]]) < 1e-3


def test_picture_tolerances_leave_no_room_for_a_visible_step() -> None:
    for precisions in pictures.TOLERANCES.values():
        assert precisions["fp32"].max_abs <= 0.5 / 255
        assert all(limit.mean_abs <= 0.5 / 255 for limit in precisions.values())
