"""A look into an ONNX file before an engine parses it, with the standard library alone.

An engine trusts what it loads: a tensor may name another file of the disk ("external data"), a few
bytes may declare terabytes of values, functions may call one another until the inlined graph fills
the memory. The runtime does not depend on the `onnx` package, so this module walks the protobuf
wire format (https://protobuf.dev/programming-guides/encoding) and refuses what no bundle needs.
Every bound is far above the largest network of ours and low enough that a hostile file costs
seconds and no memory beyond its own size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from revisage.errors import BundleError

__all__ = ["check_model_bytes", "function_names"]

MAX_FIELDS = 1 << 19  # that are walked in one file
MAX_NODES = 1 << 17  # with all functions inlined
MAX_FUNCTIONS = 128
MAX_TENSOR_VALUES = 1 << 29
MAX_RANK = 16
MAX_SMALL_BYTES = 1 << 20  # of everything that is not the values of a tensor: names, lists, shapes

# Field numbers of onnx.proto.
_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSETS, _MODEL_TRAINING, _MODEL_FUNCTIONS = 1, 7, 8, 20, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_GRAPH_VALUES = {11, 12, 13}  # inputs, outputs, values between
_VALUE_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE, _SHAPE_DIM, _DIM_VALUE = 2, 1, 2, 1, 1
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN, _NODE_OVERLOAD = 4, 5, 7, 8
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN = 1, 7, 10
_FUNCTION_ATTRIBUTE, _FUNCTION_OVERLOAD = 11, 13
_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS = 5, 10
_ATTRIBUTE_GRAPHS = {6, 11}
_ATTRIBUTE_SPARSE = {22, 23}
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_STRINGS, _TENSOR_RAW = 1, 2, 6, 9
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_TENSOR_FIXED = {4: 4, 10: 8}  # lists of fixed-size numbers: float_data, double_data
_TENSOR_VARINTS = {
    5,
    7,
    11,
}  # lists of numbers of 1 to 10 bytes: int32_data, int64_data, uint64_data
_LOCATION_DEFAULT = 0
# TensorProto.DataType -> bits: floats, integers, bool and the 8- and 4-bit floats.
_BITS = {
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((7, 11, 13), 64),
    **dict.fromkeys((21, 22, 23), 4),
}

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_Key = tuple[bytes, bytes, bytes]  # of an operator or a function: domain, name, overload


class _MalformedError(Exception):
    """The bytes are not the protobuf wire format."""


def check_model_bytes(model: bytes, where: str) -> None:
    """Refuse an ONNX file that a bundle must not carry.

    Raises:
        BundleError: `where` is no ONNX model, or it has external data, absurd tensors or lists,
            control flow, functions without end, or more of anything than a network has.
    """
    try:
        _Guard().check_model(memoryview(model))
    except _MalformedError as error:
        raise BundleError(f"{where}: not an ONNX model ({error})") from None
    except BundleError as error:
        raise BundleError(f"{where}: {error}") from None


def function_names(model: bytes, domain: str) -> set[str]:
    """Names of the functions of `domain` that a checked model defines."""
    names = set()
    for number, function in _Guard().fields(memoryview(model)):
        if number == _MODEL_FUNCTIONS and isinstance(function, memoryview):
            found, name, _ = _Guard().key(
                function, _FUNCTION_DOMAIN, _FUNCTION_NAME, _FUNCTION_OVERLOAD
            )
            if found == domain.encode():
                names.add(name.decode(errors="replace"))
    return names


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


def _message(number: int, value: memoryview | int) -> memoryview:
    if isinstance(value, int):
        raise _MalformedError(f"field {number} is a number, not a message")
    return value


def _check_shape(dims: list[int]) -> int:
    """How many values a tensor of this shape has; a negative size is a huge one on the wire."""
    if len(dims) > MAX_RANK or max(dims, default=0) > MAX_TENSOR_VALUES:
        raise BundleError(f"a tensor of the absurd shape {dims[:8]}")
    count = math.prod(dims)
    if count > MAX_TENSOR_VALUES:
        raise BundleError(f"a tensor of the absurd shape {dims[:8]}")
    return count


class _Guard:
    """One walk through one file; it counts what it has read."""

    def __init__(self) -> None:
        self._fields_left = MAX_FIELDS

    def fields(self, data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
        """(field number, value) of a message; the value is a view where it is bytes."""
        at = 0
        while at < len(data):
            self._fields_left -= 1
            if self._fields_left < 0:
                raise BundleError(f"more than {MAX_FIELDS} fields, which no network has")
            tag, at = _varint(data, at)
            number, kind = tag >> 3, tag & 7
            if kind == _VARINT:
                value, at = _varint(data, at)
                yield number, value
                continue
            if kind == _BYTES:
                length, at = _varint(data, at)
            elif kind in {_FIXED64, _FIXED32}:
                length = 8 if kind == _FIXED64 else 4
            else:
                raise _MalformedError(f"wire type {kind} is unknown")
            if at + length > len(data):
                raise _MalformedError("it is truncated")
            yield number, data[at : at + length]
            at += length

    def key(self, data: memoryview, domain: int, name: int, overload: int) -> _Key:
        """What a node calls, or what a function is called by."""
        found = dict.fromkeys((domain, name, overload), b"")
        for number, value in self.fields(data):
            if number in found:
                found[number] = bytes(_message(number, value))
        if found[domain] == b"ai.onnx":
            found[domain] = b""
        return found[domain], found[name], found[overload]

    def check_model(self, model: memoryview) -> None:
        seen: Counter[int] = Counter()
        calls: Counter[_Key] = Counter()
        functions: dict[_Key, Counter[_Key]] = {}
        for number, value in self.fields(model):
            seen[number] += 1
            if number == _MODEL_GRAPH:
                calls += self._check_graph(_message(number, value))
            elif number == _MODEL_FUNCTIONS:
                key, called = self._check_function(_message(number, value))
                if key in functions:
                    raise BundleError("two functions have the same name")
                functions[key] = called
            elif number == _MODEL_IR_VERSION and not isinstance(value, int):
                raise _MalformedError("its version field is not a number")
            elif number == _MODEL_TRAINING:
                raise BundleError("it holds training information; export the model for inference")
            else:
                self._check_small(value)
        if not {_MODEL_IR_VERSION, _MODEL_GRAPH, _MODEL_OPSETS} <= set(seen):
            raise _MalformedError("it has no graph")
        if seen[_MODEL_GRAPH] > 1:
            raise BundleError("it has more than one graph")
        _check_inlined(calls, functions)

    def _check_small(self, value: memoryview | int) -> None:
        if isinstance(value, memoryview) and len(value) > MAX_SMALL_BYTES:
            raise BundleError(f"an attribute, name or list of {len(value)} bytes is absurd")

    def _check_graph(self, graph: memoryview) -> Counter[_Key]:
        """Check everything inside; returns how often each operator is called."""
        calls: Counter[_Key] = Counter()
        for number, value in self.fields(graph):
            if number == _GRAPH_NODE:
                calls[self._check_node(_message(number, value))] += 1
            elif number == _GRAPH_INITIALIZER:
                self._check_tensor(_message(number, value))
            elif number == _GRAPH_SPARSE:
                raise BundleError("a sparse tensor, which no bundle needs")
            else:
                self._check_small(value)
                if number in _GRAPH_VALUES:
                    self._check_value(_message(number, value))
        return calls

    def _check_function(self, function: memoryview) -> tuple[_Key, Counter[_Key]]:
        calls: Counter[_Key] = Counter()
        for number, value in self.fields(function):
            if number == _FUNCTION_NODE:
                calls[self._check_node(_message(number, value))] += 1
            elif number == _FUNCTION_ATTRIBUTE:
                self._check_attribute(_message(number, value))
            else:
                self._check_small(value)
        key = self.key(function, _FUNCTION_DOMAIN, _FUNCTION_NAME, _FUNCTION_OVERLOAD)
        return key, calls

    def _check_node(self, node: memoryview) -> _Key:
        for number, value in self.fields(node):
            if number == _NODE_ATTRIBUTE:
                self._check_attribute(_message(number, value))
            else:
                self._check_small(value)
        return self.key(node, _NODE_DOMAIN, _NODE_OPERATOR, _NODE_OVERLOAD)

    def _check_attribute(self, attribute: memoryview) -> None:
        tensors = 0
        for number, value in self.fields(attribute):
            if number in {_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS}:
                tensors += number == _ATTRIBUTE_TENSOR
                if tensors > 1:  # a parser would merge them into one that nobody has checked
                    raise BundleError("an attribute has two values")
                self._check_tensor(_message(number, value))
            elif number in _ATTRIBUTE_GRAPHS:
                raise BundleError("control flow (a graph inside a node), which no bundle needs")
            elif number in _ATTRIBUTE_SPARSE:
                raise BundleError("a sparse tensor, which no bundle needs")
            else:
                self._check_small(value)

    def _check_value(self, value_info: memoryview) -> None:
        """The stated shape of an input, an output or a value between; symbols are not numbers."""
        at = [value_info]
        for wanted in (_VALUE_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE):
            at = [_message(n, v) for data in at for n, v in self.fields(data) if n == wanted]
        for shape in at:
            sizes = [_message(n, v) for n, v in self.fields(shape) if n == _SHAPE_DIM]
            known = [v for size in sizes for n, v in self.fields(size) if n == _DIM_VALUE]
            _check_shape([dim for dim in known if isinstance(dim, int)])

    def _check_tensor(self, tensor: memoryview) -> None:
        """No other file, no absurd shape, and as many values as the shape says."""
        dims: list[int] = []
        bits = least = most = 0  # least and most: values in lists, whose numbers differ in length
        raw: int | None = None
        for number, value in self.fields(tensor):
            size = 1 if isinstance(value, int) else len(value)
            if number == _TENSOR_EXTERNAL or (
                number == _TENSOR_LOCATION and value != _LOCATION_DEFAULT
            ):
                raise BundleError(
                    "a tensor has external data, which would be read from another file; "
                    "export the model with everything inside model.onnx"
                )
            if number == _TENSOR_DIMS:
                dims += [value] if isinstance(value, int) else _packed(value)
            elif number == _TENSOR_TYPE:
                bits = _BITS.get(value, 0) if isinstance(value, int) else 0
            elif number == _TENSOR_RAW:
                raw = size
            elif number in _TENSOR_FIXED:
                least += size // _TENSOR_FIXED[number]
                most += size // _TENSOR_FIXED[number]
            elif number in _TENSOR_VARINTS:
                least, most = least - (-size // 10), most + size
            elif number == _TENSOR_STRINGS:
                raise BundleError("a tensor of strings, which no bundle needs")
            else:
                self._check_small(value)
        if not bits:
            raise BundleError("a tensor of no type that a network has")
        count = _check_shape(dims)
        size = -(-count * bits // 8)
        listed = count if bits >= 8 else size  # lists hold two values of 4 bits in a number
        if (raw is not None and (raw != size or most)) or (
            raw is None and not least <= listed <= most
        ):
            raise BundleError(
                f"a tensor of the shape {dims[:8]} needs {size} bytes and holds "
                f"{most if raw is None else raw}"
            )


def _packed(data: memoryview) -> list[int]:
    dims: list[int] = []
    at = 0
    while at < len(data) and len(dims) <= MAX_RANK:
        dim, at = _varint(data, at)
        dims.append(dim)
    return dims


def _check_inlined(calls: Counter[_Key], functions: dict[_Key, Counter[_Key]]) -> None:
    """How many nodes the graph has when every function stands where it is called."""
    if len(functions) > MAX_FUNCTIONS:
        raise BundleError(f"more than {MAX_FUNCTIONS} functions")
    sizes: dict[_Key, int] = {}
    under_way: set[_Key] = set()

    def size(called: Counter[_Key]) -> int:
        total = 0
        for key, times in called.items():
            total += times * (1 + (function_size(key) if key in functions else 0))
        if total > MAX_NODES:
            raise BundleError(f"more than {MAX_NODES} nodes once its functions are inlined")
        return total

    def function_size(key: _Key) -> int:
        if key in under_way:
            raise BundleError(f"the function {key[1][:64].decode(errors='replace')!r} calls itself")
        if key not in sizes:
            under_way.add(key)
            sizes[key] = size(functions[key])
            under_way.remove(key)
        return sizes[key]

    for key in functions:  # also those that nobody calls
        function_size(key)
    size(calls)
