"""The manifest: exact round trip, and every defect one error that names the field."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from revisage.errors import BundleError
from revisage.manifest import SCHEMA, Certificate, Expected, Manifest, Probe, ProbeInput
from tests.sdk.toy_bundle import MANIFEST, probes_of


def changed(path: tuple[str | int, ...], value: Any) -> str:
    """The toy manifest's JSON with one place replaced."""
    content = json.loads(MANIFEST.to_json())
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(content)


def test_round_trip_is_exact() -> None:
    text = MANIFEST.to_json()
    again = Manifest.from_json(text)
    assert again == MANIFEST
    assert again.to_json() == text
    assert isinstance(again.settings["strides"], tuple)
    assert again.settings["strides"] == (4, 8)
    assert type(again.settings["strides"][0]) is int
    assert again.settings["flag"] is True


def test_it_is_frozen_all_the_way_down() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MANIFEST.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        MANIFEST.settings["threshold"] = 0.1  # type: ignore[index]
    with pytest.raises(TypeError):
        MANIFEST.tolerances["onnxruntime-cpu"]["fp16"] = None  # type: ignore[index]


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("name",), "../evil", "name"),
        (("name",), 7, "name"),
        (("name",), "x" * 5000, "name"),
        (("version",), "latest", "version"),
        (("size",), "huge", "size"),
        (("padding",), "wrap", "padding"),
        (("working_size",), 1 << 40, "working_size"),
        (("working_size",), 0, "working_size"),
        (("working_size",), 512.0, "working_size"),
        (("working_size",), True, "working_size"),
        (("multiple_of",), 0, "multiple_of"),
        (("opset",), 0, "opset"),
        (("weights_digest",), "abc", "weights_digest"),
        (("recipe", "digest"), "ABC", "recipe.digest"),
        (("recipe", "extra"), 1, "extra"),
        (("inputs",), [], "inputs"),
        (("inputs",), {}, "inputs"),
        (("inputs", 0, "dtype"), "float128", "dtype"),
        (("inputs", 0, "shape"), ["N", 3, 1 << 30, "W"], "inputs.image"),
        (("inputs", 0, "shape"), ["N", 0, "H", "W"], "inputs.image"),
        (("inputs", 0, "shape"), ["N", "os.system()", "H", "W"], "inputs.image"),
        (("inputs", 0, "shape"), [1] * 9, "dimensions"),
        (("inputs", 0, "range"), [1.0, 0.0], "range"),
        (("inputs", 0, "range"), [1.0], "range"),
        (("inputs", 0, "surprise"), 1, "surprise"),
        (("outputs", 0, "name"), "a/b", "outputs"),
        (("tolerances", "onnxruntime-cpu", "fp32", "max_abs"), 0, "max_abs"),
        (("tolerances", "onnxruntime-cpu", "fp32", "max_abs"), "1", "max_abs"),
        (("settings", "threshold"), {"a": 1}, "settings.threshold"),
        (("settings", "strides"), [1, "two"], "settings.strides"),
        (("digests",), {"../model.onnx": "0" * 64}, "plain file name"),
        (("digests",), {"/etc/passwd": "0" * 64}, "plain file name"),
        (("digests",), {"a..b": "0" * 64}, "plain file name"),
        (("digests",), {"model.onnx": "0" * 63}, "digests.model.onnx"),
        (("surprise",), 1, "surprise"),
    ],
)
def test_a_defect_is_refused_by_name(path: tuple[str | int, ...], value: Any, named: str) -> None:
    with pytest.raises(BundleError, match=named.replace(".", r"\.")):
        Manifest.from_json(changed(path, value))


@pytest.mark.parametrize("key", [f.name for f in dataclasses.fields(Manifest)])
def test_a_missing_field_is_refused_by_name(key: str) -> None:
    content = json.loads(MANIFEST.to_json())
    del content[key]
    with pytest.raises(BundleError, match=f"'{key}' is missing"):
        Manifest.from_json(json.dumps(content))


def test_another_schema_says_what_to_do() -> None:
    with pytest.raises(BundleError, match="update Revisage"):
        Manifest.from_json(changed(("schema",), SCHEMA + 1))
    with pytest.raises(BundleError, match="export the model again"):
        Manifest.from_json(changed(("schema",), 0))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        MANIFEST.to_json().encode()[:-40],
        b"[" * 100_000,
        b'{"name": NaN}',
        b'{"name": "a", "name": "b"}',
        b" " * (5 << 20),
    ],
    ids=["empty", "cut", "list", "null", "binary", "tail", "deep", "nan", "twice", "large"],
)
def test_text_that_is_no_manifest_is_refused(text: bytes) -> None:
    with pytest.raises(BundleError, match=r"manifest\.json"):
        Manifest.from_json(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(key=st.sampled_from([f.name for f in dataclasses.fields(Manifest)]), value=json_values)
def test_any_value_is_read_or_refused(key: str, value: Any) -> None:
    """Whatever stands in a field, reading gives a manifest or a BundleError, nothing else."""
    try:
        Manifest.from_json(changed((key,), value))
    except BundleError as error:
        assert "manifest.json" in str(error)  # noqa: PT017


def test_certificate_round_trip_is_exact() -> None:
    certificate = Certificate(
        model_digest="a" * 64,
        reference="pictures",
        reference_count=4,
        versions={"torch": "2"},
        errors={"onnxruntime-cpu": {"fp32": {"scaled": {"max_abs": 1e-7}}}},
        probes=probes_of(MANIFEST),
    )
    assert Certificate.from_json(certificate.to_json()) == certificate


@pytest.mark.parametrize(
    "probe",
    [
        lambda: ProbeInput("code", 1, (1, 3, 8, 8)),
        lambda: ProbeInput("picture", -1, (1, 3, 8, 8)),
        lambda: ProbeInput("picture", 1, (1, 3, 1 << 14, 1 << 14)),
        lambda: ProbeInput("picture", 1, (0, 3, 8, 8)),
    ],
    ids=["kind", "seed", "huge", "empty"],
)
def test_an_absurd_probe_input_is_refused(probe: Any) -> None:
    with pytest.raises(BundleError, match="probe input 'image'"):
        Probe({"image": probe()}, {})


@pytest.mark.parametrize(
    "expected",
    [
        Expected((1, 2), 0.0, 1.0, (0, 2), (1.0, 1.0)),
        Expected((1, 2), 0.0, 1.0, (0,), (1.0, 1.0)),
        Expected((1, 2), 0.0, 1.0, (), ()),
    ],
    ids=["outside", "uneven", "none"],
)
def test_an_absurd_expectation_is_refused(expected: Expected) -> None:
    with pytest.raises(BundleError, match="probe output 'scaled'"):
        Probe({}, {"scaled": expected})
