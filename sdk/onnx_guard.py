"""A look into an ONNX file before an engine parses it, with the standard library alone.

An ONNX file may tell the engine to load tensor values from other files ("external data"), which is
how a hostile model reads files that are none of its business. The runtime does not depend on the
`onnx` package, so this module walks the protobuf wire format (https://protobuf.dev/programming-guides/encoding)
for the few fields that matter and refuses what a bundle never needs: external data, absurd tensor
sizes, more nesting than any network has, and bytes that are no ONNX model at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from revisage.errors import BundleError

__all__ = ["check_model_bytes", "function_names"]

MAX_DEPTH = 16  # subgraphs inside subgraphs
MAX_TENSOR_VALUES = 1 << 29

# Field numbers of onnx.proto.
_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSETS, _MODEL_FUNCTIONS = 1, 7, 8, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_NODE_ATTRIBUTE, _FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN = 5, 1, 7, 10
_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS, _ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES = 5, 10, 22, 23
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
_TENSOR_DIMS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 13, 14
_LOCATION_DEFAULT = 0

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class _MalformedError(Exception):
    """The bytes are not the protobuf wire format."""


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            raise _MalformedError("it ends in the middle of a number")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise _MalformedError("a number is longer than 64 bits")


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """(field number, wire type, value) of a message; the value is a view where it is bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield number, kind, value
            continue
        if kind == _BYTES:
            length, at = _varint(data, at)
        elif kind in {_FIXED64, _FIXED32}:
            length = 8 if kind == _FIXED64 else 4
        else:
            raise _MalformedError(f"wire type {kind} is unknown")
        if at + length > len(data):
            raise _MalformedError("it is truncated")
        yield number, kind, data[at : at + length]
        at += length


def _messages(data: memoryview, *wanted: int) -> Iterator[tuple[int, memoryview]]:
    for number, _, value in _fields(data):
        if number in wanted:
            if isinstance(value, int):
                raise _MalformedError(f"field {number} is a number, not a message")
            yield number, value


def _check_tensor(tensor: memoryview) -> None:
    dims: list[int] = []
    for number, kind, value in _fields(tensor):
        if number == _TENSOR_EXTERNAL or (
            number == _TENSOR_LOCATION and value != _LOCATION_DEFAULT
        ):
            raise BundleError(
                "a tensor has external data, which would be read from another file; "
                "export the model with everything inside model.onnx"
            )
        if number == _TENSOR_DIMS:
            if kind == _VARINT and isinstance(value, int):
                dims.append(value)
            elif isinstance(value, memoryview):  # packed
                at = 0
                while at < len(value):
                    dim, at = _varint(value, at)
                    dims.append(dim)
    if math.prod(dims) > MAX_TENSOR_VALUES:
        raise BundleError(f"a tensor of the absurd shape {dims[:8]}")


def _check_sparse(sparse: memoryview) -> None:
    for _, tensor in _messages(sparse, _SPARSE_VALUES, _SPARSE_INDICES):
        _check_tensor(tensor)


def _check_node(node: memoryview, depth: int) -> None:
    for _, attribute in _messages(node, _NODE_ATTRIBUTE):
        for number, value in _messages(
            attribute,
            _ATTRIBUTE_TENSOR,
            _ATTRIBUTE_TENSORS,
            _ATTRIBUTE_SPARSE,
            _ATTRIBUTE_SPARSES,
            _ATTRIBUTE_GRAPH,
            _ATTRIBUTE_GRAPHS,
        ):
            if number in {_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS}:
                _check_tensor(value)
            elif number in {_ATTRIBUTE_SPARSE, _ATTRIBUTE_SPARSES}:
                _check_sparse(value)
            else:
                _check_graph(value, depth + 1)


def _check_graph(graph: memoryview, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise BundleError(f"subgraphs are nested more than {MAX_DEPTH} deep")
    for number, value in _messages(graph, _GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE):
        if number == _GRAPH_NODE:
            _check_node(value, depth)
        elif number == _GRAPH_INITIALIZER:
            _check_tensor(value)
        else:
            _check_sparse(value)


def check_model_bytes(model: bytes, where: str) -> None:
    """Refuse an ONNX file that a bundle must not carry.

    Raises:
        BundleError: `where` is no ONNX model, or it has external data, absurd tensors or nesting.
    """
    try:
        _check_model(memoryview(model))
    except _MalformedError as error:
        raise BundleError(f"{where}: not an ONNX model ({error})") from None
    except BundleError as error:
        raise BundleError(f"{where}: {error}") from None


def function_names(model: bytes, domain: str) -> set[str]:
    """Names of the functions of `domain` that a checked model defines."""
    names = set()
    for _, function in _messages(memoryview(model), _MODEL_FUNCTIONS):
        fields = {n: bytes(v) for n, v in _messages(function, _FUNCTION_NAME, _FUNCTION_DOMAIN)}
        if fields.get(_FUNCTION_DOMAIN) == domain.encode():
            names.add(fields.get(_FUNCTION_NAME, b"").decode(errors="replace"))
    return names


def _check_model(model: memoryview) -> None:
    seen = set()
    for number, kind, value in _fields(model):
        seen.add(number)
        if number == _MODEL_GRAPH and isinstance(value, memoryview):
            _check_graph(value, 0)
        elif number == _MODEL_FUNCTIONS and isinstance(value, memoryview):
            for _, node in _messages(value, _FUNCTION_NODE):
                _check_node(node, 0)
        elif number == _MODEL_IR_VERSION and kind != _VARINT:
            raise _MalformedError("its version field is not a number")
    if not {_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSETS} <= seen:
        raise _MalformedError("it has no graph")
