"""How long a retouch takes once the networks are loaded, and how much memory a large photo needs.

    python benchmarks/end_to_end/bench_image.py [PHOTO] [--threads 2] [--runs 9]

Time: PHOTO (or the portrait that comes with scikit-image) cropped to its largest face and brought
to 1024 x 1024 px, in memory, with the stages of the receipt: median and range over the runs.
Memory: `revisage retouch` on a 12-megapixel JPEG of the same picture, in a process of its own: its
peak resident memory as the operating system accounts it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import revisage as rv

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import OtherLoad, machine


def portrait(session: rv.Session, picture: Image.Image, side: int) -> Image.Image:
    """A square around the largest face, twice the height of its box, at `side` pixels."""
    x, y, w, h = max(session.find_faces(picture), key=lambda face: face.box[3]).box
    reach = h
    middle_x, middle_y = x + w / 2, y + h / 2
    box = (middle_x - reach, middle_y - reach, middle_x + reach, middle_y + reach)
    inside = (
        max(0, box[0]), max(0, box[1]), min(picture.width, box[2]), min(picture.height, box[3]),
    )  # fmt: skip
    return picture.crop(tuple(round(v) for v in inside)).resize(
        (side, side), Image.Resampling.BICUBIC
    )


def peak_memory_mb(photo: Path, out: Path, threads: int) -> float:
    """Peak resident memory of `revisage retouch` in megabytes (10^6 bytes)."""
    command = [sys.executable, "-c", "from revisage.cli import main; raise SystemExit(main())"]
    command += ["retouch", str(photo), "-o", str(out), "--threads", str(threads), "--quiet"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"revisage retouch failed with {process.returncode}")
    return usage.ru_maxrss * 1024 / 1e6


def main() -> None:
    """Print one JSON report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photo", nargs="?", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()

    picture = Image.open(options.photo) if options.photo else Image.fromarray(data.astronaut())
    session = rv.Session(device="cpu", threads=options.threads)
    photo = np.asarray(portrait(session, picture.convert("RGB"), 1024))
    session.retouch(photo, rv.Retouch(wrinkles=1.0))  # loads the networks
    seconds: list[float] = []
    load = OtherLoad()
    for _ in range(options.runs):
        started = time.perf_counter()
        result = session.retouch(photo, rv.Retouch(wrinkles=1.0))
        seconds.append(time.perf_counter() - started)
    others = load.share()
    with tempfile.TemporaryDirectory() as folder:
        large = Image.fromarray(photo).resize((4000, 3000), Image.Resampling.BICUBIC)
        large.save(Path(folder, "large.jpg"), quality=92)
        memory = peak_memory_mb(Path(folder, "large.jpg"), Path(folder, "out.jpg"), options.threads)
    report = {
        "machine": machine(),
        "threads": options.threads,
        "faces": len(result.faces),
        "seconds_1024px": {
            "median": round(statistics.median(seconds), 3),
            "lowest": round(min(seconds), 3),
            "highest": round(max(seconds), 3),
        },
        "other_processes_took": round(others, 3),
        "stages_ms": {k: round(v, 1) for k, v in result.receipt.milliseconds.items()},
        "peak_memory_mb_12_megapixel_jpeg": round(memory),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
