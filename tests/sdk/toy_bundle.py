"""A bundle of one multiplication, made without torch, for tests of bundles and engines."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from revisage.engines.probe import expect, probe_inputs
from revisage.manifest import (
    Certificate,
    Manifest,
    Probe,
    ProbeInput,
    RecipeOrigin,
    TensorSpec,
    Tolerance,
)

FACTOR = 3.0

MANIFEST = Manifest(
    name="toy",
    operation="wrinkles",
    version="1.0",
    size="compact",
    description="Multiplies a picture by three.",
    inputs=(TensorSpec("image", "float32", ("N", 3, "H", "W"), "NCHW", "RGB", (0.0, 1.0)),),
    outputs=(TensorSpec("scaled", "float32", ("N", 3, "H", "W"), "NCHW", "RGB", (0.0, 3.0)),),
    working_size=64,
    multiple_of=8,
    padding="reflect",
    opset=18,
    tolerances={
        "onnxruntime-cpu": {"fp32": Tolerance(1e-5, 1e-6)},
        "onnxruntime-cuda": {"fp32": Tolerance(1e-4, 1e-5)},
    },
    licence="Apache-2.0",
    recipe=RecipeOrigin("toy"),
    weights_digest="0" * 64,
    settings={"threshold": 0.5, "strides": (4, 8), "word": "skin", "flag": True},
)


def scaling_model(factor: float = FACTOR) -> onnx.ModelProto:
    """`scaled = image * factor` at opset 18."""
    shape = ["N", 3, "H", "W"]
    graph = helper.make_graph(
        [helper.make_node("Mul", ["image", "factor"], ["scaled"])],
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scaled", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array([factor], np.float32), "factor")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return model


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def probes_of(manifest: Manifest, factor: float = FACTOR) -> tuple[Probe, ...]:
    """One sample, wider than high, and two, higher than wide."""
    probes = []
    for shape in ((1, 3, 16, 24), (2, 3, 24, 16)):
        made = {"image": ProbeInput("picture", 7, shape)}
        image = probe_inputs(Probe(made, {}), manifest)["image"]
        probes.append(Probe(made, {"scaled": expect(image * np.float32(factor))}))
    return tuple(probes)


def write_toy_bundle(
    folder: Path,
    model: bytes | None = None,
    *,
    certified_factor: float = FACTOR,
    graphs: Mapping[str, bytes] | None = None,
    **changes: Any,
) -> Path:
    """Write a bundle; `model` replaces the graph, `changes` fields of the manifest.

    Args:
        graphs: precision -> graph, besides that at fp32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = scaling_model().SerializeToString() if model is None else model
    others = {f"model.{precision}.onnx": graph for precision, graph in (graphs or {}).items()}
    files = {"fp32": "model.onnx"} | {name.split(".")[1]: name for name in others}
    manifest = dataclasses.replace(MANIFEST, graphs=files, **changes)
    certificate = Certificate(
        model_digest=sha256(content),
        reference="none",
        reference_count=1,
        versions={},
        errors={},
        probes=probes_of(manifest, certified_factor),
        graph_digests={precision: sha256(graph) for precision, graph in (graphs or {}).items()},
    ).to_json()
    (folder / "model.onnx").write_bytes(content)
    (folder / "certificate.json").write_text(certificate)
    for name, graph in others.items():
        (folder / name).write_bytes(graph)
    digests = {"model.onnx": sha256(content), "certificate.json": sha256(certificate.encode())}
    digests |= {name: sha256(graph) for name, graph in others.items()}
    manifest = dataclasses.replace(manifest, digests=digests)
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder
