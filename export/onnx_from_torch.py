"""A portable ONNX graph from a torch network.

Portable means that every engine takes the graph: the standard operators of one opset, no control
flow, no `DFT` (12 to 15 times slower than matrix products in ONNX Runtime, absent elsewhere), no
values in other files, shapes known up to the symbols that the manifest names. The only functions
are those of `portable_functions.py`, which engines without kernels of ours inline. Portable also
means that nothing of the machine that exported it stays inside: the exporter notes the source line
of every node, with its path, and that is removed.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence

import onnx
import torch
from onnx import shape_inference

from revisage.errors import EngineError, OptionError
from revisage.export.portable_functions import DOMAIN, attach_functions
from revisage.export.portable_layers import portable_form
from revisage.export.thin_convolutions import compute_on_cells
from revisage.export.torch_export import OPSET, exported_model
from revisage.manifest import TensorSpec

__all__ = ["OPSET", "check_portable", "onnx_from_torch"]

FORBIDDEN_OPERATORS = {
    "If": "control flow",
    "Loop": "control flow",
    "Scan": "control flow",
    "DFT": "slow and not portable: use training.ops.fft_conv, or matrix products",
    "STFT": "slow and not portable",
    "RandomNormal": "random",
    "RandomNormalLike": "random",
    "RandomUniform": "random",
    "RandomUniformLike": "random",
    "Dropout": "belongs to training: call eval()",
}


def _dynamic_shapes(specs: Sequence[TensorSpec], multiple_of: int) -> tuple[dict[int, object], ...]:
    """The exporter's symbols for every input; H and W are known to be multiples."""
    known: dict[str, object] = {}
    for spec in specs:
        for dimension in spec.shape:
            if isinstance(dimension, str) and dimension not in known:
                if "/" in dimension:
                    raise OptionError(f"input {spec.name!r}: {dimension!r} may only size an output")
                if dimension in {"H", "W"} and multiple_of > 1:
                    known[dimension] = multiple_of * torch.export.Dim(f"{dimension}_units", min=1)
                else:
                    known[dimension] = torch.export.Dim(dimension, min=1)
    return tuple(
        {axis: known[size] for axis, size in enumerate(spec.shape) if isinstance(size, str)}
        for spec in specs
    )


def _name_by_module(model: onnx.ModelProto) -> None:
    """Name nodes, and the values between them, by the module that they come from.

    "filler.up.0/Conv", and with a number where a module has several of a kind: so that a report on
    layers can be read beside the network.
    """
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    seen: Counter[str] = Counter()
    renamed: dict[str, str] = {}
    for node in model.graph.node:
        origin = {entry.key: entry.value for entry in node.metadata_props}
        scopes = ast.literal_eval(origin.get("pkg.torch.onnx.name_scopes", "[]"))
        module = scopes[-2] if len(scopes) > 1 else ""  # the last is the traced operation
        name = f"{module}/{node.op_type}" if module else node.op_type
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"
        for index, output in enumerate(node.output):
            if output and output not in kept:
                renamed[output] = f"{node.name}:{index}" if index else node.name
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in model.graph.value_info:
        value.name = renamed.get(value.name, value.name)


def _strip_origin(model: onnx.ModelProto) -> None:
    """Remove everything that only says where and how the graph was made."""

    def clear(item: object) -> None:
        for field in ("doc_string", "metadata_props"):
            item.ClearField(field)  # type: ignore[attr-defined]

    clear(model)
    clear(model.graph)
    for part in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.initializer,
    ):
        clear(part)
    del model.graph.value_info[:]  # made again below, without the exporter's symbol arithmetic


def _state_shapes(values: Sequence[onnx.ValueInfoProto], specs: Sequence[TensorSpec]) -> None:
    """Write the manifest's dimensions over the exporter's (`2*H_units` becomes `H/16`)."""
    by_name = {spec.name: spec for spec in specs}
    for value in values:
        shape = value.type.tensor_type.shape
        spec = by_name[value.name]
        if len(shape.dim) != len(spec.shape):
            raise EngineError(
                f"{value.name!r} has {len(shape.dim)} dimensions in the graph and "
                f"{len(spec.shape)} in the manifest"
            )
        for dim, size in zip(shape.dim, spec.shape, strict=True):
            dim.Clear()
            if isinstance(size, int):
                dim.dim_value = size
            else:
                dim.dim_param = size


def check_portable(model: onnx.ModelProto) -> None:
    """Check a graph strictly and refuse what is not portable.

    Raises:
        EngineError: names the first node that some engine would refuse.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise EngineError(f"the exported graph is not valid ONNX: {error}") from error
    ours = set()
    for function in model.functions:
        if function.domain != DOMAIN:
            raise EngineError(f"the graph defines the function {function.name!r}: inline it")
        ours.add(function.name)
    bodies = [node for function in model.functions for node in function.node]
    for node in (*model.graph.node, *bodies):
        defined = node.domain == DOMAIN and node.op_type in ours
        if node.domain not in {"", "ai.onnx"} and not defined:
            raise EngineError(f"node {node.name!r}: {node.domain}::{node.op_type} is not standard")
        if node.op_type in FORBIDDEN_OPERATORS:
            raise EngineError(
                f"node {node.name!r}: {node.op_type} is refused: "
                f"{FORBIDDEN_OPERATORS[node.op_type]}"
            )
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise EngineError(f"weight {tensor.name!r} lies in another file")


def onnx_from_torch(
    network: torch.nn.Module,
    examples: Mapping[str, torch.Tensor],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    multiple_of: int = 1,
) -> onnx.ModelProto:
    """Export a network in eval mode.

    Args:
        network: `forward` takes the inputs in the order of `inputs`; float32.
        examples: one tensor per input. Their symbolic dimensions only need to be larger than 1.
        inputs, outputs: the manifest's tensors; symbols become dynamic dimensions.
        multiple_of: of H and W, so that strides divide them exactly.

    Returns:
        The checked model, with shapes inferred and all weights inside.

    Raises:
        EngineError: the network cannot be exported, or its graph is not portable.
    """
    positional = tuple(examples[spec.name] for spec in inputs)
    model = exported_model(
        portable_form(network),
        positional,
        dynamic_shapes=_dynamic_shapes(inputs, multiple_of),
        input_names=[spec.name for spec in inputs],
        output_names=[spec.name for spec in outputs],
    )
    del model.opset_import[:]
    model.opset_import.add(domain="", version=OPSET)
    _name_by_module(model)
    compute_on_cells(model)
    for node in model.graph.node:
        node.name = node.name or node.output[0]
    attach_functions(model)
    _strip_origin(model)
    _state_shapes(model.graph.input, inputs)
    _state_shapes(model.graph.output, outputs)
    model.producer_name, model.producer_version = "revisage", ""
    model = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    check_portable(model)
    return model
