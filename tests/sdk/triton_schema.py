"""The messages of Triton's `model_config.proto` that a repository of ours uses, as a schema.

Names, types and repetition are those of the published file (triton-inference-server/common); the
numbers are not, because text holds none. A misspelt field, or one of another type, does not parse.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_Field = descriptor_pb2.FieldDescriptorProto

ENUMS = {
    "DataType": (
        *("TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64"),
        *("TYPE_INT8", "TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32"),
        *("TYPE_FP64", "TYPE_STRING", "TYPE_BF16"),
    ),
    "Kind": ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL"),
}
# Message -> field -> type; a star repeats it. A map is a repeated pair of key and value.
MESSAGES = {
    "Reshape": {"shape": "int64*"},
    "Input": {"name": "string", "data_type": "DataType", "dims": "int64*", "reshape": "Reshape"},
    "Output": {"name": "string", "data_type": "DataType", "dims": "int64*", "reshape": "Reshape"},
    "Latest": {"num_versions": "uint32"},
    "VersionPolicy": {"latest": "Latest"},
    "StringPair": {"key": "string", "value": "string"},
    "Accelerator": {"name": "string", "parameters": "StringPair*"},
    "Accelerators": {
        "gpu_execution_accelerator": "Accelerator*",
        "cpu_execution_accelerator": "Accelerator*",
    },
    "Shape": {"dim": "int64*"},
    "ShapePair": {"key": "string", "value": "Shape"},
    "GraphSpec": {"batch_size": "int32", "input": "ShapePair*"},
    "Cuda": {"graphs": "bool", "busy_wait_events": "bool", "graph_spec": "GraphSpec*"},
    "Optimization": {"execution_accelerators": "Accelerators", "cuda": "Cuda"},
    "DynamicBatching": {"preferred_batch_size": "int32*", "max_queue_delay_microseconds": "uint64"},
    "InstanceGroup": {"count": "int32", "kind": "Kind", "gpus": "int32*"},
    "Parameter": {"string_value": "string"},
    "ParameterPair": {"key": "string", "value": "Parameter"},
    "WarmupInput": {"data_type": "DataType", "dims": "int64*", "zero_data": "bool"},
    "WarmupPair": {"key": "string", "value": "WarmupInput"},
    "Warmup": {"name": "string", "batch_size": "uint32", "inputs": "WarmupPair*"},
    "ModelConfig": {
        "name": "string",
        "platform": "string",
        "backend": "string",
        "version_policy": "VersionPolicy",
        "max_batch_size": "int32",
        "input": "Input*",
        "output": "Output*",
        "optimization": "Optimization",
        "dynamic_batching": "DynamicBatching",
        "instance_group": "InstanceGroup*",
        "default_model_filename": "string",
        "parameters": "ParameterPair*",
        "model_warmup": "Warmup*",
    },
}


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="triton.proto", package="t", syntax="proto3")
    for name, values in ENUMS.items():
        enum = file.enum_type.add(name=name)
        for number, value in enumerate(values):
            enum.value.add(name=value, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, (field, kind) in enumerate(fields.items(), start=1):
            bare = kind.rstrip("*")
            label = _Field.LABEL_REPEATED if kind != bare else _Field.LABEL_OPTIONAL
            made = message.field.add(name=field, number=number, label=label)
            if bare in MESSAGES or bare in ENUMS:
                made.type = _Field.TYPE_ENUM if bare in ENUMS else _Field.TYPE_MESSAGE
                made.type_name = f".t.{bare}"
            else:
                made.type = getattr(_Field, f"TYPE_{bare.upper()}")
    return file


def parse_model_config(text: str) -> Any:
    """A `ModelConfig` from the text of a `config.pbtxt`; a ParseError where it is none."""
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_file())
    config = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.ModelConfig"))
    return text_format.Parse(text, config())
