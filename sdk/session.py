"""The front door: a `Session` keeps engines loaded and retouches photos and video."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

from revisage import env
from revisage.errors import NoFaceError, OptionError
from revisage.manifest import ENGINES, PRECISIONS
from revisage.operations import BUNDLES, make_operation
from revisage.options import Retouch, checked_strength
from revisage.pixels import Pixels, open_pixels
from revisage.results import Receipt, Result, Stopwatch

if TYPE_CHECKING:
    from revisage.edit import Edit
    from revisage.engines.background import Serving
    from revisage.faces import Face
    from revisage.video import FrameBatch, VideoReader

__all__ = ["EngineChoice", "FaceSource", "Parts", "Session"]

T = TypeVar("T")
Networks = dict[str, Any]  # bundle -> the engine that it runs on

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


def _say_why(serving: Serving[Any], engine: Any) -> None:
    """A stand-by's reason is what it waits for."""
    engine.reason = serving.waiting or engine.reason


def _each_once(reasons: Iterable[str]) -> str:
    """Reasons of several networks as one; "b: why" goes where another says "a, b: why"."""
    parts: dict[str, str] = {}
    for reason in reasons:
        for part in reason.split("; "):
            parts.setdefault(part.removeprefix("not "), part)
    kept = [key for key in parts if not any(o != key and o.endswith(key) for o in parts)]
    return "; ".join(parts[key] for key in kept)


