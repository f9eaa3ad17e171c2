"""Importing checkpoints: the parity fixtures load and agree, and what does not fit is refused."""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from revisage.errors import CheckpointError, OutputError
from revisage.training.importers import (
    ARCHITECTURES,
    _recognise,
    from_checkpoint,
    from_state_dict,
    read_network,
    save_imported,
)
from revisage.training.importers.checkpoint_reader import (
    StoredTensor,
    read_checkpoint,
)
from revisage.training.metrics.lpips import Lpips
from revisage.training.models import cyclegan, dmfn, pix2pixhd, skin_retouching, stargan
from revisage.training.models.deeplabv3 import DeepLabV3
from revisage.training.models.gfrnet_warpnet import PyramidWarpNet, WarpNet
from revisage.training.models.lama import LamaDiscriminator, LamaGenerator
from revisage.training.models.style_retoucher import StyleRetoucher
from revisage.training.models.stylegan2 import StyleGAN2, StyleGAN2Discriminator
from revisage.training.models.stylegan2_ada import NvStyleGAN2
from revisage.training.models.unet import UNet
from revisage.training.models.unetpp import UNetPlusPlus
from tests.support import shared_folder
from tests.training.lama_checkpoints import (
    same_weights,
    save_bare,
    save_legacy,
    save_parameters,
    save_safetensors,
    save_zip,
    small_lama,
    write_checkpoint,
)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path)


# --- the published layouts -----------------------------------------------------------------------


def fixture_maker() -> tuple[Path, ModuleType]:
    folder = shared_folder("fixtures", "parity")
    spec = importlib.util.spec_from_file_location("parity_fill", folder / "fill.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return folder, module


@pytest.mark.parametrize(
    ("name", "part", "given", "expected", "kind"),
    [
        ("lama_g_ngf8_b4", "generator", "in0", "out0", LamaGenerator),
        ("lama_d_ndf8_l3", "discriminator", "real", "pred_real", LamaDiscriminator),
        ("unetpp_resnext50_c1_32", "net", "in_x", "out_y", UNetPlusPlus),
    ],
)
def test_published_layouts_agree(
    name: str, part: str, given: str, expected: str, kind: type[nn.Module]
) -> None:
    folder, fill = fixture_maker()
    meta, arrays = fill.load_fixture(str(folder / f"{name}.json"))
    network = from_state_dict(fill.state_dict_torch(meta, part))
    assert isinstance(network, kind)
    assert not network.training
    with torch.inference_mode():
        found = network(torch.from_numpy(arrays[given]))
    found = found[0] if isinstance(found, tuple) else found
    assert np.abs(found.numpy() - arrays[expected]).max() < 2e-4


@pytest.mark.parametrize("form", ["plain", "foreign"])
def test_real_checkpoint_files_give_the_published_pixels(form: str, tmp_path: Path) -> None:
    from revisage.training.models.lama import inpaint_reference

    folder = shared_folder("fixtures", "parity")
    imported = read_network(folder / f"lama_e2e_ngf8_b3.{form}.ckpt")
    assert imported.architecture == "lama"
    assert imported.arguments["ngf"] == 8
    assert imported.arguments["n_blocks"] == 3
    assert any(key.startswith("discriminator.") for key in imported.ignored)
    again = from_checkpoint(save_imported(imported, tmp_path / "lama.safetensors"))
    assert same_weights(again, imported.network)
    arrays = np.load(folder / "lama_e2e_ngf8_b3.npz")
    filled = inpaint_reference(again, arrays["image_u8"].transpose(1, 2, 0), arrays["mask_u8"])
    wanted = arrays["out_u8"].transpose(1, 2, 0)
    # Truncated, not rounded: a value on the edge of a step may fall to either side.
    assert np.abs(filled.astype(int) - wanted).max() <= 1
    assert (filled != wanted).mean() < 1e-3


# --- sizes are told from the tensors -------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"input_nc": 5, "output_nc": 1},
        {"ngf": 6, "n_downsampling": 3, "n_blocks": 2},
        {"n_downsampling": 1},
        {"n_blocks": 0},
        {"ratio": 0.5},
        {"ratio": 0.3},
        {"n_downsampling": 3, "max_features": 16},
        {"stem_ratio": 0.25, "down_ratio": 0.25},
    ],
)
def test_every_size_is_recovered(changes: dict[str, Any]) -> None:
    network = small_lama(**changes)
    again = from_state_dict(network.state_dict())
    assert same_weights(network, again)
    x = torch.rand(1, changes.get("input_nc", 4), 16, 32)
    with torch.inference_mode():
        assert torch.equal(network(x), again(x))


