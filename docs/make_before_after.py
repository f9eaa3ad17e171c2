"""Make `before_after.jpg`: the face of scikit-image's portrait before and after, enlarged.

    python docs/make_before_after.py

The photo shows Eileen Collins (NASA, public domain).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import revisage as rv


def main() -> None:
    """Write the picture beside this file."""
    photo = data.astronaut()
    result = rv.Session(device="cpu").retouch(photo, rv.Retouch(wrinkles=1.0))
    x, y, w, h = result.faces[0].box
    side = round(1.5 * max(w, h))
    left, top = round(x + w / 2 - side / 2), round(y + h / 2 - side / 2)
    cut = (slice(max(0, top), top + side), slice(max(0, left), left + side))
    pair = np.concatenate([photo[cut], np.asarray(result.image)[cut]], axis=1)
    picture = Image.fromarray(pair).resize((1200, 600), Image.Resampling.LANCZOS)
    picture.save(Path(__file__).with_name("before_after.jpg"), quality=90)


if __name__ == "__main__":
    main()
