"""Faces in photos: find them, follow them, choose among them.

`FaceFinder.find` searches a photo, `FaceFinder.track` follows known faces into the next frame.
Placing a face in its square is `revisage.alignment.square_matrix`.
"""

from __future__ import annotations

from revisage.faces.choice import choose_faces
from revisage.faces.face import Face
from revisage.faces.finder import FaceFinder

__all__ = ["Face", "FaceFinder", "choose_faces"]