def test_unetpp_sizes_are_recovered() -> None:
    torch.manual_seed(0)
    network = UNetPlusPlus(4, 2, (32, 16)).eval()
    again = from_state_dict(network.state_dict())
    assert same_weights(network, again)


@pytest.mark.parametrize(
    "prefix", ["generator.", "", "module.generator.", "generator.module.", "module."]
)
def test_known_prefixes_are_found(prefix: str) -> None:
    network = small_lama()
    again = from_state_dict({prefix + k: v for k, v in network.state_dict().items()})
    assert same_weights(network, again)


def test_the_wanted_network_is_taken(checkpoint: Path) -> None:
    assert isinstance(from_checkpoint(checkpoint), LamaGenerator)
    assert isinstance(from_checkpoint(checkpoint, "lama_discriminator"), LamaDiscriminator)
    with pytest.raises(CheckpointError, match="holds no unetpp, but lama, lama_discriminator"):
        from_checkpoint(checkpoint, "unetpp")
    with pytest.raises(CheckpointError, match=r"no network 'x'; known: lama"):
        from_checkpoint(checkpoint, "x")


# --- file formats --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "save", [save_zip, save_legacy, save_bare, save_parameters, save_safetensors]
)
def test_every_format_gives_the_same_network(
    save: Callable[[Any, Path], None], tmp_path: Path
) -> None:
    network = small_lama()
    save(network.state_dict(), tmp_path / "file.bin")
    assert same_weights(from_checkpoint(tmp_path / "file.bin"), network)


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    state = {
        k: v.half() if v.is_floating_point() else v for k, v in small_lama().state_dict().items()
    }
    torch.save(state, tmp_path / "half.pt")
    network = from_checkpoint(tmp_path / "half.pt")
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_views_and_shared_storages_are_read_as_saved(tmp_path: Path) -> None:
    base = torch.arange(24.0)
    views = {
        "part": base[4:10],
        "turned": base.view(4, 6).t(),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "bytes": torch.arange(5, dtype=torch.uint8),
        "brain": torch.ones(3, dtype=torch.bfloat16),
    }
    for legacy in (False, True):
        torch.save(views, tmp_path / "v.pt", _use_new_zipfile_serialization=not legacy)
        content = read_checkpoint(tmp_path / "v.pt").content
        for name, tensor in views.items():
            assert isinstance(content[name], StoredTensor)
            assert torch.equal(content[name].load(), tensor)
            assert content[name].load().is_contiguous()


# --- clear refusals ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"hello", "not a checkpoint"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 100, "not a checkpoint"),
        (pickle.dumps({"a": 1}), "a pickle that torch did not write"),
        (struct.pack("<Q", 1 << 60) + b"{}", "safetensors"),
        (struct.pack("<Q", 2) + b"{x", "safetensors"),
    ],
    ids=["empty", "text", "picture", "pickle", "huge header", "bad header"],
)
def test_a_file_that_is_no_checkpoint_is_refused(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        from_checkpoint(path)


def test_a_zip_that_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "office.docx", "w") as archive:
        archive.writestr("word/document.xml", "<a/>")
    with pytest.raises(CheckpointError, match=r"without torch's data\.pkl"):
        from_checkpoint(tmp_path / "office.docx")
    with pytest.raises(CheckpointError, match="cannot be read"):
        from_checkpoint(tmp_path / "nothing.ckpt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        from_checkpoint(tmp_path)


def test_keys_that_do_not_fit_are_listed() -> None:
    state = small_lama().state_dict()
    head = max(k for k in state if k.endswith("bias") and state[k].shape == (3,))
    missing = {k: v for k, v in state.items() if k != head}
    with pytest.raises(CheckpointError, match=f"missing keys: {head}"):
        from_state_dict(missing)
    with pytest.raises(CheckpointError, match=r"unknown keys: surprise\.weight"):
        from_state_dict({**state, "surprise.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"wrong shapes: .*\[5\] instead of \[3\]"):
        from_state_dict({**state, head: torch.zeros(5)})
    many = {f"surprise.{i:02}": torch.zeros(1) for i in range(20)}
    with pytest.raises(CheckpointError, match=r"surprise\.07 and 12 more"):
        from_state_dict({**state, **many})


def test_counters_that_old_versions_did_not_store_may_be_missing() -> None:
    state = small_lama().state_dict()
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    assert same_weights(from_state_dict(old), small_lama())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(bad: float) -> None:
    state = small_lama().state_dict()
    state["model.1.ffc.convl2l.weight"][0, 0, 0, 0] = bad
    with pytest.raises(CheckpointError, match="not finite"):
        from_state_dict(state)


def test_absurd_sizes_are_refused_before_memory_is_taken() -> None:
    state: dict[str, Any] = {k: v.to("meta") for k, v in small_lama().state_dict().items()}
    state["model.1.ffc.convl2l.weight"] = torch.empty(1 << 20, 1 << 20, 7, 7, device="meta")
    with pytest.raises(CheckpointError, match="lama"):
        from_state_dict(state)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((3,), 1e300, dtype=torch.float64), "not finite"),  # in float32
        (torch.zeros(3, dtype=torch.complex64), "holds complex64, no weights"),
        (torch.zeros(3, dtype=torch.int8), "holds int8, no weights"),
        (torch.zeros(3, device="meta"), "no plain tensor"),
        (torch.zeros(3).to_sparse(), "no plain tensor"),
        (torch.zeros(0), "without values: "),
        (torch.zeros(3, 1), "wrong shapes: "),
        (None, "missing keys: "),
    ],
)
def test_a_tensor_that_is_no_weight_is_refused_by_name(value: Any, message: str) -> None:
    state: dict[Any, Any] = dict(small_lama().state_dict())
    head = max(k for k in state if k.endswith("bias") and state[k].shape == (3,))
    state[head] = value
    state[7] = torch.zeros(1)  # no name, so no part of a state dict
    with pytest.raises(CheckpointError, match=message) as caught:
        from_state_dict(state)
    assert head in str(caught.value)


