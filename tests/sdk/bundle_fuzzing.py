"""Bundles with random damage: each is refused with an error of ours, or opens and is certified.

    python -m tests.sdk.bundle_fuzzing [--seed N] [--calls N]

A process of its own, whose memory is limited: a crash, a hang or a runaway allocation is seen from
outside. Damage that a digest would catch is signed again, so that it reaches what is behind.
"""

from __future__ import annotations

import argparse
import collections
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from revisage.bundle import Bundle, shipped_bundle
from revisage.bundle_archive import pack
from revisage.engines import open_engine
from revisage.errors import BundleError, EngineError, RevisageError
from tests.sdk.toy_bundle import sha256, write_toy_bundle

MEMORY_LIMIT = 4 << 30  # of addresses; the peak of what is really used is printed
NUMBERS = (b"\x00", b"\xff", b"\x7f", b"\x80\x80\x80\x80\x08", b"\xff" * 9 + b"\x01", b"\xff" * 12)


def damaged(random: np.random.Generator, content: bytes, until: int | None = None) -> bytes:
    """One edit or more before `until`: bytes changed (mostly), put in, taken out or doubled."""
    found = bytearray(content)
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        at = int(random.integers(0, min(len(found), until or len(found)) or 1))
        length = int(random.integers(1, 9))
        kind = max(0, int(random.integers(-4, 6)))
        if kind == 0:
            found[at : at + 1] = bytes([random.integers(0, 256)])
        elif kind == 1:
            found[at : at + length] = random.bytes(length)
        elif kind == 2:
            found[at : at + 1] = NUMBERS[random.integers(0, len(NUMBERS))]
        elif kind == 3:
            del found[at : at + length]
        elif kind == 4:
            found[at:at] = found[at : at + 40 * length]
        else:
            found = found[: max(1, len(found) - length)]
    return bytes(found)


def sign(folder: Path) -> None:
    """State the digests of what now lies in the folder."""
    certificate, manifest = folder / "certificate.json", folder / "manifest.json"
    model = sha256((folder / "model.onnx").read_bytes())
    text = json.loads(certificate.read_text())
    certificate.write_text(json.dumps({**text, "model_digest": model}))
    digests = {"model.onnx": model, "certificate.json": sha256(certificate.read_bytes())}
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "digests": digests}))


class Fuzzer:
    """The kinds of damage, each a method that leaves a bundle to be opened at the path it gives."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, np.random.default_rng(seed)
        shipped = shipped_bundle("face_finder")
        self.files = dict(shipped.files())
        self.archive = pack(shipped, folder / "whole.zip").read_bytes()

    def write(self, **changed: bytes) -> Path:
        place = self.folder / "real"
        place.mkdir(exist_ok=True)
        for name, content in self.files.items():
            (place / name).write_bytes(changed.get(name.partition(".")[0], content))
        return place

    def archive_structure(self) -> Path:
        """Headers and the directory of an archive; the model between them is left alone."""
        place, tail = self.folder / "damaged.zip", 400
        cut = len(self.archive) - tail if self.random.integers(0, 2) else 64
        first, second = self.archive[:cut], self.archive[cut:]
        if cut == 64:
            first = damaged(self.random, first)
        else:
            second = damaged(self.random, second)
        place.write_bytes(first + second)
        return place

    def manifest(self) -> Path:
        return self.write(manifest=damaged(self.random, self.files["manifest.json"]))

    def certificate(self) -> Path:
        place = self.write(certificate=damaged(self.random, self.files["certificate.json"]))
        text = json.loads((place / "manifest.json").read_text())
        text["digests"]["certificate.json"] = sha256((place / "certificate.json").read_bytes())
        (place / "manifest.json").write_text(json.dumps(text))
        return place

    def model(self) -> Path:
        """A real graph: its nodes stand before its weights."""
        place = self.write(model=damaged(self.random, self.files["model.onnx"], until=8000))
        sign(place)
        return place

    def toy(self) -> Path:
        """A graph of one node, where every byte matters."""
        place = write_toy_bundle(self.folder / "toy")
        model = place / "model.onnx"
        model.write_bytes(damaged(self.random, model.read_bytes()))
        sign(place)
        return place


def outcome(place: Path) -> str:
    """What became of one bundle; anything but an error of ours goes on up."""
    try:
        bundle = Bundle.open(place)
    except BundleError:
        return "refused"
    try:
        with open_engine(bundle, "cpu", threads=1):
            return "certified"
    except EngineError:
        return "not certified"
    except RevisageError:
        return "not for this engine"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--calls", type=int, default=60, help="of every kind of damage")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    counts: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), options.seed)
        kinds: list[Callable[[], Path]] = [
            *(fuzzer.archive_structure, fuzzer.manifest, fuzzer.certificate),
            *(fuzzer.model, fuzzer.toy),
        ]
        for call in range(options.calls):
            for kind in kinds:
                place = kind()
                print(f"{kind.__name__} {call}", flush=True)  # the last line names a crash
                start = time.perf_counter()
                counts[outcome(place)] += 1
                slowest = max(slowest, time.perf_counter() - start)
    print(json.dumps({**counts, "slowest": round(slowest, 2), "peak_mb": round(peak_megabytes())}))


def peak_megabytes() -> float:
    """Of this process. `ru_maxrss` would begin at the size of the process that started it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    (peak,) = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(peak) / 1024


if __name__ == "__main__":
    main()
