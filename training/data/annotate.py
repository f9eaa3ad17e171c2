"""Annotations of your own pictures, from what `revisage faces` finds in them.

    revisage faces FOLDER/*.jpg --json > faces.json
    python -m revisage.training.data.annotate faces.json FOLDER

writes `FOLDER/annotations.jsonl`, the layout that every recipe reads as a folder of `portraits` (see
`portraits.py`). The landmarks are a network's, and nobody checks them: look at the pictures first,
and delete lines of faces that you do not want.
"""  # noqa: E501

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from revisage.errors import OutputError, RecipeError, RevisageError

__all__ = ["annotation_lines", "main", "write_annotations"]

NAME = "annotations.jsonl"
IDENTITIES = ("photo", "folder")
LANDMARKS = 68


def _face(face: Any, where: str) -> dict[str, Any]:
    """Box, landmarks, score and pose of one face, checked."""
    try:
        box = np.asarray(face["box"], dtype=np.float64).reshape(4)
        landmarks = np.asarray(face["landmarks"], dtype=np.float64).reshape(LANDMARKS, 2)
        numbers = {name: float(face[name]) for name in ("score", "yaw", "pitch", "roll")}
    except (KeyError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{where}: not a face of `revisage faces --json` ({type(error).__name__}: {error})"
        ) from error
    if not (np.isfinite(box).all() and np.isfinite(landmarks).all() and box[2:].min() > 0):
        raise RecipeError(f"{where}: a box or landmarks that are no pixels")
    return {"box": box.tolist(), "landmarks": landmarks.tolist(), **numbers}


def _place(photo: Any, folder: Path, where: str) -> str:
    """Path of a photo below the folder."""
    try:
        path = Path(photo["photo"])
        inside = path.resolve().relative_to(folder.resolve())
    except (KeyError, TypeError) as error:
        raise RecipeError(
            f"{where}: not an entry of `revisage faces --json` ({error!r})"
        ) from error
    except ValueError as error:
        raise RecipeError(f"{path} is not in {folder}: name the folder of the photos") from error
    if not path.is_file():
        raise RecipeError(f"{path}: no such photo; run from the folder where faces.json was made")
    return inside.as_posix()


def _held_out(identities: Sequence[str], share: float) -> set[str]:
    """The people to validate on: always the same of the same names, and at least one."""
    people = sorted(set(identities), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    if len(people) < 2:
        raise RecipeError(
            f"{len(people)} identities: training needs two or more, one of them to validate on; "
            "add photos, or let every photo be one (--identity photo)"
        )
    count = min(len(people) - 1, max(1, math.ceil(share * len(people))))
    return set(people[:count])


def annotation_lines(
    photos: Any,
    folder: str | Path,
    *,
    identity: str = "photo",
    held_out: float = 0.1,
    smallest: float = 64.0,
) -> list[dict[str, Any]]:
    """Lines of `annotations.jsonl`.

    Args:
        photos: what `revisage faces --json` printed, read.
        folder: holds the photos, in any depth; `photo` of each entry is a path from here to it.
        identity: "photo": every face is another person. "folder": photos in one sub-folder show the
            person it is named after; the largest face of each photo counts.
        held_out: share of the identities that get split "val", the others "train"; at least one
            gets each.
        smallest: leave out faces whose box is narrower, in pixels.

    Raises:
        RecipeError: not such a list, a photo that is elsewhere, or too few faces.
    """
    if identity not in IDENTITIES:
        raise RecipeError(f"identity: no {identity!r}; known: {', '.join(IDENTITIES)}")
    if not 0 <= held_out < 1:
        raise RecipeError(f"the share to hold out is in [0, 1), not {held_out}")
    if not isinstance(photos, list):
        raise RecipeError("not a list of photos, as `revisage faces --json` prints it")
    folder, lines = Path(folder), []
    for number, photo in enumerate(photos):
        where = f"photo {number}"
        file = _place(photo, folder, where)
        try:
            width, height, found = int(photo["width"]), int(photo["height"]), photo["faces"]
            faces = [_face(face, f"{file}, face {i}") for i, face in enumerate(found)]
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(
                f"{file}: not an entry of `revisage faces --json` ({error!r})"
            ) from error
        faces = [face for face in faces if face["box"][2] >= smallest]
        if identity == "folder":
            if "/" not in file:
                raise RecipeError(
                    f"{file} lies in no sub-folder of {folder}, after which its person is named"
                )
            faces = sorted(faces, key=lambda face: -face["box"][2])[:1]
        for index, face in enumerate(faces):
            name = file if len(faces) == 1 else f"{file}#{index}"
            lines.append(
                {
                    "id": name,
                    "file": file,
                    "identity": file.rpartition("/")[0] if identity == "folder" else name,
                    "split": "",  # known when all identities are
                    "width": width,
                    "height": height,
                    "face_px": face["box"][2],
                    "native_face_px": face["box"][2],
                    **face,
                }
            )
    if not lines:
        raise RecipeError(f"no face of {smallest:g} px or more in {len(photos)} photos")
    chosen = _held_out([line["identity"] for line in lines], held_out)
    for line in lines:
        line["split"] = "val" if line["identity"] in chosen else "train"
    return lines


def write_annotations(
    lines: Sequence[dict[str, Any]], folder: str | Path, *, force: bool = False
) -> Path:
    """Write `annotations.jsonl` into a folder, whole or not at all.

    Raises:
        OutputError: it is there already and `force` is not set, or it cannot be written.
    """
    place = Path(folder) / NAME
    if place.exists() and not force:
        raise OutputError(f"{place} exists already: move it away, or give --force")
    partial = place.with_name(f".{NAME}.partial")
    try:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, place)
    except OSError as error:
        raise OutputError(f"{place}: cannot be written ({error.strerror})") from error
    finally:
        if partial.parent.is_dir():
            partial.unlink(missing_ok=True)
    return place


def _read(path: str) -> Any:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are
        raise RecipeError(
            f"{path}: not what `revisage faces --json` prints ({error}); did it end with an error?"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code, 2 with one line on stderr where input is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m revisage.training.data.annotate",
        description="Write FOLDER/annotations.jsonl from the output of `revisage faces --json`.",
    )
    parser.add_argument("faces", metavar="FACES.json", help="that output; - reads standard input")
    parser.add_argument("folder", metavar="FOLDER", help="folder of the photos")
    parser.add_argument(
        "--identity",
        choices=IDENTITIES,
        default="photo",
        help="who is the same person: nobody (photo, default), or those in one sub-folder (folder)",
    )
    parser.add_argument(
        "--held-out",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of the identities to validate on; default 0.1",
    )
    parser.add_argument(
        "--smallest",
        type=float,
        default=64.0,
        metavar="PX",
        help="leave out faces that are narrower; default 64",
    )
    parser.add_argument("--force", action="store_true", help="replace annotations that are there")
    args = parser.parse_args(argv)
    try:
        lines = annotation_lines(
            _read(args.faces),
            args.folder,
            identity=args.identity,
            held_out=args.held_out,
            smallest=args.smallest,
        )
        place = write_annotations(lines, args.folder, force=args.force)
    except RevisageError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    val = sum(line["split"] == "val" for line in lines)
    people = len({line["identity"] for line in lines})
    print(f"{place}: {len(lines) - val} faces to train on, {val} to validate, {people} identities")
    return 0


if __name__ == "__main__":
    sys.exit(main())
