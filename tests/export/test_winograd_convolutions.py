"""Convolutions as nodes of our own: which are taken, and that both readings agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from revisage import kernels
from revisage.bundle import Bundle
from revisage.engines import open_engine
from revisage.export import export_bundle
from revisage.export.half_storage import store_as_half
from revisage.export.onnx_from_torch import onnx_from_torch
from revisage.export.winograd_convolutions import LEAST_CHANNELS, use_winograd
from revisage.manifest import Tolerance
from tests.export.toy_network import IMAGE, toy_fields, toy_references

WIDE = LEAST_CHANNELS
SIDE = 32
LIBRARY = kernels.onnxruntime_library()


def convolution(**options: Any) -> nn.Conv2d:
    settings = {"kernel_size": 3, "padding": 1, **options}
    return nn.Conv2d(settings.pop("inside", WIDE), settings.pop("outside", WIDE), **settings)


class Network(nn.Module):
    """[N, 3, H, W] -> [N, 3, H, W] with `middle` between two convolutions that stay."""

    def __init__(self, middle: nn.Module, outside: int = WIDE) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, WIDE, 1)
        self.middle, self.last = middle, nn.Conv2d(outside, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(self.middle(self.first(x)))
        return made


class Block(nn.Module):
    """What surrounds a convolution, written as a function of it and its input."""

    def __init__(self, write: Callable[[nn.Conv2d, Tensor], Tensor], **options: Any) -> None:
        super().__init__()
        self.convolution, self.write = convolution(**options), write

    def forward(self, x: Tensor) -> Tensor:
        return self.write(self.convolution, x)


def exported(network: nn.Module) -> onnx.ModelProto:
    torch.manual_seed(0)
    x, y = (dataclasses.replace(IMAGE, name=name) for name in ("x", "y"))
    example = {"x": torch.randn(2, 3, SIDE, SIDE)}
    return onnx_from_torch(network.eval(), example, [x], [y], multiple_of=4)


def ours(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.domain == "revisage"]


def outputs(model: onnx.ModelProto, x: np.ndarray, *, native: bool) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    if native:
        options.register_custom_ops_library(str(LIBRARY))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"x": x})
    return np.asarray(found)


REFLECTED = {"padding_mode": "reflect"}
TAKEN = {
    "WinogradConv": Block(lambda conv, x: conv(x).tanh()),
    "WinogradConvRelu": Block(lambda conv, x: conv(x).relu(), bias=False),
    "WinogradConvLeakyRelu": Block(lambda conv, x: functional.leaky_relu(conv(x), 0.2)),
    "WinogradConvRelu6": Block(lambda conv, x: functional.relu6(conv(x))),
    "WinogradConvAdd": Block(lambda conv, x: (x + conv(x)).tanh()),
    "WinogradConvAddRelu": Block(lambda conv, x: (x + conv(x)).relu()),
    "WinogradConvReluAdd": Block(lambda conv, x: x + conv(x).relu()),
    "PadWinogradConv": Block(lambda conv, x: conv(x).tanh(), **REFLECTED),
    "PadWinogradConvAddReluAdd": Block(lambda conv, x: x + (conv(x) + x).relu(), **REFLECTED),
}


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_fused(name: str, rng: np.random.Generator) -> None:
    plain = exported(Network(TAKEN[name]))
    model = use_winograd(plain, SIDE)
    assert ours(model) == [name]
    assert [function.name for function in model.functions] == [name]
    kept = {node.op_type for node in model.graph.node}
    assert kept.isdisjoint({"Pad", "Relu", "LeakyRelu", "Clip", "Add"})
    for n, h, w in ((1, SIDE, SIDE), (3, 8, 12)):
        x = rng.standard_normal((n, 3, h, w), np.float32)
        before = outputs(plain, x, native=False)
        # Without our kernel it is the very same graph.
        np.testing.assert_array_equal(outputs(model, x, native=False), before)
        if LIBRARY is not None:
            found = outputs(model, x, native=True)
            np.testing.assert_allclose(found, before, atol=2e-5)


LEFT = {
    "few inputs": nn.Sequential(nn.Conv2d(WIDE, WIDE - 1, 1), convolution(inside=WIDE - 1)),
    "stride": nn.Sequential(convolution(stride=2), nn.Upsample(scale_factor=2)),
    "dilation": convolution(dilation=2, padding=2),
    "groups": convolution(groups=2),
    "few pixels": nn.Sequential(nn.AvgPool2d(4), convolution(), nn.Upsample(scale_factor=4)),
    "size": convolution(kernel_size=5, padding=2),
    "another padding": convolution(padding_mode="replicate"),
    "no padding": nn.Sequential(nn.ReplicationPad2d(1), convolution(padding=0)),
}


@pytest.mark.parametrize("reason", LEFT)
def test_what_is_left_alone(reason: str) -> None:
    plain = exported(Network(LEFT[reason]))
    assert use_winograd(plain, SIDE) == plain


def test_additions_that_broadcast_stay_outside(rng: np.random.Generator) -> None:
    plain = exported(Network(Block(lambda conv, x: (conv(x) + x.mean((2, 3), True)).relu())))
    model = use_winograd(plain, SIDE)
    assert ours(model) == ["WinogradConv"]
    x = rng.standard_normal((2, 3, 8, 12), np.float32)
    if LIBRARY is not None:
        found = outputs(model, x, native=True)
        np.testing.assert_allclose(found, outputs(plain, x, native=False), atol=2e-5)


class TwoReaders(nn.Module):
    """A value that two nodes read cannot vanish inside one, nor can a Pad of two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = convolution(padding=0), convolution(padding=0)

    def forward(self, x: Tensor) -> Tensor:
        around = functional.pad(x, (1, 1, 1, 1), mode="reflect")
        left = self.left(around)
        return torch.relu(left) * (left + self.right(around)).relu() + x


