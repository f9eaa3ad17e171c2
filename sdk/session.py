"""The front door: a `Session` keeps engines loaded and retouches photos and video."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from revisage import env
from revisage.errors import NoFaceError, OptionError
from revisage.manifest import ENGINES, PRECISIONS
from revisage.operations import Operation, bundles_of, make_operation
from revisage.options import Retouch
from revisage.pixels import Pixels, open_pixels
from revisage.results import Receipt, Result, Stopwatch

if TYPE_CHECKING:
    from revisage.edit import Edit
    from revisage.faces import Face
    from revisage.video import FrameBatch, VideoReader

__all__ = ["EngineChoice", "FaceSource", "Parts", "Session"]

FACE_BUNDLES = ("face_finder", "face_landmarks")
_MAX_THREADS = 1024


class FaceSource(Protocol):
    """What a session needs of a face finder (`revisage.faces.FaceFinder` is one).

    Photos come as Note [Photos] in `revisage.pixels` says. Methods are called from any thread.
    """

    def find(self, photo: Any) -> list[Face]:
        """Every face of a photo."""

    def track(self, photo: Any, previous: Sequence[Face]) -> list[Face]:
        """The faces of a frame, given those of the frame before."""


@dataclasses.dataclass(frozen=True)
class EngineChoice:
    """What a session's networks run on: arguments of `revisage.engines.open_engine`."""

    device: str = "auto"
    engine: str | None = None
    precision: str = "fp32"
    threads: int | None = None


def _shipped_faces(choice: EngineChoice) -> FaceSource:
    from revisage.faces import FaceFinder

    # At fp32 whatever the operations run at: landmarks decide where everything else looks.
    finder = FaceFinder(device=choice.device, threads=choice.threads, engine=choice.engine)
    for bundle in FACE_BUNDLES:
        finder.engine(bundle)  # loads it now, so that finding is not timed with loading
    return finder


def _shipped_engine(bundle: str, choice: EngineChoice) -> Any:
    from revisage.bundle import shipped_bundle
    from revisage.engines import open_engine

    return open_engine(shipped_bundle(bundle), **dataclasses.asdict(choice))


@dataclasses.dataclass(frozen=True)
class Parts:
    """Where a session gets its networks; the default takes those that ship with Revisage.

    Give other ones to use your own models, or simple stand-ins in tests.
    """

    faces: Callable[[EngineChoice], FaceSource] = _shipped_faces
    engine: Callable[[str, EngineChoice], Any] = _shipped_engine  # the name of a bundle, on what


