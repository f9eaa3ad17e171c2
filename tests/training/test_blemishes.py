"""Blemishes: exact residuals, places, the dial, and the lambda augmentation."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from revisage.training.data.aligned_faces import aligned_faces
from revisage.training.data.blemishes import KINDS, add_blemishes
from revisage.training.data.face_skin import blemish_skin
from revisage.training.data.lambda_augmentation import LambdaRange, lambda_augment
from tests.support import shared_folder
from tests.training.drawn_face import drawn_landmarks, plain_skin

SIZE = 256
LANDMARKS = drawn_landmarks(SIZE)


def dark_skin(size: int = SIZE) -> npt.NDArray[np.uint8]:
    light = plain_skin(size).astype(np.float32)
    return np.clip(light * np.array([0.40, 0.34, 0.30]), 0, 255).astype(np.uint8)


def features(landmarks: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.bool_]:
    """Eyes, brows and lips."""
    mask = np.zeros((size, size), np.uint8)
    for first, last in ((17, 22), (22, 27), (36, 42), (42, 48), (48, 60)):
        hull = cv2.convexHull(np.rint(landmarks[first:last]).astype(np.int32))
        cv2.fillConvexPoly(mask, hull, 1)
    return mask > 0


def test_same_seed_same_bytes() -> None:
    image = plain_skin(SIZE)
    before = image.copy()
    first, again, other = (
        add_blemishes(image, LANDMARKS, np.random.default_rng(s), kinds=KINDS) for s in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.residual, again.residual)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert (first.image != other.image).any()
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("shade", ["light", "dark", "white", "black"])
def test_residual_is_exact_after_clipping(shade: str) -> None:
    if shade == "white":
        image = np.full((SIZE, SIZE, 3), 253, np.uint8)
    elif shade == "black":
        image = np.full((SIZE, SIZE, 3), 3, np.uint8)
    else:
        image = plain_skin(SIZE) if shade == "light" else dark_skin()
    for seed in range(6):
        made = add_blemishes(image, LANDMARKS, np.random.default_rng(seed), amount=2.0, kinds=KINDS)
        rebuilt = np.rint(255 * (image.astype(np.float32) / 255 + made.residual))
        np.testing.assert_array_equal(rebuilt, made.image)
        assert made.residual.dtype == np.float32
        assert made.residual.any()


def test_mask_covers_every_change_and_nothing_else() -> None:
    image = plain_skin(SIZE)
    for seed in range(10):
        made = add_blemishes(image, LANDMARKS, np.random.default_rng(seed))
        assert made.mask.dtype == np.float32
        assert made.mask.min() >= 0
        assert made.mask.max() <= 1
        np.testing.assert_array_equal(made.mask > 0, made.residual.any(axis=2))
        # What the mask calls strong is strong.
        change = np.abs(made.residual).max(axis=2)
        if (made.mask > 0.5).any():
            assert change[made.mask > 0.5].min() > 0.03
            assert change[made.mask > 0.5].mean() > 2 * change[made.mask < 0.25].mean()


@pytest.mark.parametrize("kind", KINDS)
def test_eyes_brows_and_lips_stay_as_they_are(kind: str) -> None:
    image = plain_skin(SIZE)
    protected = features(LANDMARKS, SIZE)
    changed = 0
    for seed in range(5):
        made = add_blemishes(
            image, LANDMARKS, np.random.default_rng(seed), amount=2.0, kinds=[kind]
        )
        assert not made.mask[protected].any()
        np.testing.assert_array_equal(made.image[protected], image[protected])
        changed += int((made.mask > 0).sum())
    assert changed > 20  # every kind draws something


def test_background_and_hair_stay_as_they_are() -> None:
    image = plain_skin(SIZE)
    outside = np.ones((SIZE, SIZE), bool)
    outside[60:245, 55:200] = False
    image[:70] = (40, 30, 25)  # hair
    image[outside] = (90, 140, 200)
    strange = (image == (90, 140, 200)).all(axis=2) | (image == (40, 30, 25)).all(axis=2)
    for seed in range(6):
        made = add_blemishes(image, LANDMARKS, np.random.default_rng(seed), amount=2.0, kinds=KINDS)
        assert not made.mask[strange].any()
        assert made.mask.any()


def test_more_amount_changes_more() -> None:
    for image in (plain_skin(SIZE), dark_skin()):
        for seed in range(5):
            totals = []
            for amount in (0.0, 0.25, 0.5, 1.0, 1.5, 2.0):
                rng = np.random.default_rng(seed)
                made = add_blemishes(image, LANDMARKS, rng, amount=amount, kinds=KINDS)
                totals.append(float(np.abs(made.residual).sum()))
            assert totals[0] == 0
            assert totals == sorted(totals)
            assert totals[-1] > 1.3 * totals[2]


def test_no_amount_is_no_change() -> None:
    image = plain_skin(SIZE)
    made = add_blemishes(image, LANDMARKS, np.random.default_rng(0), amount=0.0)
    np.testing.assert_array_equal(made.image, image)
    assert not made.mask.any()
    assert not made.residual.any()


def test_pigment_absorbs_and_shine_adds() -> None:
    image = plain_skin(SIZE)
    for kind, sign in (("freckle", -1), ("age_spot", -1), ("redness", -1), ("shine", 1)):
        for seed in range(3):
            made = add_blemishes(image, LANDMARKS, np.random.default_rng(seed), kinds=[kind])
            changed = made.residual[made.mask > 0]
            assert np.sign(changed[:, 1].mean()) == sign, kind
    # Blood takes green away, melanin blue first.
    red = add_blemishes(image, LANDMARKS, np.random.default_rng(0), kinds=["redness"])
    brown = add_blemishes(image, LANDMARKS, np.random.default_rng(0), kinds=["age_spot"])
    for made, order in ((red, (1, 0)), (brown, (2, 0))):
        ratio = made.image[made.mask > 0].astype(float) / image[made.mask > 0]
        assert ratio[:, order[0]].mean() < ratio[:, order[1]].mean() - 0.02


def test_relative_change_is_alike_on_light_and_dark_skin() -> None:
    shares, steps = [], []
    for image in (plain_skin(SIZE), dark_skin()):
        made = add_blemishes(image, LANDMARKS, np.random.default_rng(3), kinds=["freckle"])
        part = made.mask > 0.2
        assert part.any()
        shares.append((made.image[part].astype(float) / image[part])[:, 1].mean())
        steps.append(np.abs(made.residual[part]).mean())
    assert abs(shares[0] - shares[1]) < 0.06
    assert steps[1] < 0.6 * steps[0]  # so no spot glows on dark skin


def test_black_and_white_stays_black_and_white() -> None:
    gray = np.repeat(plain_skin(SIZE)[..., 1:2], 3, axis=2)
    made = add_blemishes(gray, LANDMARKS, np.random.default_rng(0), kinds=KINDS)
    assert made.mask.any()
    np.testing.assert_array_equal(made.image[..., 0], made.image[..., 1])
    np.testing.assert_array_equal(made.image[..., 0], made.image[..., 2])


@pytest.mark.parametrize("size", [64, 128, 512, 1024])
def test_other_sizes_show_the_same_blemishes(size: int) -> None:
    found = []
    for side in (256, size):
        made = add_blemishes(
            plain_skin(side), drawn_landmarks(side), np.random.default_rng(4), kinds=["pimple"]
        )
        found.append(cv2.resize(made.mask, (64, 64), interpolation=cv2.INTER_AREA))
    assert np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1] > 0.8


def test_skin_given_is_skin_used() -> None:
    image = plain_skin(SIZE)
    skin = blemish_skin(image, LANDMARKS)
    first = add_blemishes(image, LANDMARKS, np.random.default_rng(5), skin=skin)
    second = add_blemishes(image, LANDMARKS, np.random.default_rng(5))
    np.testing.assert_array_equal(first.image, second.image)
    skin[:, : SIZE // 2] = 0
    half = add_blemishes(image, LANDMARKS, np.random.default_rng(5), skin=skin, kinds=KINDS)
    assert not half.mask[:, : SIZE // 2].any()
    assert half.mask.any()


def test_impossible_input_is_refused() -> None:
    image, rng = plain_skin(64), np.random.default_rng(0)
    landmarks = drawn_landmarks(64)
    with pytest.raises(ValueError, match="image"):
        add_blemishes(image[:32], landmarks, rng)
    with pytest.raises(ValueError, match="landmarks"):
        add_blemishes(image, landmarks[:5], rng)
    with pytest.raises(ValueError, match="amount"):
        add_blemishes(image, landmarks, rng, amount=2.5)
    with pytest.raises(ValueError, match="warts"):
        add_blemishes(image, landmarks, rng, kinds=["warts"])


def test_lambda_scales_the_residual_and_keeps_the_target() -> None:
    clean = plain_skin(SIZE)
    made = add_blemishes(clean, LANDMARKS, np.random.default_rng(0), kinds=["pimple", "mark"])
    target = clean.astype(np.float32) / 255
    rng = np.random.default_rng(1)
    factors = []
    for _ in range(50):
        blemished, wanted, factor = lambda_augment(clean, made.residual, rng)
        np.testing.assert_array_equal(wanted, target)
        assert blemished.dtype == np.float32
        expected = np.clip(target + np.float32(factor) * made.residual, 0, 1)
        np.testing.assert_allclose(blemished, expected, atol=1e-6)
        factors.append(factor)
    assert min(f for f in factors if f) >= 0.1
    assert 1.0 < max(factors) <= 1.5


def test_lambda_of_one_is_the_blemished_face() -> None:
    clean = plain_skin(SIZE)
    made = add_blemishes(clean, LANDMARKS, np.random.default_rng(0), kinds=KINDS)
    exactly = LambdaRange(1.0, 1.0, clean_share=0.0)
    blemished, _, _ = lambda_augment(clean, made.residual, np.random.default_rng(0), range_=exactly)
    np.testing.assert_array_equal(np.rint(255 * blemished), made.image)


def test_some_samples_are_clean() -> None:
    clean, residual = np.full((4, 4, 3), 0.5, np.float32), np.full((4, 4, 3), 0.1, np.float32)
    rng = np.random.default_rng(0)
    chosen = LambdaRange(clean_share=0.25)
    factors = [lambda_augment(clean, residual, rng, range_=chosen)[2] for _ in range(2000)]
    # Three standard errors of 2000 draws are 0.029.
    assert np.mean(np.array(factors) == 0) == pytest.approx(0.25, abs=0.03)
    with pytest.raises(ValueError, match="low <= high"):
        LambdaRange(2.0, 1.0)
    with pytest.raises(ValueError, match="one shape"):
        lambda_augment(clean, residual[:2], rng)


def test_most_real_faces_get_visible_blemishes_on_skin_only() -> None:
    faces = aligned_faces([shared_folder("data", "portraits")], "val", 256, limit=30)
    shares = []
    for index, face in enumerate(faces):
        skin = blemish_skin(face.image, face.landmarks)
        assert not skin[features(face.landmarks, 256)].any()
        made = add_blemishes(face.image, face.landmarks, np.random.default_rng(index), skin=skin)
        assert not made.mask[skin == 0].any()
        shares.append(float((made.mask > 0.1).mean()))
    assert np.mean(np.array(shares) > 0.0005) > 0.8
    assert 0.002 < np.mean(shares) < 0.12
