"""Readers of the folder layouts of public face data sets.

| layout | folder holds | splits |
|---|---|---|
| portraits | `annotations.jsonl` (see `portraits.py`) | train, val, test |
| FFHQ | `ffhq-dataset-v2.json`, `images1024x1024/00000/00000.png` | train (0 to 59999), val |
| FFHQ-Wrinkle | FFHQ pictures, `manual_wrinkle_masks/00001.png`, `weak_wrinkle_masks/00000/00000.png` | train, test (`test_file_lists.txt`) |
| FFHQR | FFHQ pictures, and a second folder of the same layout, retouched | train (0 to 55999), val (to 62999), test |
| CelebA | `img_align_celeba/000001.jpg`, `list_eval_partition.txt`, `list_landmarks_align_celeba.txt`, `identity_CelebA.txt` | train, val, test |
| VGGFace2 | `train/n000002/0001_01.jpg`, `bb_landmark/loose_landmark_train.csv` | train, test |
| CASIA-WebFace | `0000045/001.jpg` | none |
| MaskedFace-Net | `CMFD/00000/00000_Mask.jpg`, `IMFD/00000/00000_Mask_Mouth_Chin.jpg`, and FFHQ | as FFHQ |

Sources: the read-me files of NVlabs/ffhq-dataset, labhai/ffhq-wrinkle-dataset,
skylab-tech/ffhqr-dataset, ox-vgg/vgg_face2 and cabani/MaskedFace-Net, and the text files that come
with CelebA. Nothing is decoded until `FaceRecord.image` is called.
"""  # noqa: E501

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from revisage.errors import MediaError, RecipeError
from revisage.training.data.portraits import read_portraits

__all__ = [
    "FaceRecord",
    "by_identity",
    "read_casia_webface",
    "read_celeba",
    "read_faces",
    "read_ffhq",
    "read_ffhq_wrinkles",
    "read_ffhqr",
    "read_masked_faces",
    "read_vggface2",
]

