"""Size and work of every network: parameters, stored values and multiply-adds.

    python benchmarks/quality/network_costs.py [--out docs/networks.md] [--only NAME]

Networks are built without memory (torch's fake tensors) and one forward pass of one sample is
counted: products of convolutions and matrices by `torch.utils.flop_counter`, two operations for a
multiply-add; Fourier transforms of N real points as 2.5 N log2(N) operations (half a complex
transform's, Cooley and Tukey 1965). Additions, norms, activations and resampling are not counted,
as papers do not count them either.

To add a network, add a line to `ENTRIES`. What `training/models` has and the table has not is named
below it.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import math
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from revisage.training import models

MODELS = "revisage.training.models"
NONE_FOUND = "none found"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One row."""

    name: str
    build: str  # "module:Class" or "module:Class.method" below `training.models`
    # Of one sample: a tuple is a tensor's shape, a list holds shapes; anything else goes as it is.
    inputs: tuple[Any, ...]
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the constructor
    call: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # named ones of the call
    stated: str = NONE_FOUND  # what the authors' paper or code says, in million
    source: str = ""  # where it says so


def square(size: int, channels: int = 3) -> tuple[int, int, int, int]:
    return (1, channels, size, size)


STORED = {"randomize_noise": False}  # StyleGAN2 with its stored noise
LAMA = "the authors' code, values of its state dict"
SMP = "segmentation_models.pytorch, values of its state dict"
TORCHVISION = "torchvision's model less its classifier"

