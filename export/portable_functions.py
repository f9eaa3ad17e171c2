"""Bodies of standard operators for the nodes of the domain `revisage`.

An exported graph holds one node for each of our kernels: `FftConv`, `FlowWarp`, `FeatureBlend`. Its
meaning is an ONNX model-local function of that name, which lies in the same file: an engine that
knows nothing of us inlines it and sees standard operators only (ONNX Runtime and TensorRT's parser
do), and one that has a kernel of that name runs that instead (ONNX Runtime, where the library of
`revisage.kernels.onnxruntime_library` is registered).

A body is what torch's exporter makes of the modules here, so it has the operators that the same
lines would have had inside the network, for any size and number of channels.

The matrices of a Fourier transform depend on a map's size only, and a network has many units of one
size: a node `FourierMatrices` makes them for all of these. Our kernel takes them and needs none.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, nn
from torch.nn import functional

from revisage.export.torch_export import OPSET, exported_model
from revisage.training.models.ffc import (
    fourier_matrices,
    irfft2_by_matrices,
    rfft2_by_matrices,
)

__all__ = ["DOMAIN", "VERSION", "attach_functions"]

DOMAIN, VERSION = "revisage", 1


class _FourierMatrices(nn.Module):
    """The matrices of the size of a map."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return fourier_matrices(x)


class _FftConv(nn.Module):
    """LaMa's Fourier unit by matrix products."""

    def forward(
        self,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        shift: Tensor,
        across: Tensor,
        down: Tensor,
        back: Tensor,
    ) -> Tensor:
        scaled = weight * scale[:, None]
        spectrum = rfft2_by_matrices(x, across, down)
        mixed = torch.relu(functional.conv2d(spectrum, scaled[:, :, None, None], shift))
        return irfft2_by_matrices(mixed, down, back)


