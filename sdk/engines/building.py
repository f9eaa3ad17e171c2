"""Engines of TensorRT out of the cache, built where they are missing.

Sessions and `revisage build` both come through here, so that the one finds what the other made.
"""

from __future__ import annotations

import dataclasses
import threading
from pathlib import Path

from revisage.bundle import Bundle
from revisage.engines.builder_process import build_in_child
from revisage.engines.cache import ANY_DRIVER, EngineCache, EngineKey, current_watch
from revisage.engines.driver import find_gpu
from revisage.engines.profile import Profile
from revisage.engines.tensorrt import BuildReport, library_version
from revisage.errors import BuildCancelledError

__all__ = ["CachedEngine", "cached_engine"]

# TensorRT chooses kernels by their time: two builds at once would measure each other.
_turn = threading.Lock()


@dataclasses.dataclass(frozen=True)
class CachedEngine:
    """A serialized engine and where it came from."""

    content: bytes
    key: EngineKey
    path: Path  # in the cache; missing where the folder cannot be written
    report: BuildReport | None  # None: it had been built before


def cached_engine(
    bundle: Bundle,
    *,
    engine: str,
    precision: str = "fp32",
    profile: Profile | None = None,
    compute_capability: str,
    cache: EngineCache | None = None,
) -> CachedEngine:
    """The engine of a bundle for a compute capability, from the cache or newly built and kept.

    The current watch (`revisage.engines.cache.watched`) hears of every step of a build, this one's
    or that of another process for which it waits, and nothing where the engine had been built
    before; it may stop both.

    Args:
        engine: "tensorrt" or "tensorrt-rtx".
        profile: the shapes to build for; None: `Profile.of(bundle.manifest)`.
        compute_capability: of the card, such as "8.9".

    Raises:
        MissingExtraError, EngineError: the library is not there; the graph cannot be built.
        DeviceError: TensorRT builds for the card of this machine only.
        BuildCancelledError: the watch stopped it.
    """
    profile = profile or Profile.of(bundle.manifest)
    key = EngineKey.of(
        bundle,
        profile.text,
        precision=precision,
        engine=engine,
        engine_version=library_version(engine),
        compute_capability=compute_capability,
        driver=ANY_DRIVER if engine == "tensorrt-rtx" else find_gpu().driver,
    )
    cache = cache or EngineCache()
    reports: list[BuildReport] = []

    watch = current_watch()

    def build() -> bytes:
        if watch.progress is not None:
            watch.progress("waiting for its turn", 0, 0)
        with _turn:
            if watch.cancel is not None and watch.cancel.is_set():
                raise BuildCancelledError(f"the build of {bundle.name} was cancelled")
            built = build_in_child(
                bundle.read_graph(precision),
                engine=engine,
                profile=profile,
                compute_capabilities=[compute_capability],
                progress=watch.progress,
                cancel=watch.cancel,
            )
        reports.append(built.report)
        return built.content

    def about() -> dict[str, str]:
        report = reports[0]
        return {
            "model": bundle.name,
            "layers": str(report.layers),
            "seconds": f"{report.seconds:.2f}",
        }

    content = cache.get_or_build(key, build, about=about)
    return CachedEngine(content, key, cache.path(key), reports[0] if reports else None)