def test_values_that_others_read_stay(rng: np.random.Generator) -> None:
    plain = exported(Network(TwoReaders()))
    model = use_winograd(plain, SIDE)
    assert sorted(ours(model)) == ["PadWinogradConv", "PadWinogradConvAddRelu"]
    assert "Pad" not in {node.op_type for node in model.graph.node}
    x = rng.standard_normal((1, 3, 12, 16), np.float32)
    before = outputs(plain, x, native=False)
    np.testing.assert_array_equal(outputs(model, x, native=False), before)
    if LIBRARY is not None:
        np.testing.assert_allclose(outputs(model, x, native=True), before, atol=2e-5)


def test_weights_stored_as_half_precision_are_packed_all_the_same(
    rng: np.random.Generator,
) -> None:
    wide = nn.Sequential(nn.Conv2d(WIDE, 16, 1), convolution(inside=16, outside=16), nn.Tanh())
    model = use_winograd(exported(Network(wide, outside=16)), SIDE)
    assert ours(model) == ["WinogradConv"]
    x = rng.standard_normal((1, 3, 8, 12), np.float32)
    before = outputs(model, x, native=False)
    store_as_half(model)
    assert sum(node.op_type == "Cast" for node in model.graph.node) == 1
    for native in [False] if LIBRARY is None else [False, True]:
        np.testing.assert_allclose(outputs(model, x, native=native), before, atol=2e-3)


def test_a_bundle_is_certified_both_ways_and_lower_graphs_are_plain(tmp_path: Path) -> None:
    torch.manual_seed(0)
    body = nn.Sequential(convolution(**REFLECTED), nn.ReLU(), convolution(), nn.Tanh())

    class Filler(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Network(body)

        def forward(self, image: Tensor, mask: Tensor) -> Tensor:
            filled: Tensor = mask * torch.sigmoid(self.body(image)) + (1 - mask) * image
            return filled

    tolerances = {"fp32": Tolerance(1e-5, 1e-6), "fp16": Tolerance(0.05, 0.01)}
    fields = toy_fields(tolerances={"onnxruntime-cpu": tolerances})
    bundle = export_bundle(Filler(), fields, toy_references(), tmp_path, precisions=["fp16"])
    model = onnx.load_from_string(bundle.read_graph("fp32"))
    assert ours(model) == ["PadWinogradConvRelu", "WinogradConv"]
    assert not ours(onnx.load_from_string(bundle.read_graph("fp16")))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert sum(array.nbytes for array in weights.values()) < 4 * 2 * 9 * WIDE * WIDE + 4096
    if LIBRARY is None:
        return
    errors = bundle.certificate.errors
    assert set(errors) >= {"onnxruntime-cpu", "onnxruntime-cpu+native"}
    with open_engine(Bundle.open(tmp_path / "toy"), operators="native") as engine:
        assert engine.operators == {"WinogradConv": "native"}