class _FlowWarp(nn.Module):
    """A warp by GridSample, whose positions are relative to the size of the picture."""

    def forward(self, image: Tensor, flow: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        moved = functional.interpolate(
            flow.permute(0, 3, 1, 2), (height, width), mode="bilinear", align_corners=False
        )
        x = torch.arange(width, dtype=torch.float32)
        y = torch.arange(height, dtype=torch.float32)
        # 2 / (size - 1); a side of one pixel has no second one to be relative to.
        across = 2 / (x[-1:]).clamp_min(1)
        down = 2 / (y[-1:]).clamp_min(1)
        at_x = (moved[:, 0] + x) * across - 1
        at_y = (moved[:, 1] + y[:, None]) * down - 1
        places = torch.stack((at_x, at_y), dim=-1)
        return functional.grid_sample(image, places, padding_mode="border", align_corners=True)


class _FeatureBlend(nn.Module):
    """StyleRetoucher's blend. Entry 0 of a softmax over a pair is the sigmoid of its difference."""

    def forward(
        self, style: Tensor, image: Tensor, spatial: Tensor, channel: Tensor, strength: Tensor
    ) -> Tensor:
        by_pixel = torch.sigmoid(spatial[:, :1] - spatial[:, 1:])
        by_channel = strength * torch.sigmoid(channel[:, 0] - channel[:, 1])[:, :, None, None]
        return by_pixel * by_channel * style + (1 - by_pixel) * (1 - by_channel) * image


@dataclasses.dataclass(frozen=True)
class _Source:
    """A body as a torch module: what its inputs are called, and their sizes."""

    module: Callable[[], nn.Module]
    inputs: dict[str, tuple[str | int, ...]]
    attributes: tuple[str, ...] = ()  # those that a node of the body takes from the function's
    outputs: tuple[str, ...] = ("result",)


# A size is a number, a symbol, or twice a symbol.
_MATRICES = {"across": ("W", "2*V"), "down": ("2*H", "2*H"), "back": ("2*V", "W")}
_SOURCES = {
    "FourierMatrices": _Source(
        _FourierMatrices, {"x": ("N", "C", "H", "W")}, outputs=tuple(_MATRICES)
    ),
    "FftConv": _Source(
        _FftConv,
        {
            "x": ("N", "C", "H", "W"),
            "weight": ("2*D", "2*C"),
            "scale": ("2*D",),
            "shift": ("2*D",),
            **_MATRICES,
        },
    ),
    "FlowWarp": _Source(
        _FlowWarp, {"image": ("N", "C", "H", "W"), "flow": ("N", "h", "w", 2)}, ("padding_mode",)
    ),
    "FeatureBlend": _Source(
        _FeatureBlend,
        {
            "style": ("N", "C", "H", "W"),
            "image": ("N", "C", "H", "W"),
            "spatial_logits": ("N", 2, "H", "W"),
            "channel_logits": ("N", 2, "C"),
            "strength": (),
        },
    ),
}
_EXAMPLE_SIZES = {"N": 2, "C": 3, "D": 5, "H": 8, "W": 10, "V": 6, "h": 4, "w": 6}


def attach_functions(model: onnx.ModelProto) -> None:
    """Give `model` the function of every node of our domain that it has, and the domain's version.

    Nodes of our domain that are no kernel of ours are left for `check_portable` to refuse.
    """
    _share_matrices(model.graph)
    used = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    del model.functions[:]
    model.functions.extend(_function(name) for name in sorted(used & set(_SOURCES)))
    if used:
        model.opset_import.add(domain=DOMAIN, version=VERSION)


def _share_matrices(graph: onnx.GraphProto) -> None:
    """One node `FourierMatrices` for all Fourier units on maps of one size.

    Sizes are those that the exporter inferred; a map of unknown size gets matrices of its own.
    """
    sizes = {
        value.name: tuple(d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim[2:])
        for value in (*graph.input, *graph.value_info)
    }
    made: dict[object, list[str]] = {}
    nodes = []
    for node in graph.node:
        if node.domain == DOMAIN and node.op_type == "FftConv" and len(node.input) == 4:
            (x, *_) = node.input
            size = sizes.get(x, ())
            key = size if len(size) == 2 and all(size) else x
            if key not in made:
                made[key] = [f"fourier_matrices.{len(made)}.{name}" for name in _MATRICES]
                nodes.append(helper.make_node("FourierMatrices", [x], made[key], domain=DOMAIN))
            node.input.extend(made[key])
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


@functools.cache
def _function(name: str) -> onnx.FunctionProto:
    source = _SOURCES[name]
    dimensions = {symbol: torch.export.Dim(symbol) for symbol in _EXAMPLE_SIZES}
    graph = exported_model(
        source.module().eval(),
        tuple(
            torch.rand([_size(size, _EXAMPLE_SIZES) for size in shape])
            for shape in source.inputs.values()
        ),
        dynamic_shapes=tuple(
            {axis: _size(size, dimensions) for axis, size in enumerate(shape) if size != 2}
            for shape in source.inputs.values()
        ),
        input_names=list(source.inputs),
        output_names=list(source.outputs),
    ).graph
    constants = [
        helper.make_node("Constant", [], [tensor.name], value=tensor)
        for tensor in graph.initializer
    ]
    function = helper.make_function(
        DOMAIN,
        name,
        list(source.inputs),
        list(source.outputs),
        [*constants, *graph.node],
        [helper.make_opsetid("", OPSET)],
        list(source.attributes),
    )
    for node in function.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        for attribute in node.attribute:
            if attribute.name in source.attributes:
                attribute.CopyFrom(
                    onnx.AttributeProto(
                        name=attribute.name, type=attribute.type, ref_attr_name=attribute.name
                    )
                )
    return function


def _size(size: str | int, symbols: Mapping[str, Any]) -> Any:
    if isinstance(size, int):
        return size
    return 2 * symbols[size[2:]] if size.startswith("2*") else symbols[size]