class Session:
    """Retouches photos and video; engines load on first use and stay until `close`.

    One session may be used from several threads at once. It is a context manager.

    Args:
        device: "cpu", "cuda", or "auto" for the best that works here (the receipt says why).
        threads: CPU threads; None takes `REVISAGE_NUM_THREADS`, else all usable cores. The result
            does not depend on it.
        engine: one of `revisage.manifest.ENGINES`, and no other; None: the best on the device.
        precision: "fp32", "fp16", "bf16" or "int8" for the networks of the operations. Faces are
            always found at fp32.
        parts: where networks come from; the default is the bundles in the package.

    Raises:
        OptionError: an unknown device, engine, precision or thread count (an engine that cannot
            run shows on first use, as DeviceError).
    """

    def __init__(
        self,
        device: str = "auto",
        threads: int | None = None,
        *,
        engine: str | None = None,
        precision: str = "fp32",
        parts: Parts | None = None,
    ) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise OptionError(f"device {device!r} is not one of auto, cpu, cuda")
        if engine is not None and engine not in ENGINES:
            raise OptionError(f"engine {engine!r} is not one of {', '.join(ENGINES)}")
        if precision not in PRECISIONS:
            raise OptionError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
        threads = env.number_of_threads() if threads is None else threads
        if threads is not None and (
            isinstance(threads, bool)
            or not isinstance(threads, int)
            or not 1 <= threads <= _MAX_THREADS
        ):
            raise OptionError(f"threads={threads!r} is not a whole number from 1 to {_MAX_THREADS}")
        self.device = device
        self.threads = threads
        self._choice = EngineChoice(device, engine, precision, threads)
        self._parts = parts or Parts()
        self._lock = threading.RLock()
        self._faces: FaceSource | None = None
        self._engines: dict[str, Any] = {}
        self._operations: dict[str, Operation] = {}

    # --- photos ----------------------------------------------------------------------------------

    def find_faces(self, photo: Any) -> list[Face]:
        """Every face of a photo (Note [Photos] in `revisage.pixels`).

        Returns:
            `Face`s with box (x, y, w, h) and landmarks [68, 2] in photo pixels, largest first as
            the finder orders them; empty where there is none.
        """
        pixels, _ = open_pixels(photo)
        return self._face_source().find(pixels)

    def retouch(
        self,
        photo: Any,
        options: Retouch,
        faces: Sequence[Face] | Literal["all", "largest"] | None = None,
    ) -> Result:
        """Retouch the faces of a photo.

        Samples that no edit's mask covers keep their bits, and alpha is never touched. With every
        strength at 0 nothing is looked for, and the result is a copy.

        Args:
            photo: NumPy array, PIL image, or anything with DLPack or an array interface on the
                CPU; Note [Photos] in `revisage.pixels` lists shapes and dtypes.
            options: what to do, and how strongly.
            faces: which faces: None or "all", "largest", or a list (from `find_faces`), of which
                an empty one leaves the photo as it is.

        Returns:
            `Result` whose image is what `photo` is.

        Raises:
            NoFaceError: no face was found.
            OptionError, ShapeError: options or photo cannot be used.
            DeviceError, EngineError, BundleError: the networks cannot run.
        """
        from revisage.edit import apply_to_pixels

        if not isinstance(options, Retouch):
            raise OptionError(f"options must be a Retouch, e.g. Retouch(wrinkles=0.8): {options!r}")
        stopwatch = Stopwatch()
        pixels, give_back = open_pixels(photo)
        strengths = options.strengths()
        chosen, edits = self._edits(pixels, strengths, faces, stopwatch)
        with stopwatch.stage("composite"):
            out = pixels.copy()
            apply_to_pixels(out, edits, threads=self.threads)
        return Result(
            image=give_back(out),
            edits=tuple(edits),
            faces=tuple(chosen),
            receipt=self._receipt(strengths, stopwatch),
        )

    def _edits(
        self,
        pixels: Pixels,
        strengths: dict[str, float],
        faces: Sequence[Face] | str | None,
        stopwatch: Stopwatch,
    ) -> tuple[list[Face], list[Edit]]:
        if isinstance(faces, str) and faces not in ("all", "largest"):
            raise OptionError(f'faces={faces!r}; give "all", "largest", or a list of faces')
        if faces is None or isinstance(faces, str):
            which = faces or "all"
            chosen = self._chosen_faces(pixels, which, stopwatch) if strengths else []
        else:
            chosen = list(faces)
        edits = [
            self._operation(name, stopwatch).edit(
                pixels,
                face,
                strength,
                face_index=index,
                stopwatch=stopwatch,
                threads=self.threads,
            )
            for name, strength in strengths.items()
            for index, face in enumerate(chosen)
        ]
        return chosen, edits

    def _chosen_faces(self, pixels: Pixels, which: str, stopwatch: Stopwatch) -> list[Face]:
        from revisage.faces import choose_faces

        with stopwatch.stage("load networks"):
            source = self._face_source()
        with stopwatch.stage("find faces"):
            found = source.find(pixels)
        if not found:
            raise NoFaceError("no face was found in the photo")
        return choose_faces(found, which)

    # --- video -----------------------------------------------------------------------------------

    def stream(self, source: VideoReader, options: Retouch) -> Iterator[FrameBatch]:
        """Retouch a video frame by frame, lazily: memory does not grow with its length.

        Frames without a face pass unchanged. Write each batch to `source.writer(...)`.

        Args:
            source: from `revisage.open_video`.
        """
        from revisage.video.retouching import retouched_batches

        if not isinstance(options, Retouch):
            raise OptionError(f"options must be a Retouch, e.g. Retouch(wrinkles=0.8): {options!r}")
        return retouched_batches(self, source, options)

    def track_faces(self, photo: Any, previous: Sequence[Face]) -> list[Face]:
        """The faces of a video frame, given those of the frame before; faster than finding."""
        pixels, _ = open_pixels(photo)
        return self._face_source().track(pixels, previous)

    def edits(
        self, photo: Any, options: Retouch, faces: Sequence[Face], stopwatch: Stopwatch
    ) -> list[Edit]:
        """The edits of given faces, not applied."""
        pixels, _ = open_pixels(photo)
        return self._edits(pixels, options.strengths(), faces, stopwatch)[1]

    # --- networks --------------------------------------------------------------------------------

    def load(self, options: Retouch) -> None:
        """Load now what `options` will need, so that the first photo does not wait for it."""
        self._face_source()
        for name in options.strengths():
            self._operation(name, Stopwatch())

    def _face_source(self) -> FaceSource:
        with self._lock:
            if self._faces is None:
                self._faces = self._parts.faces(self._choice)
            return self._faces

    def _operation(self, name: str, stopwatch: Stopwatch) -> Operation:
        with self._lock:
            if name not in self._operations:
                with stopwatch.stage("load networks"):
                    networks = {bundle: self._engine(bundle) for bundle in bundles_of(name)}
                    self._operations[name] = make_operation(name, networks)
            return self._operations[name]

    def _engine(self, bundle: str) -> Any:
        if bundle not in self._engines:
            self._engines[bundle] = self._parts.engine(bundle, self._choice)
        return self._engines[bundle]

    def _receipt(self, strengths: dict[str, float], stopwatch: Stopwatch) -> Receipt:
        import revisage
        from revisage.kernels import HAS_NATIVE

        names = [bundle for operation in strengths for bundle in bundles_of(operation)]
        with self._lock:
            used = {name: self._engines[name] for name in names if name in self._engines}
            find_engine = getattr(self._faces, "engine", None)  # a stand-in may have none
            if used and find_engine is not None:
                used = {name: find_engine(name) for name in FACE_BUNDLES} | used

        def of_all(attribute: str) -> str:
            """What the networks have in common; where they differ, each value once."""
            return ", ".join(dict.fromkeys(getattr(engine, attribute) for engine in used.values()))

        return Receipt(
            version=revisage.__version__,
            device=of_all("device"),
            engine=of_all("name"),
            precision=of_all("precision"),
            engines={name: f"{engine.name} {engine.precision}" for name, engine in used.items()},
            models={name: engine.bundle.model_digest for name, engine in used.items()},
            kernels="native" if HAS_NATIVE else "reference",
            threads=self.threads,
            milliseconds=dict(stopwatch.milliseconds),
            reason=of_all("reason"),
            operators={k: v for e in used.values() for k, v in getattr(e, "operators", {}).items()},
        )

    def close(self) -> None:
        """Let go of the engines; the session loads them again when it is used again."""
        with self._lock:
            engines, self._engines = self._engines, {}
            faces, self._faces = self._faces, None
            self._operations = {}
        with contextlib.ExitStack() as stack:
            for engine in engines.values():
                stack.callback(engine.deactivate)
            close = getattr(faces, "close", None)
            if close is not None:
                stack.callback(close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