# ruff: noqa: E501  (a row is a line)
ENTRIES: tuple[Entry, ...] = (
    # wrinkles: find
    Entry("UNet++ (ResNeXt-50), paper", "unetpp:UNetPlusPlus", (square(512),), stated="48.53", source=SMP),
    Entry("U-Net (ResNeXt-50), paper", "unet:UNet", (square(512),)),
    Entry("DeepLabV3 (ResNeXt-50), paper", "deeplabv3:DeepLabV3", (square(512),)),
    Entry("wrinkle segmenter, compact", "wrinkle_segmenter:CompactSegmenter", (square(512),)),
    # wrinkles: fill
    Entry("LaMa, 18 blocks", "lama:LamaGenerator", (square(256, 4),), {"n_blocks": 18}, stated="51.06", source=LAMA),
    Entry("LaMa, 9 blocks", "lama:LamaGenerator", (square(256, 4),)),
    Entry("LaMa discriminator", "lama:LamaDiscriminator", (square(256),)),
    Entry("wrinkle filler, compact", "wrinkle_filler:CompactFiller", (square(512), square(512, 1))),
    # blemishes
    Entry("StyleGAN2 1024, paper", "stylegan2:StyleGAN2.paper", ([(1, 512)],), call=STORED),
    Entry("StyleGAN2 discriminator 1024, paper", "stylegan2:StyleGAN2Discriminator.paper", (square(1024),)),
    Entry("StyleGAN2 256, compact", "stylegan2:StyleGAN2.compact", ([(1, 128)],), call=STORED),
    Entry("StyleGAN2 discriminator 256, compact", "stylegan2:StyleGAN2Discriminator.compact", (square(256),)),
    Entry("StyleGAN2-ADA 1024", "stylegan2_ada:NvStyleGAN2", ((1, 512), None), {"z_dim": 512, "c_dim": 0, "w_dim": 512, "img_resolution": 1024}),
    Entry("StyleRetoucher 1024, paper", "style_retoucher:StyleRetoucher.paper", (square(1024),)),
    Entry("StyleRetoucher 256, compact", "style_retoucher:StyleRetoucher.compact", (square(256),)),
    Entry("pSp 1024, paper", "psp:Psp.paper", (square(1024),)),
    Entry("pSp 256, compact", "psp:Psp.compact", (square(256),)),
    Entry("AutoRetouch-style, crop, paper", "autoretouch:AutoRetouch.paper", (square(256),)),
    Entry("AutoRetouch-style, compact", "autoretouch:AutoRetouch.compact", (square(256),)),
    Entry("ABPN 1024, paper", "abpn:ABPN.paper", (square(1024),), {"levels": 1}),
    Entry("ABPN 256, compact", "abpn:ABPN.compact", (square(256),)),
    Entry("pix2pixHD global generator, paper", "pix2pixhd:GlobalGenerator.paper", (square(512),)),
    Entry("pix2pixHD global generator, compact", "pix2pixhd:GlobalGenerator.compact", (square(256),)),
    Entry("pix2pixHD local enhancer 1024, paper", "pix2pixhd:LocalEnhancer.paper", (square(1024),)),
    Entry("pix2pixHD local enhancer, compact", "pix2pixhd:LocalEnhancer.compact", (square(256),)),
    Entry("pix2pixHD discriminator 1024, paper", "pix2pixhd:MultiscaleDiscriminator.paper", (square(1024, 6),)),
    Entry("pix2pixHD discriminator, compact", "pix2pixhd:MultiscaleDiscriminator.compact", (square(256, 6),)),
    Entry("modelscope blemish detection", "skin_retouching:DetectionUNet", (square(768),)),
    Entry("modelscope inpainting, tile", "skin_retouching:InpaintingUNet", (square(576), square(576, 1))),
    Entry("modelscope blend layer", "skin_retouching:BlendUNet", (square(512),)),
    # live
    Entry("live retoucher", "live:LiveRetoucher.compact", (square(256),)),
    # unmask
    Entry("unmask DMFN, paper", "masked_cyclegan:UnmaskGenerator.paper", (square(256),)),
    Entry("unmask ResNet, paper", "masked_cyclegan:UnmaskGenerator.paper", (square(256),), {"body": "resnet"}),
    Entry("unmask StarGAN, paper", "masked_cyclegan:UnmaskGenerator.paper", (square(256),), {"body": "stargan"}),
    Entry("unmask dilated, paper", "masked_cyclegan:UnmaskGenerator.paper", (square(256),), {"body": "dilated"}),
    Entry("unmask, compact", "masked_cyclegan:UnmaskGenerator.compact", (square(256),)),
    Entry("critic StarGAN", "critics:StarGANCritic", (square(256),), {"size": 256}),
    Entry("critic RED", "critics:RegionEnsembleCritic", (square(256),), {"size": 256}),
    Entry("critic PatchGAN", "cyclegan:NLayerDiscriminator", (square(256),)),
    Entry("critic PixelGAN", "cyclegan:PixelDiscriminator", (square(256),)),
    Entry("CycleGAN ResNet, paper", "cyclegan:ResnetGenerator.paper", (square(256),)),
    Entry("CycleGAN ResNet, compact", "cyclegan:ResnetGenerator.compact", (square(256),)),
    Entry("pix2pix U-Net, paper", "cyclegan:UnetGenerator.paper", (square(256),)),
    Entry("pix2pix U-Net, compact", "cyclegan:UnetGenerator.compact", (square(256),)),
    Entry("StarGAN generator, paper", "stargan:StarGANGenerator.paper", (square(128), (1, 5))),
    Entry("StarGAN generator, compact", "stargan:StarGANGenerator.compact", (square(128), (1, 5))),
    Entry("StarGAN discriminator, paper", "stargan:StarGANDiscriminator", (square(128),)),
    Entry("DMFN generator, paper", "dmfn:DMFNGenerator.paper", (square(256, 4),)),
    Entry("DMFN generator, compact", "dmfn:DMFNGenerator.compact", (square(256, 4),)),
    Entry("DMFN discriminator, paper", "dmfn:DMFNDiscriminator.paper", (square(128), square(256))),
    # inpaint
    *(
        Entry(f"Context-Encoder model {i}, {size}", f"context_encoder:ContextEncoder.{size}", (square(128), square(128, 1)), {"model": i})
        for i in range(4)
        for size in ("paper", "compact")
    ),
    Entry("Context-Encoder critic", "context_encoder:HoleCritic", (square(64),)),
    Entry("skip inpainting, paper", "skip_inpainting:SkipInpainting.paper", (square(128), square(128, 1))),
    Entry("skip inpainting, compact", "skip_inpainting:SkipInpainting.compact", (square(256), square(256, 1))),
    Entry("coarse-to-fine inpainting", "coarse_to_fine:CoarseToFine", (square(256), square(256, 1))),
    # restore
    Entry("WarpNet, paper", "gfrnet_warpnet:WarpNet.paper", (square(256), square(256))),
    Entry("WarpNet, compact", "gfrnet_warpnet:WarpNet.compact", (square(256), square(256))),
    Entry("WarpNet, later version", "gfrnet_warpnet:PyramidWarpNet.paper", (square(256), square(256))),
    Entry("WarpNet, later version, compact", "gfrnet_warpnet:PyramidWarpNet.compact", (square(256), square(256))),
    Entry("RecNet, paper", "gfrnet:RecNet", (square(256, 6),)),
    Entry("RecNet, compact", "folded_unet:FoldedRecNet", (square(256, 6),)),
    Entry("GFRNet, paper", "gfrnet:GFRNet.paper", (square(256), square(256))),
    Entry("GFRNet, compact", "gfrnet:GFRNet.compact", (square(256), square(256))),
    Entry("GFRNet discriminator, whole face", "gfrnet:RestorationDiscriminator.paper", (square(256),)),
    Entry("GFRNet discriminator, part", "gfrnet:RestorationDiscriminator.paper", (square(64),), {"part": True}),
    # faces
    Entry("face finder", "face_finder:FaceFinder", (square(256),)),
    Entry("face landmarks", "face_landmarks:FaceLandmarks", (square(128),)),
    # losses and metrics
    Entry("VGG-19 trunk", "perceptual_trunks:VggTrunk", (square(256), frozenset({"pool5"})), {"depth": 19}, stated="20.02", source=TORCHVISION),
    Entry("VGG-16 trunk (VGG-Face)", "perceptual_trunks:VggTrunk", (square(256), frozenset({"pool5"})), {"depth": 16}, stated="14.71", source=TORCHVISION),
    Entry("AlexNet trunk", "perceptual_trunks:AlexNetTrunk", (square(256), frozenset({"relu5"})), stated="2.47", source=TORCHVISION),
    Entry("dilated ResNet-50", "perceptual_trunks:DilatedResNet50", (square(256), frozenset({"layer4"}))),
    Entry("Inception of the FID", "inception:FidInception", (square(299),)),
)  # fmt: skip