def test_a_complex_counter_is_refused() -> None:
    state = small_lama().state_dict()
    counter = next(key for key in state if key.endswith("num_batches_tracked"))
    with pytest.raises(CheckpointError, match=f"{counter} holds complex64"):
        from_state_dict({**state, counter: torch.tensor(1j)})


def test_one_storage_that_is_claimed_for_everything_is_refused() -> None:
    wide = 1 << 15
    state: dict[str, Any] = {}
    for key, value in NvStyleGAN2(8, 0, 8, 8, channels=[4, 4], num_layers=2).state_dict().items():
        shape = [wide if side == 4 and not key.endswith("filter") else side for side in value.shape]
        shape[-2:] = value.shape[-2:] if key.endswith("const") else shape[-2:]
        state[key] = torch.zeros(()).expand(shape)  # one value in memory
    with pytest.raises(CheckpointError, match="at most 2000000000 are read"):
        from_state_dict(state)


def test_nothing_known(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no tensors"):
        from_state_dict([torch.zeros(2)])  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="fit no known network"):
        from_state_dict({"a.weight": torch.zeros(2)})
    torch.save({"epoch": 1}, tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match=r"none\.pt: it holds no tensors"):
        from_checkpoint(tmp_path / "none.pt")


def test_all_that_is_not_taken_is_named() -> None:
    generator, critic = small_lama().state_dict(), LamaDiscriminator(ndf=4, n_layers=2).state_dict()
    counter = next(k for k in generator if k.endswith("num_batches_tracked"))
    state = {k: v for k, v in generator.items() if k != counter}
    found = _recognise({"run": {"g_ema": state, "d": critic}, "mean": torch.zeros(2)}, None)
    assert found.architecture == "lama"
    assert found.absent == (counter,)
    assert found.others == ("lama_discriminator",)
    assert {"mean", "run.d.model0.0.weight"} < set(found.ignored)
    assert len(found.ignored) == len(critic) + 1
    said = "\n".join(found.remarks())
    assert "also there, see --network: lama_discriminator" in said
    assert counter in said


