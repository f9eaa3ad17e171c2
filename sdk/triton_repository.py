"""Bundles as a model repository of NVIDIA Triton Inference Server.

    REPOSITORY/wrinkle_filler/config.pbtxt     what the model takes and gives, and how it is served
    REPOSITORY/wrinkle_filler/1/model.onnx     the graph of the bundle, byte for byte

A graph at another precision than fp32 is a model of its own, `wrinkle_filler_int8`. The field names
are those of Triton's `model_config.proto`. Triton's ONNX Runtime backend serves the graphs and
inlines the functions of the domain `revisage`; no library of ours is needed on the server.

Note [What a request looks like]
    Triton adds the batch to every shape: `dims` leave N out, and requests are put together up to
    `max_batch_size`. H and W are -1 and must be multiples of the manifest's `multiple_of`; only
    requests of one size share a batch. A tensor that has nothing but a batch is a vector of one
    value to the client (`dims: [ 1 ]`) and reshaped for the graph.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from revisage.bundle import Bundle
from revisage.engines.profile import BATCH, Profile
from revisage.errors import BundleError
from revisage.manifest import Manifest, TensorSpec
from revisage.whole_folder import whole_folder

__all__ = ["model_config", "plan_config", "write_models", "write_plan"]

QUEUE_DELAY_MICROSECONDS = 2000  # that a request may wait for others, well below one inference
WORKSPACE_BYTES = 1 << 30
_DTYPES = {
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "uint8": "TYPE_UINT8",
    "bool": "TYPE_BOOL",
}
_CPU, _CUDA, _TENSORRT = "onnxruntime-cpu", "onnxruntime-cuda", "onnxruntime-tensorrt"


class _Word(str):
    """An enumerator: written without quotes."""


def write_models(
    bundle: Bundle, repository: str | os.PathLike[str], *, force: bool = False
) -> list[Path]:
    """Write every graph of a bundle that Triton's ONNX Runtime may serve as a model.

    Returns:
        The folders of the models, in the manifest's order.

    Raises:
        OutputError: a model exists and `force` is not set, or cannot be written.
        BundleError: the bundle states no engine of ONNX Runtime, or is damaged.
    """
    precisions = [p for p in bundle.manifest.graphs if _engines(bundle.manifest, p)]
    if not precisions:
        raise BundleError(
            f"{bundle.path}: states no engine of ONNX Runtime, which Triton would run it with"
        )
    return [
        _write_model(
            Path(repository) / _model_name(bundle.manifest, precision),
            model_config(bundle, precision),
            "model.onnx",
            bundle.read_graph(precision),
            force,
        )
        for precision in precisions
    ]


def write_plan(
    bundle: Bundle,
    repository: str | os.PathLike[str],
    *,
    precision: str = "fp32",
    force: bool = False,
) -> Path:
    """Build a TensorRT plan for this machine's GPU and write it as the model `<name>_tensorrt`.

    A plan serves on GPUs of this kind, in a Triton with this version of TensorRT.

    Raises:
        BundleError: the bundle is not made for TensorRT at this precision.
        MissingExtraError, DeviceError, EngineError: the plan cannot be built here.
        OutputError: the model exists and `force` is not set, or cannot be written.
    """
    from revisage.engines.builder_process import build_in_child
    from revisage.engines.tensorrt import supported_capabilities

    bundle.manifest.tolerance("tensorrt", precision)
    profile = Profile.of(bundle.manifest)
    built = build_in_child(
        bundle.read_graph(precision),
        engine="tensorrt",
        profile=profile,
        compute_capabilities=supported_capabilities("tensorrt"),
    )
    name = f"{_model_name(bundle.manifest, precision)}_tensorrt"
    config = plan_config(bundle, precision, profile)
    return _write_model(Path(repository) / name, config, "model.plan", built.content, force)


def model_config(bundle: Bundle, precision: str = "fp32") -> str:
    """Text of `config.pbtxt` of a graph in Triton's ONNX Runtime backend."""
    engines = _engines(bundle.manifest, precision)
    on_gpu = engines != {_CPU}
    kind = ("KIND_AUTO" if _CPU in engines else "KIND_GPU") if on_gpu else "KIND_CPU"
    accelerators: list[dict[str, Any]] = []
    if _TENSORRT in engines:
        mode = {"key": "precision_mode", "value": precision.upper()}
        workspace = {"key": "max_workspace_size_bytes", "value": str(WORKSPACE_BYTES)}
        accelerators.append({"name": "tensorrt", "parameters": [mode, workspace]})
    if _CUDA in engines:
        # TF32 keeps 10 bits of mantissa: what was certified as fp32 has to be that.
        accelerators.append({"name": "cuda", "parameters": [{"key": "use_tf32", "value": "0"}]})
    optimization = {"execution_accelerators": {"gpu_execution_accelerator": accelerators}}
    # The backend takes the search from here and overrides what the accelerator says.
    parameters = {"key": "cudnn_conv_algo_search", "value": {"string_value": "1"}}  # heuristic
    return _text(
        {
            **_head(bundle, precision, _model_name(bundle.manifest, precision)),
            "backend": "onnxruntime",
            "default_model_filename": "model.onnx",
            "instance_group": [{"count": 1, "kind": _Word(kind)}],
            **({"optimization": optimization, "parameters": [parameters]} if on_gpu else {}),
        },
        f"{bundle.manifest.description} {bundle.manifest.licence}. Digest {bundle.digest}.",
    )


