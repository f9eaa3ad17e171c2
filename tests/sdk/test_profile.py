"""Optimization profiles: which shapes an engine is built for."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from revisage.bundle import shipped_bundle, shipped_names
from revisage.engines.profile import Profile
from revisage.errors import OptionError, ShapeError
from revisage.manifest import TensorSpec
from tests.sdk.toy_bundle import MANIFEST


def test_it_spans_batch_and_sides() -> None:
    shapes = Profile.of(MANIFEST, (1, 2, 4), (16, (32, 24), 48)).shapes
    assert shapes == {"image": ((1, 3, 16, 16), (2, 3, 32, 24), (4, 3, 48, 48))}


def test_sides_reach_from_64_pixels_to_the_working_size() -> None:
    manifest = dataclasses.replace(MANIFEST, working_size=500, multiple_of=12)
    assert Profile.of(manifest).shapes["image"] == (
        (1, 3, 72, 72),
        (4, 3, 504, 504),
        (8, 3, 504, 504),
    )
    small = dataclasses.replace(MANIFEST, working_size=32)
    assert Profile.of(small).shapes["image"][0] == (1, 3, 32, 32)


@pytest.mark.parametrize("name", shipped_names())
def test_the_probe_of_every_shipped_bundle_fits_its_profile(name: str) -> None:
    bundle = shipped_bundle(name)
    probe = bundle.certificate.probes[0]
    Profile.of(bundle.manifest).check({name: made.shape for name, made in probe.inputs.items()})


def test_equal_profiles_and_only_they_share_a_text() -> None:
    text = Profile.of(MANIFEST).text
    assert text == "image=1x3x64x64:4x3x64x64:8x3x64x64"
    assert Profile.of(MANIFEST, sides=(64, 64, 64)).text == text
    assert Profile.of(MANIFEST, batch=(1, 4, 7)).text != text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": (2, 1, 4)}, "do not grow"),
        ({"batch": (0, 1, 4)}, "do not grow"),
        ({"sides": (64, 32, 64)}, "do not grow"),
        ({"sides": (64, (64, 60), 64)}, "64x60 is no multiple of 8"),
        ({"sides": (64, 64)}, "three sizes"),
        ({"batch": (1, 2)}, "three sizes"),
    ],
)
def test_an_impossible_profile_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Profile.of(MANIFEST, **options)


def test_sizes_known_only_after_a_run_have_no_profile() -> None:
    spec = TensorSpec("points", "float32", ("K", 2))
    with pytest.raises(OptionError, match="'points' has the size K"):
        Profile.of(dataclasses.replace(MANIFEST, inputs=(spec,)))


@pytest.mark.parametrize("shape", [(9, 3, 64, 64), (1, 3, 56, 64), (1, 3, 64, 72), (1, 3, 64)])
def test_a_shape_outside_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"built for 1x3x64x64 to 8x3x64x64"):
        Profile.of(MANIFEST).check({"image": shape})
