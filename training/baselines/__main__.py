"""The wrinkle baseline on a photo: `python -m revisage.training.baselines PHOTO -o OUT.png`.

    revisage faces PHOTO --json > faces.json
    python -m revisage.training.baselines PHOTO -o OUT.png --faces faces.json --mask MASK.png

Without faces the whole photo is taken for skin, which fits a crop of a cheek or a forehead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from revisage.errors import MediaError, OutputError, RecipeError, RevisageError
from revisage.training.baselines.gabor_wrinkles import remove_wrinkles

__all__ = ["main"]

Picture = npt.NDArray[np.uint8]


def _read(photo: Path) -> Picture:
    found = cv2.imread(str(photo), cv2.IMREAD_COLOR)
    if found is None:
        raise MediaError(f"{photo}: not a readable picture")
    return np.asarray(cv2.cvtColor(found, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _landmarks(faces: Path, photo: Path) -> npt.NDArray[np.float64]:
    """Landmarks [68, 2] of the largest face that `revisage faces --json` found in the photo."""
    try:
        entries = json.loads(faces.read_text(encoding="utf-8"))
        found = [
            face
            for entry in entries
            if Path(entry["photo"]).resolve() == photo.resolve()
            for face in entry["faces"]
        ]
        largest = max(found, key=lambda face: face["box"][2] * face["box"][3])
        return np.asarray(largest["landmarks"], dtype=np.float64).reshape(68, 2)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(
            f"{faces}: no face of {photo}; make it by `revisage faces {photo} --json` ({error})"
        ) from error


def _write(path: Path, picture: npt.NDArray[np.uint8], *, force: bool) -> None:
    if path.exists() and not force:
        raise OutputError(f"{path} exists already: remove it, or use --force")
    try:
        done, data = cv2.imencode(path.suffix or ".png", picture)
        if not done:
            raise OutputError(f"{path}: cannot be encoded")
        path.write_bytes(data.tobytes())
    except (OSError, cv2.error) as error:
        raise OutputError(f"{path}: cannot be written ({error})") from error


def _run(args: argparse.Namespace) -> None:
    image = _read(args.photo)
    points = None if args.faces is None else _landmarks(args.faces, args.photo)
    result, mask = remove_wrinkles(image, points, seed=args.seed)
    _write(args.out, np.ascontiguousarray(result[..., ::-1]), force=args.force)
    if args.mask is not None:
        _write(args.mask, mask * np.uint8(255), force=args.force)
    print(f"{args.out}: {100 * float(mask.mean()):.2f} % of the pixels replaced")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m revisage.training.baselines",
        description="Remove wrinkles by Gabor features and texture synthesis (Batool, Chellappa).",
    )
    parser.add_argument("photo", type=Path, metavar="PHOTO")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="PICTURE")
    parser.add_argument("--mask", type=Path, metavar="PICTURE", help="write what was replaced")
    parser.add_argument("--faces", type=Path, metavar="FILE", help="of `revisage faces --json`")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="replace existing files")
    try:
        _run(parser.parse_args(argv))
    except RevisageError as error:
        print(f"revisage: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