def plan_config(bundle: Bundle, precision: str, profile: Profile) -> str:
    """Text of `config.pbtxt` of a TensorRT plan that was built for a profile."""
    usual = {name: shapes[1][1:] for name, shapes in profile.shapes.items()}
    graphs = [
        {
            "batch_size": size,
            "input": [{"key": n, "value": {"dim": list(dims)}} for n, dims in usual.items()],
        }
        for size in BATCH
    ]
    return _text(
        {
            **_head(bundle, precision, f"{_model_name(bundle.manifest, precision)}_tensorrt"),
            "platform": "tensorrt_plan",
            "default_model_filename": "model.plan",
            "instance_group": [{"count": 1, "kind": _Word("KIND_GPU")}],
            "optimization": {"cuda": {"graphs": True, "graph_spec": graphs}},
        },
        f"{bundle.manifest.description} {bundle.manifest.licence}. Digest {bundle.digest}. "
        f"Built for {profile.text}.",
    )


def _model_name(manifest: Manifest, precision: str) -> str:
    return manifest.name if precision == "fp32" else f"{manifest.name}_{precision}"


def _engines(manifest: Manifest, precision: str) -> set[str]:
    """Engines of ONNX Runtime that are certified for a graph, and that Triton has for it."""
    # The precision modes of Triton's TensorRT accelerator are FP32, FP16 and INT8.
    known = (_CPU, _CUDA) if precision == "bf16" else (_CPU, _CUDA, _TENSORRT)
    return {e for e in known if precision in manifest.tolerances.get(e, {})}


def _head(bundle: Bundle, precision: str, name: str) -> dict[str, Any]:
    """What every engine's configuration says."""
    manifest = bundle.manifest
    batched = all(s.shape[:1] == ("N",) for s in (*manifest.inputs, *manifest.outputs))
    head: dict[str, Any] = {
        "name": name,
        "max_batch_size": BATCH[-1] if batched else 0,
        "version_policy": {"latest": {"num_versions": 1}},
        "input": [_tensor(spec, batched) for spec in manifest.inputs],
        "output": [_tensor(spec, batched) for spec in manifest.outputs],
    }
    if batched:
        head["dynamic_batching"] = {
            "preferred_batch_size": list(BATCH[1:]),
            "max_queue_delay_microseconds": QUEUE_DELAY_MICROSECONDS,
        }
    # The first request of a size pays for its memory and its kernels: let it be ours.
    head["model_warmup"] = [
        {
            "name": "working size",
            "batch_size": 1,
            "inputs": [
                {
                    "key": spec.name,
                    "value": {
                        "data_type": _Word(_DTYPES[spec.dtype]),
                        "dims": _dims(spec, batched, manifest.working_size, batch=1),
                        "zero_data": True,
                    },
                }
                for spec in manifest.inputs
            ],
        }
    ]
    return head


def _tensor(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": spec.name,
        "data_type": _Word(_DTYPES[spec.dtype]),
        "dims": _dims(spec, batched, -1, batch=-1),
    }
    if batched and len(spec.shape) == 1:
        described["reshape"] = {"shape": []}
    return described


def _dims(spec: TensorSpec, batched: bool, side: int, *, batch: int) -> list[int]:
    """A shape with numbers in the place of symbols; see Note [What a request looks like]."""
    shape = spec.shape[1:] if batched else spec.shape
    sizes = {"N": batch, "H": side, "W": side}
    return [d if isinstance(d, int) else sizes.get(d, -1) for d in shape] or [1]


def _text(config: Mapping[str, Any], comment: str) -> str:
    """Protobuf's text format."""
    return "\n".join([f"# {' '.join(comment.split())}", *_lines(config, "")]) + "\n"


def _lines(message: Mapping[str, Any], indent: str) -> Iterable[str]:
    for field, value in message.items():
        if isinstance(value, Mapping):
            yield f"{indent}{field} {{"
            yield from _lines(value, indent + "  ")
            yield f"{indent}}}"
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            for item in value:
                yield from _lines({field: item}, indent)
        else:
            yield f"{indent}{field}: {_scalar(value)}"


def _scalar(value: bool | int | str | Sequence[int]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, _Word):
        return value
    if isinstance(value, str):
        return json.dumps(value)  # the format escapes quotes and backslashes as JSON does
    if isinstance(value, int):
        return str(value)
    return f"[{', '.join(map(str, value))}]"


def _write_model(place: Path, config: str, file: str, content: bytes, force: bool) -> Path:
    """Write one model's folder, whole or not at all."""
    with whole_folder(place, force=force, verb="export") as written:
        (written / "1").mkdir()
        (written / "1" / file).write_bytes(content)
        (written / "config.pbtxt").write_text(config, encoding="utf-8")
    return place