class Session:
    """Retouches photos and video; engines load on first use and stay until `close`.

    One session may be used from several threads at once. It is a context manager.

    Args:
        device: "cpu", "cuda", or "auto" for the best that works here (the receipt says why).
        threads: CPU threads; None takes `REVISAGE_NUM_THREADS`, else all usable cores. The result
            does not depend on it.
        engine: one of `revisage.manifest.ENGINES`, and no other; None: the best on the device.
        precision: "fp32", "fp16", "bf16" or "int8" for the networks of the operations, or one for
            each bundle by its name ({"wrinkle_segmenter": "int8"}), with fp32 for the others. Faces
            are always found at fp32.
        while_building: an engine of the same list that serves, at fp32, while a better one is being
            built in the background, which may take minutes; each photo's receipt says which engine
            served it, and a build that fails is reported there. None: wait for the build.
        parts: where networks come from; the default is the bundles in the package.

    Raises:
        OptionError: an unknown device, engine, precision or thread count (an engine that cannot
            run shows on first use, as DeviceError, whatever `while_building` says).
    """

    def __init__(
        self,
        device: str = "auto",
        threads: int | None = None,
        *,
        engine: str | None = None,
        precision: str | Mapping[str, str] = "fp32",
        while_building: str | None = None,
        parts: Parts | None = None,
    ) -> None:
        if device not in ("auto", "cpu", "cuda"):
            raise OptionError(f"device {device!r} is not one of auto, cpu, cuda")
        for name, given in (("engine", engine), ("while_building", while_building)):
            if given is not None and given not in ENGINES:
                raise OptionError(f"{name} {given!r} is not one of {', '.join(ENGINES)}")
        by_bundle = {} if isinstance(precision, str) else dict(precision)
        common = precision if isinstance(precision, str) else "fp32"
        for given in (common, *by_bundle.values()):
            if given not in PRECISIONS:
                raise OptionError(f"precision {given!r} is not one of {', '.join(PRECISIONS)}")
        known = {bundle for bundles in BUNDLES.values() for bundle in bundles}
        if unknown := set(by_bundle) - known:
            raise OptionError(
                f"precision: {', '.join(sorted(unknown))} is no bundle of an operation; those are "
                f"{', '.join(sorted(known))}"
            )
        threads = env.number_of_threads() if threads is None else threads
        if threads is not None and (
            isinstance(threads, bool)
            or not isinstance(threads, int)
            or not 1 <= threads <= _MAX_THREADS
        ):
            raise OptionError(f"threads={threads!r} is not a whole number from 1 to {_MAX_THREADS}")
        self.device = device
        self.threads = threads
        self._choice = EngineChoice(device, engine, common, threads)
        self._precisions = by_bundle
        self._standby = (
            EngineChoice("auto", while_building, "fp32", threads) if while_building else None
        )
        self._parts = parts or Parts()
        self._lock = threading.RLock()
        self._faces: Serving[FaceSource] | None = None
        self._engines: dict[str, Serving[Any]] = {}
        # An operation is made again when one of its networks moved to another engine.
        self._operations: dict[str, tuple[Any, Networks]] = {}

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
            photo: NumPy array, PIL image, or anything with DLPack or an array interface, on the CPU
                or a GPU; Note [Photos] in `revisage.pixels` lists shapes and dtypes. One on a GPU
                is copied to the CPU and the result back: networks run on the session's engine
                wherever photos lie.
            options: what to do, and how strongly.
            faces: which faces: None or "all", "largest", or a list (from `find_faces`), of which
                an empty one leaves the photo as it is.

        Returns:
            `Result` whose image is what `photo` is, on its device.

        Raises:
            NoFaceError: no face was found.
            OptionError, ShapeError: options or photo cannot be used.
            DeviceError, EngineError, BundleError: the networks cannot run.
        """
        if not isinstance(options, Retouch):
            raise OptionError(f"options must be a Retouch, e.g. Retouch(wrinkles=0.8): {options!r}")
        stopwatch = Stopwatch()
        pixels, give_back = open_pixels(photo)
        made = self._edits(pixels, options.strengths(), faces, stopwatch)
        return self._result(pixels, give_back, *made, stopwatch)

    def inpaint(
        self,
        photo: Any,
        hole: Any,
        faces: Sequence[Face] | Literal["all", "largest"] | None = None,
        *,
        strength: float = 1.0,
    ) -> Result:
        """Fill a painted hole: scratches, spots, stray hair, writing on a face.

        What the hole covers is painted anew from what is around it; it is made for faces, and a
        photo without one is filled all the same. Samples outside the hole keep their bits.

        Args:
            photo: as in `retouch`.
            hole: [H, W] as the photo, bool, uint8, uint16 or float (or a PIL image of one channel):
                0 is kept, white is filled, what lies between is mixed.
            faces: where faces are: None or "all" to look for them, "largest", or a list (from
                `find_faces`), which may be empty.
            strength: 0..1, how much of the fill is mixed in.

        Returns:
            `Result` whose image is what `photo` is, with an edit for each part of the hole.

        Raises:
            ShapeError, OptionError: photo, hole, faces or strength cannot be used.
            DeviceError, EngineError, BundleError: the networks cannot run.
        """
        from revisage.operations.inpaint import open_hole

        strength = checked_strength("strength", strength)
        stopwatch = Stopwatch()
        pixels, give_back = open_pixels(photo)
        mask = open_hole(hole, *pixels.shape[:2])
        chosen, networks = self._chosen_faces(pixels, faces, stopwatch)
        operation, used = self._operation("inpaint", stopwatch)
        edits = operation.edits(
            pixels, mask, chosen, strength, stopwatch=stopwatch, threads=self.threads
        )
        return self._result(pixels, give_back, chosen, edits, networks | used, stopwatch)

    def _result(
        self,
        pixels: Pixels,
        give_back: Callable[[Pixels], Any],
        faces: Sequence[Face],
        edits: Sequence[Edit],
        networks: Networks,
        stopwatch: Stopwatch,
    ) -> Result:
        """The edits applied."""
        from revisage.edit import apply_to_pixels

        with stopwatch.stage("composite"):
            out = pixels.copy()
            apply_to_pixels(out, edits, threads=self.threads)
        return Result(
            image=give_back(out),
            edits=tuple(edits),
            faces=tuple(faces),
            receipt=self._receipt(networks, stopwatch),
        )

    def _edits(
        self,
        pixels: Pixels,
        strengths: dict[str, float],
        faces: Sequence[Face] | str | None,
        stopwatch: Stopwatch,
    ) -> tuple[list[Face], list[Edit], Networks]:
        """Chosen faces, their edits, and the engines that made them.

        An engine that gets ready in the middle serves the next photo: all faces of one are treated
        alike.
        """
        searched = faces is None or isinstance(faces, str)
        chosen, networks = self._chosen_faces(pixels, faces, stopwatch, search=bool(strengths))
        if searched and strengths and not chosen:
            raise NoFaceError("no face was found in the photo")
        edits = []
        for name, strength in strengths.items() if chosen else ():
            operation, used = self._operation(name, stopwatch)
            networks |= used
            edits += [
                operation.edit(
                    pixels,
                    face,
                    strength,
                    face_index=index,
                    stopwatch=stopwatch,
                    threads=self.threads,
                )
                for index, face in enumerate(chosen)
            ]
        return chosen, edits, networks

    def _chosen_faces(
        self,
        pixels: Pixels,
        faces: Sequence[Face] | str | None,
        stopwatch: Stopwatch,
        *,
        search: bool = True,
    ) -> tuple[list[Face], Networks]:
        """The faces that were asked for, and the engines that found them; `search`: if need be."""
        from revisage.faces import choose_faces

        if not (faces is None or isinstance(faces, str)):
            return list(faces), {}
        if faces not in (None, "all", "largest"):
            raise OptionError(f'faces={faces!r}; give "all", "largest", or a list of faces')
        if not search:
            return [], {}
        with stopwatch.stage("load networks"):
            source = self._face_source()
        with stopwatch.stage("find faces"):
            found = source.find(pixels)
        engine = getattr(source, "engine", None)  # a stand-in may have none
        networks = {name: engine(name) for name in FACE_BUNDLES} if engine is not None else {}
        serving = self._faces
        if serving is not None:  # else the session was closed meanwhile
            for network in networks.values():
                _say_why(serving, network)
        return choose_faces(found, faces or "all"), networks

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
                self._faces = self._open("the face finder", self._parts.faces, "fp32")
            return self._faces.now

    def _operation(self, name: str, stopwatch: Stopwatch) -> tuple[Any, Networks]:
        """An operation on the engines that serve now, and those engines."""
        names = BUNDLES[name]
        with self._lock:
            for bundle in names:
                if bundle not in self._engines:
                    with stopwatch.stage("load networks"):
                        load = functools.partial(self._parts.engine, bundle)
                        precision = self._precisions.get(bundle, self._choice.precision)
                        self._engines[bundle] = self._open(bundle, load, precision)
            networks = {bundle: self._engines[bundle].now for bundle in names}
            for bundle, engine in networks.items():
                _say_why(self._engines[bundle], engine)
            if name not in self._operations or self._operations[name][1] != networks:
                self._operations[name] = make_operation(name, networks), networks
            return self._operations[name]

    def _open(self, name: str, load: Callable[[EngineChoice], T], precision: str) -> Serving[T]:
        from revisage.engines.background import Background, Serving

        wanted, standby = dataclasses.replace(self._choice, precision=precision), self._standby
        if standby is None:
            return Serving(load(wanted))
        name = f"{name} on {wanted.engine or wanted.device} {wanted.precision}"
        return Background(name, lambda: load(wanted), lambda: load(standby))

    def _receipt(self, networks: Networks, stopwatch: Stopwatch) -> Receipt:
        import revisage
        from revisage.kernels import HAS_NATIVE

        engines = networks.values()

        def of_all(attribute: str) -> str:
            """What the networks have in common; where they differ, each value once."""
            return ", ".join(dict.fromkeys(getattr(engine, attribute) for engine in engines))

        return Receipt(
            version=revisage.__version__,
            device=of_all("device"),
            engine=of_all("name"),
            precision=of_all("precision"),
            engines={
                name: f"{engine.name} {engine.precision}" for name, engine in networks.items()
            },
            models={name: engine.bundle.model_digest for name, engine in networks.items()},
            kernels="native" if HAS_NATIVE else "reference",
            threads=self.threads,
            milliseconds=dict(stopwatch.milliseconds),
            reason=_each_once(engine.reason for engine in engines),
            operators={k: v for e in engines for k, v in getattr(e, "operators", {}).items()},
        )

    def close(self) -> None:
        """Let go of the engines and stop their builds; the session loads them when used again."""
        with self._lock:
            engines, self._engines = self._engines, {}
            faces, self._faces = self._faces, None
            self._operations = {}
        opened = [*engines.values(), *([] if faces is None else [faces])]
        for serving in opened:
            serving.stop()
        with contextlib.ExitStack() as stack:
            for engine in (e for serving in engines.values() for e in serving.close()):
                stack.callback(engine.deactivate)
            for source in faces.close() if faces is not None else ():
                stack.callback(getattr(source, "close", lambda: None))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