Points = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class FaceRecord:
    """One picture of a data set; decoded when `image` is called.

    id: unique in its data set.
    identity: the same for pictures of the same person; the id where nobody is known to repeat.
    split: "train", "val" or "test"; "" where the data set defines none.
    landmarks: [68, 2] (iBUG 300-W) or [5, 2] (eyes, nose, mouth corners) in pixels, or None.
    companions: other pictures of the same face: "wrinkles", "weak_wrinkles", "retouched", "clean".
    kind: for MaskedFace-Net how the mask is worn: "correct", "nose_out", "chin_out", "chin_only".
    extra: what else the data set says.
    """

    id: str
    path: Path
    identity: str
    split: str
    landmarks: Points | None = None
    companions: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    kind: str = ""
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def image(self, companion: str = "") -> npt.NDArray[np.uint8]:
        """The picture, or a companion, as [H, W, 3] uint8 RGB; masks as [H, W] uint8.

        Raises:
            KeyError: no companion of that name.
            MediaError: the file cannot be decoded.
        """
        path = self.companions[companion] if companion else self.path
        mask = companion in ("wrinkles", "weak_wrinkles")
        data = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE if mask else cv2.IMREAD_COLOR)
        if data is None:
            raise MediaError(f"{path}: not a readable picture")
        return np.asarray(data if mask else cv2.cvtColor(data, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def by_identity(records: Iterable[FaceRecord], least: int = 2) -> dict[str, list[FaceRecord]]:
    """Pictures of people with at least `least` of them, in the order given."""
    groups: dict[str, list[FaceRecord]] = {}
    for record in records:
        groups.setdefault(record.identity, []).append(record)
    return {name: group for name, group in groups.items() if len(group) >= least}


def _text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {what} should be there ({error})") from error


def _first(folder: Path, names: Sequence[str], what: str) -> Path:
    """The first of several places that exists."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise RecipeError(f"{folder}: {what} not found; looked for {', '.join(names)}")


def _files(folder: Path, pattern: re.Pattern[str]) -> dict[str, Path]:
    """Files under a folder whose name matches: stem -> path, sorted by stem."""
    found = {}
    for root, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if pattern.fullmatch(name):
                found[Path(name).stem] = Path(root) / name
    return dict(sorted(found.items()))


def _finished(
    records: list[FaceRecord],
    folder: Path,
    layout: str,
    split: str | None,
    splits: Sequence[str],
    *,
    partial: bool,
) -> list[FaceRecord]:
    """The wanted split, with all of its files there.

    Listing folders once is much faster than asking for each of tens of thousands of files.
    """
    if split is not None and split not in splits:
        has = f"the splits {', '.join(splits)}" if splits else "no splits: ask for None"
        raise RecipeError(f"{folder}: {layout} has {has}, not {split!r}")
    wanted = [record for record in records if split is None or record.split == split]
    listed: dict[Path, set[str]] = {}

    def missing(path: Path) -> bool:
        names = listed.get(path.parent)
        if names is None:
            try:
                names = {entry.name for entry in os.scandir(path.parent)}
            except OSError:
                names = set()
            listed[path.parent] = names
        return path.name not in names

    kept, lost = [], []
    for record in wanted:
        gone = [path for path in (record.path, *record.companions.values()) if missing(path)]
        lost.extend(gone)
        if not gone:
            kept.append(record)
    if lost and not partial:
        raise RecipeError(
            f"{folder}: {len(lost)} files of {layout} are missing, the first is {lost[0]}; "
            "complete the download, or read with partial=True to leave them out"
        )
    if not kept:
        what = f"split {split!r}" if split else "any split"
        raise RecipeError(f"{folder}: no picture of {layout} in {what}")
    return kept


_FFHQ_SPLITS = {"training": "train", "validation": "val"}
_NUMBER = re.compile(r"\d{5}\.png")


def _ffhq_split(number: int) -> str:
    return "train" if number < 60000 else "val"


def read_ffhq(
    folder: str | Path, split: str | None = None, *, partial: bool = False
) -> list[FaceRecord]:
    """Flickr-Faces-HQ: aligned 1024 px pictures with 68 landmarks (Karras et al. 2019).

    Args:
        folder: holds `ffhq-dataset-v2.json` and the folder `images1024x1024`.
        split: "train" (the first 60 000), "val", or None.
        partial: leave out pictures that are not there instead of raising.

    Raises:
        RecipeError: not that layout, an unknown split, or missing pictures.
    """
    folder = Path(folder)
    listing = folder / "ffhq-dataset-v2.json"
    text = _text(listing, "the metadata of FFHQ")
    records = []
    try:
        for key, entry in json.loads(text).items():
            image = entry["image"]
            landmarks = np.asarray(image["face_landmarks"], dtype=np.float64).reshape(68, 2)
            records.append(
                FaceRecord(
                    id=f"{int(key):05d}",
                    path=folder / image["file_path"],
                    identity=f"{int(key):05d}",
                    split=_FFHQ_SPLITS[entry["category"]],
                    landmarks=landmarks,
                    extra=entry.get("metadata", {}),
                )
            )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RecipeError(f"{listing}: not the metadata of FFHQ, version 2 ({error!r})") from error
    return _finished(records, folder, "FFHQ", split, ("train", "val"), partial=partial)


def _ffhq_path(folder: Path, number: int) -> Path:
    return folder / "images1024x1024" / f"{number // 1000 * 1000:05d}" / f"{number:05d}.png"


def read_ffhq_wrinkles(
    folder: str | Path, split: str | None = None, *, weak: bool = False, partial: bool = False
) -> list[FaceRecord]:
    """FFHQ-Wrinkle: wrinkle masks over FFHQ pictures (Moon, Chung and Jang 2024).

    Args:
        folder: holds `images1024x1024` and `manual_wrinkle_masks` (or `weak_wrinkle_masks`).
        split: "train", "test" (the numbers in `test_file_lists.txt`, where that file is), or None.
        weak: the 50 000 automatic texture masks as companion "weak_wrinkles", instead of the 1 000
            manual ones as companion "wrinkles".
    """
    folder = Path(folder)
    kind = "weak" if weak else "manual"
    names = (f"{kind}_wrinkle_masks", f"{kind}-wrinkle-masks")
    masks = _files(_first(folder, names, f"the {kind} masks of FFHQ-Wrinkle"), _NUMBER)
    listing = folder / "test_file_lists.txt"
    held_out = set(_text(listing, "the list").split()) if listing.exists() else set()
    companion = "weak_wrinkles" if weak else "wrinkles"
    records = [
        FaceRecord(
            id=name,
            path=_ffhq_path(folder, int(name)),
            identity=name,
            split="test" if name in held_out else "train",
            companions={companion: path},
        )
        for name, path in masks.items()
    ]
    splits = ("train", "test") if held_out else ("train",)
    return _finished(records, folder, "FFHQ-Wrinkle", split, splits, partial=partial)


def read_ffhqr(
    ffhq: str | Path, retouched: str | Path, split: str | None = None, *, partial: bool = False
) -> list[FaceRecord]:
    """FFHQR: FFHQ pictures with companion "retouched" of the same number (Shafaei et al. 2021).

    Args:
        ffhq: holds `images1024x1024` of FFHQ.
        retouched: holds the retouched pictures, `00000/00000.png`, under any folder.
        split: "train" (folders 00000 to 55000), "val" (56000 to 62000), "test", or None.
    """
    ffhq, retouched = Path(ffhq), Path(retouched)

    def split_of(number: int) -> str:
        return "train" if number < 56000 else "val" if number < 63000 else "test"

    records = [
        FaceRecord(
            id=name,
            path=_ffhq_path(ffhq, int(name)),
            identity=name,
            split=split_of(int(name)),
            companions={"retouched": path},
        )
        for name, path in _files(retouched, _NUMBER).items()
    ]
    splits = ("train", "val", "test")
    return _finished(records, retouched, "FFHQR", split, splits, partial=partial)


def _celeba_table(path: Path, what: str, columns: int, head: int) -> dict[str, list[str]]:
    """Rows of a CelebA text file: picture -> the other columns."""
    table = {}
    for number, line in enumerate(_text(path, what).splitlines()[head:], start=head + 1):
        cells = line.split()
        if not cells:
            continue
        if len(cells) != columns + 1:
            raise RecipeError(f"{path}: line {number} has {len(cells)} columns, not {columns + 1}")
        table[cells[0]] = cells[1:]
    return table


def read_celeba(
    folder: str | Path, split: str | None = None, *, partial: bool = False
) -> list[FaceRecord]:
    """CelebA, aligned and cropped to 178 x 218, with 5 landmarks and identities (Liu et al. 2015).

    Args:
        folder: holds `img_align_celeba`, and the text files beside it or in `Anno` and `Eval`.
        split: "train" (0 in `list_eval_partition.txt`), "val" (1), "test" (2), or None.
    """
    folder = Path(folder)

    def table(name: str, columns: int, head: int = 0) -> dict[str, list[str]]:
        places = [f"{part}{name}" for part in ("", "Anno/", "Eval/")]
        return _celeba_table(_first(folder, places, f"{name} of CelebA"), name, columns, head)

    partition = table("list_eval_partition.txt", 1)
    landmarks = table("list_landmarks_align_celeba.txt", 10, head=2)  # a count, then the names
    identities = table("identity_CelebA.txt", 1)
    pictures = _first(
        folder, ("img_align_celeba", "Img/img_align_celeba"), "the pictures of CelebA"
    )
    names = {"0": "train", "1": "val", "2": "test"}
    records = []
    for name, (part,) in partition.items():
        try:
            points = np.array(landmarks[name], dtype=np.float64).reshape(5, 2)
            records.append(
                FaceRecord(
                    id=Path(name).stem,
                    path=pictures / name,
                    identity=identities[name][0],
                    split=names[part],
                    landmarks=points,
                )
            )
        except (KeyError, ValueError) as error:
            raise RecipeError(
                f"{folder}: the text files of CelebA do not agree about {name} ({error!r})"
            ) from error
    splits = ("train", "val", "test")
    return _finished(records, folder, "CelebA", split, splits, partial=partial)


_PICTURE = re.compile(r".+\.(jpg|jpeg|png)", re.IGNORECASE)


def _identity_folders(folder: Path, pattern: re.Pattern[str]) -> list[tuple[str, Path]]:
    """Pictures in folders named after identities: (identity, path), sorted."""
    found: list[tuple[str, Path]] = []
    for identity in sorted(folder.iterdir()):
        if identity.is_dir() and pattern.fullmatch(identity.name):
            names = sorted(entry.name for entry in os.scandir(identity))
            found.extend((identity.name, identity / n) for n in names if _PICTURE.fullmatch(n))
    return found


def _vggface2_landmarks(path: Path) -> dict[str, Points]:
    """`NAME_ID,P1X,P1Y,...,P5Y` -> identity/picture -> [5, 2]."""
    points = {}
    for number, row in enumerate(csv.reader(_text(path, "the landmarks").splitlines()), start=1):
        if number == 1 or not row:
            continue
        try:
            points[row[0]] = np.array(row[1:], dtype=np.float64).reshape(5, 2)
        except ValueError as error:
            raise RecipeError(
                f"{path}: line {number} is not a name and 5 points ({error})"
            ) from error
    return points


def read_vggface2(folder: str | Path, split: str | None = None) -> list[FaceRecord]:
    """VGGFace2: loosely cropped pictures in folders of identities (Cao et al. 2018).

    Args:
        folder: holds `train` and `test` (or `data/train`, `data/test`) with folders `n000001`, and
            where there are landmarks `bb_landmark/loose_landmark_train.csv`.
        split: "train", "test", or None for those that are there.

    Raises:
        RecipeError: not that layout, or landmarks that miss a picture.
    """
    folder = Path(folder)
    records = []
    for name in ("train", "test"):
        if split not in (None, name):
            continue
        places = [place for place in (folder / name, folder / "data" / name) if place.is_dir()]
        if not places:
            continue
        listing = folder / "bb_landmark" / f"loose_landmark_{name}.csv"
        if not listing.exists():
            listing = folder / "meta" / "bb_landmark" / f"loose_landmark_{name}.csv"
        landmarks = _vggface2_landmarks(listing) if listing.exists() else None
        for identity, path in _identity_folders(places[0], re.compile(r"n\d{6}")):
            key = f"{identity}/{path.stem}"
            if landmarks is not None and key not in landmarks:
                raise RecipeError(f"{listing}: no landmarks of {key}, though the picture is there")
            points = landmarks[key] if landmarks is not None else None
            records.append(FaceRecord(key, path, identity, name, points))
    return _finished(records, folder, "VGGFace2", split, ("train", "test"), partial=False)


def read_casia_webface(folder: str | Path, split: str | None = None) -> list[FaceRecord]:
    """CASIA-WebFace: pictures in folders of identities named by numbers (Yi et al. 2014).

    Args:
        folder: holds folders such as `0000045` with pictures such as `001.jpg`.
        split: only None, because the data set defines no splits.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise RecipeError(f"{folder}: no such folder")
    records = [
        FaceRecord(f"{identity}/{path.stem}", path, identity, "")
        for identity, path in _identity_folders(folder, re.compile(r"\d{3,8}"))
    ]
    return _finished(records, folder, "CASIA-WebFace", split, (), partial=False)


# What the mask covers, as the file names say -> how it is worn.
_WORN = {
    "Mask": "correct",
    "Mask_Mouth_Chin": "nose_out",
    "Mask_Nose_Mouth": "chin_out",
    "Mask_Chin": "chin_only",
}
_MASKED = re.compile(r"(\d{5})_(Mask|Mask_Mouth_Chin|Mask_Nose_Mouth|Mask_Chin)\.(jpg|png)")


def read_masked_faces(
    folder: str | Path, ffhq: str | Path, split: str | None = None, *, partial: bool = False
) -> list[FaceRecord]:
    """MaskedFace-Net (CMFD and IMFD) with companion "clean", the FFHQ picture of the same number.

    Cabani et al. 2020. `kind` tells how the mask is worn.

    Args:
        folder: holds `CMFD` or `IMFD` or both, or the pictures of one of them, in any depth.
        ffhq: holds `images1024x1024` of FFHQ.
        split: as in FFHQ: "train" below number 60 000, "val" from there, or None.
    """
    folder, ffhq = Path(folder), Path(ffhq)
    records = []
    for name, path in _files(folder, _MASKED).items():
        number, _, worn = name.partition("_")
        records.append(
            FaceRecord(
                id=name,
                path=path,
                identity=number,
                split=_ffhq_split(int(number)),
                companions={"clean": _ffhq_path(ffhq, int(number))},
                kind=_WORN[worn],
            )
        )
    splits = ("train", "val")
    return _finished(records, folder, "MaskedFace-Net", split, splits, partial=partial)


def _read_portraits(folder: str | Path, split: str | None = None) -> list[FaceRecord]:
    return [
        FaceRecord(
            id=portrait.id,
            path=portrait.path,
            identity=portrait.identity,
            split=portrait.split,
            landmarks=portrait.landmarks.astype(np.float64),
            extra={"face_px": portrait.face_px, **portrait.extra},
        )
        for portrait in read_portraits(folder, split)
    ]


# File or folder that tells a layout -> its reader; the first that is there counts.
_LAYOUTS: tuple[tuple[str, Callable[..., list[FaceRecord]]], ...] = (
    ("annotations.jsonl", _read_portraits),
    ("manual_wrinkle_masks", read_ffhq_wrinkles),
    ("manual-wrinkle-masks", read_ffhq_wrinkles),
    ("ffhq-dataset-v2.json", read_ffhq),
    ("img_align_celeba", read_celeba),
    ("Img/img_align_celeba", read_celeba),
    ("train", read_vggface2),
    ("data/train", read_vggface2),
)


def read_faces(folder: str | Path, split: str | None = None) -> list[FaceRecord]:
    """Read a folder in whichever layout it has (those that need one folder only).

    Raises:
        RecipeError: no known layout, an unknown split, or missing files.
    """
    if not Path(folder).is_dir():
        raise RecipeError(
            f"{folder}: no such folder here ({Path.cwd()}); name the folder of your pictures with "
            "--set 'data.portraits=[\"FOLDER\"]'"
        )
    for sign, reader in _LAYOUTS:
        if (Path(folder) / sign).exists():
            return reader(folder, split)
    signs = ", ".join(sign for sign, _ in _LAYOUTS)
    raise RecipeError(
        f"{folder}: not a known layout of face pictures; one of {signs} should be in it. For "
        "pictures of your own, make annotations.jsonl with revisage faces and "
        "python -m revisage.training.data.annotate (see docs/training.md)"
    )