# Classes that are parts of networks in the table, or that networks are made of.
PARTS = frozenset(
    {
        "abpn.AdaptiveBlend", "abpn.BlendPyramid", "abpn.LocalRetouching",
        "cyclegan.ResnetBlock", "dmfn.DMFB", "face_landmarks.InvertedResidual", "ffc.FFC",
        "ffc.FFCBlock", "ffc.FFCResidualBlock", "ffc.FourierUnit", "ffc.SpectralTransform",
        "folded_unet.FoldedUNet",
        "perceptual_trunks.SequentialTrunk", "psp.PspEncoder", "resnext.ResNeXt50",
        "stargan.StarGANResidualBlock", "style_retoucher.FeatureSelection",
        "style_retoucher.LatentHead", "style_retoucher.SemanticEncoder", "stylegan2.ConvLayer",
        "stylegan2.EqualConv2d", "stylegan2.EqualLinear", "stylegan2.ModulatedConv2d",
        "stylegan2.ResidualBlock",
    }
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a network weighs and what one forward pass of one sample multiplies."""

    parameters: int
    values: int  # of the state dict: parameters and buffers
    multiply_adds: float
    inputs: str


def _transform_work(shape: Sequence[int], dimensions: Sequence[int]) -> int:
    points = math.prod(shape[d] for d in dimensions)
    return round(2.5 * math.prod(shape) * math.log2(points))


def _real_to_complex(shape: Sequence[int], dimensions: Sequence[int], *_: Any, **__: Any) -> int:
    return _transform_work(shape, dimensions)


def _complex_to_real(
    shape: Sequence[int], dimensions: Sequence[int], _norm: int, last: int, **__: Any
) -> int:
    whole = list(shape)
    whole[dimensions[-1]] = last
    return _transform_work(whole, dimensions)


FOURIER = {
    torch.ops.aten._fft_r2c: _real_to_complex,
    torch.ops.aten._fft_c2r: _complex_to_real,
}


def build(entry: Entry) -> nn.Module:
    """The network of a row, in eval mode."""
    module, _, path = entry.build.partition(":")
    made: Any = importlib.import_module(f"{MODELS}.{module}")
    for name in path.split("."):
        made = getattr(made, name)
    network: nn.Module = made(**entry.arguments)
    return network.eval().requires_grad_(False)


def _inputs(given: Sequence[Any]) -> list[Any]:
    made: list[Any] = []
    for item in given:
        if isinstance(item, tuple):
            made.append(torch.zeros(item))
        elif isinstance(item, list):
            made.append([torch.zeros(shape) for shape in item])
        else:
            made.append(item)
    return made


def _shapes(given: Sequence[Any]) -> str:
    flat = [s for item in given for s in (item if isinstance(item, list) else [item])]
    return ", ".join("x".join(map(str, s[1:])) for s in flat if isinstance(s, tuple))


def cost(entry: Entry) -> Cost:
    """Build a network without memory and count."""
    counter = FlopCounterMode(display=False, custom_mapping=FOURIER)
    with FakeTensorMode(), torch.no_grad():
        network = build(entry)
        with counter:
            network(*_inputs(entry.inputs), **entry.call)
    return Cost(
        sum(p.numel() for p in network.parameters()),
        sum(v.numel() for v in network.state_dict().values()),
        counter.get_total_flops() / 2,
        _shapes(entry.inputs),
    )


def missing_networks() -> list[str]:
    """Public network classes of `training.models` without a row, as "module.Class"."""
    built = {entry.build.replace(":", ".") for entry in ENTRIES}
    listed = {".".join(path.split(".")[:2]) for path in built} | PARTS
    found = []
    for info in pkgutil.iter_modules(models.__path__):
        module = importlib.import_module(f"{MODELS}.{info.name}")
        for name in getattr(module, "__all__", ()):
            made = getattr(module, name)
            if not (inspect.isclass(made) and issubclass(made, nn.Module)):
                continue
            own = made.__module__.removeprefix(f"{MODELS}.")
            if own == info.name and f"{own}.{name}" not in listed:
                found.append(f"{own}.{name}")
    return found


def table(entries: Sequence[Entry]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| network | input | parameters (M) | stored values (M) | multiply-adds (G) | stated (M) | by |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for entry in entries:
        found = cost(entry)
        lines.append(
            f"| {entry.name} | {found.inputs} | {found.parameters / 1e6:.2f} "
            f"| {found.values / 1e6:.2f} | {found.multiply_adds / 1e9:.2f} "
            f"| {entry.stated} | {entry.source} |"
        )
        print(lines[-1], file=sys.stderr)
    return "\n".join(lines)


HEADER = """# What the networks cost

Printed by `python benchmarks/quality/network_costs.py --out docs/networks.md`, which says how it
counts. One sample, one forward pass; a transform of N real points counts as 1.25 N log2(N)
multiply-adds. Stored values are the parameters and the buffers of the state dict. "Stated" is what
the paper or the authors' code says in million values; none found means that no such figure was
found, not that there is none.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, help="Markdown file to write")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    options = parser.parse_args()
    text = table([entry for entry in ENTRIES if options.only in entry.name])
    missing = missing_networks()
    if missing and not options.only:
        text += "\n\nWithout a row: " + ", ".join(f"`{name}`" for name in missing) + "."
    if options.out:
        options.out.write_text(HEADER + text + "\n")
    print(text)


if __name__ == "__main__":
    main()