SMALL_NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "lama": small_lama,
    "lama_discriminator": lambda: LamaDiscriminator(ndf=4, n_layers=2),
    "unetpp": lambda: UNetPlusPlus(decoder_channels=(32, 16)),
    "unet": lambda: UNet(decoder_channels=(32, 16)),
    "deeplabv3": lambda: DeepLabV3(decoder_channels=8, depth=3),
    "gfrnet_warpnet": lambda: WarpNet(2, 3),
    "gfrnet_pyramid_warpnet": lambda: PyramidWarpNet(4),
    "pix2pixhd_local": lambda: pix2pixhd.LocalEnhancer(
        ngf=4, n_downsample_global=2, n_blocks_global=1, n_blocks_local=1
    ),
    "pix2pixhd_global": lambda: pix2pixhd.GlobalGenerator(ngf=2, n_downsampling=4, n_blocks=1),
    "pix2pixhd_global_3": lambda: pix2pixhd.GlobalGenerator(ngf=2, n_downsampling=3, n_blocks=1),
    "pix2pixhd_global_5": lambda: pix2pixhd.GlobalGenerator(ngf=2, n_downsampling=5, n_blocks=1),
    "pix2pixhd_discriminator": lambda: pix2pixhd.MultiscaleDiscriminator(ndf=4),
    "cyclegan_resnet": lambda: cyclegan.ResnetGenerator(ngf=4, n_blocks=2),
    "cyclegan_unet": lambda: cyclegan.UnetGenerator(ngf=2, num_downs=5),
    "cyclegan_patch": lambda: cyclegan.NLayerDiscriminator(ndf=4),
    "cyclegan_pixel": lambda: cyclegan.PixelDiscriminator(ndf=4),
    "stargan": lambda: stargan.StarGANGenerator(4, 3, 1),
    "stargan_discriminator": lambda: stargan.StarGANDiscriminator(16, 4, 3, 2),
    "dmfn": lambda: dmfn.DMFNGenerator(nf=4, n_res=1),
    "dmfn_discriminator": lambda: dmfn.DMFNDiscriminator(nf=4, size=64, hidden=8),
    "dmfb": lambda: dmfn.DMFB(8),
    "style_retoucher": lambda: StyleRetoucher(StyleGAN2(16, 8, 2, channels=[8, 6, 4])),
    "stylegan2": lambda: StyleGAN2(16, 8, 2, channels=[8, 6, 4]),
    "stylegan2_discriminator": lambda: StyleGAN2Discriminator(16, channels=[8, 6, 4]),
    "stylegan2_ada": lambda: NvStyleGAN2(8, 3, 8, 16, channels=[8, 6, 4], num_layers=2),
    "lpips": lambda: Lpips("alex"),
    "skin_detection": lambda: skin_retouching.DetectionUNet(width=4),
    "skin_inpainting": lambda: skin_retouching.InpaintingUNet(width=4),
    "skin_blend": lambda: skin_retouching.BlendUNet(width=4),
}


def test_no_architecture_is_without_a_small_network() -> None:
    assert list(SMALL_NETWORKS) == list(ARCHITECTURES)


@pytest.mark.parametrize(
    "name",
    [
        # The ResNeXt encoder has one size, a large one.
        pytest.param(name, marks=pytest.mark.slow if name in {"unetpp", "unet"} else ())
        for name in SMALL_NETWORKS
    ],
)
def test_every_architecture_goes_to_safetensors_and_back(name: str, tmp_path: Path) -> None:
    network = SMALL_NETWORKS[name]()
    path = tmp_path / f"{name}.pth"
    torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, path)
    imported = read_network(path)
    assert imported.architecture == name
    assert same_weights(imported.network, network)
    assert imported.remarks() == []
    again = read_network(save_imported(imported, path.with_suffix(".safetensors")))
    assert (again.architecture, again.arguments) == (name, imported.arguments)
    assert same_weights(again.network, network)


# --- writing -------------------------------------------------------------------------------------


def test_the_written_file_says_what_it_is(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "lama.safetensors"
    imported = read_network(checkpoint)
    assert save_imported(imported, out) == out
    with safe_open(out, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["architecture"] == "lama"
    assert LamaGenerator(**json.loads(metadata["arguments"])).state_dict().keys() == (
        imported.network.state_dict().keys()
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lama.safetensors", "last.ckpt"]
    with pytest.raises(OutputError, match="--force"):
        save_imported(imported, out)
    save_imported(imported, out, force=True)
    with pytest.raises(OutputError, match="cannot be written"):
        save_imported(imported, tmp_path / "no" / "folder.safetensors")


def test_the_command_imports_and_refuses(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from revisage.cli import main

    out = tmp_path / "lama.safetensors"
    assert main(["import", str(checkpoint), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "lama (input_nc=4" in said
    assert "also there, see --network: lama_discriminator" in said
    assert "discriminator.model0.0.bias" in said
    assert same_weights(from_checkpoint(out), small_lama())
    assert main(["import", str(checkpoint), "-o", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    (tmp_path / "bad.ckpt").write_bytes(io.BytesIO(b"no checkpoint").getvalue())
    assert main(["import", str(tmp_path / "bad.ckpt"), "-o", str(tmp_path / "x.safetensors")]) == 2
    assert "not a checkpoint" in capsys.readouterr().err
    assert main(["import", str(checkpoint), "-o", str(tmp_path / "x.onnx")]) == 2
