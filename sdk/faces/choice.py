"""Which of the faces that were found are meant."""

from __future__ import annotations

from collections.abc import Sequence

from revisage.errors import NoFaceError, OptionError
from revisage.faces.face import Face, overlap

__all__ = ["choose_faces"]


def choose_faces(
    faces: Sequence[Face], which: str | tuple[float, float, float, float] = "all"
) -> list[Face]:
    """Choose faces.

    Args:
        which: "all", "largest" (by the area of the box), or a box (x, y, width, height) in photo
            pixels, which chooses the face that overlaps it most.

    Returns:
        The chosen faces; an empty list only for "all" and "largest" of no faces.

    Raises:
        OptionError: `which` is none of these.
        NoFaceError: no face overlaps the box.
    """
    if which == "all":
        return list(faces)
    if which == "largest":
        return sorted(faces, key=lambda face: face.box[2] * face.box[3])[-1:]
    if isinstance(which, str) or len(which) != 4 or not (which[2] > 0 and which[3] > 0):
        raise OptionError(
            f"faces={which!r}: choose 'all', 'largest' or a box (x, y, width, height) in pixels"
        )
    box = (float(which[0]), float(which[1]), float(which[2]), float(which[3]))
    best = max(faces, key=lambda face: overlap(face.box, box), default=None)
    if best is None or overlap(best.box, box) == 0.0:
        raise NoFaceError(f"no face lies in the box {box}; `revisage faces` lists what was found")
    return [best]
