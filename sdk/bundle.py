"""Bundles: a model as a folder or as one file, opened with distrust.

`manifest.json` says what the model is, `model.onnx` computes it, `certificate.json` proves that it
computes what the trained network computes. Every file is measured before it is read, compared with
the sha256 that the manifest states, and read only once: what was verified is what is used. The same
files in one archive (`revisage.bundle_archive`) are opened the same way.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from revisage.bundle_archive import member_names, read_member
from revisage.errors import BundleError
from revisage.manifest import Certificate, Manifest
from revisage.onnx_guard import check_model_bytes
from revisage.strict_json import MAX_TEXT_BYTES

__all__ = [
    "CERTIFICATE",
    "MANIFEST",
    "MODEL",
    "Bundle",
    "named_bundle",
    "shipped_bundle",
    "shipped_folder",
    "shipped_names",
]

MANIFEST = "manifest.json"
MODEL = "model.onnx"
CERTIFICATE = "certificate.json"

MAX_MODEL_BYTES = 1 << 30  # the largest paper-size network needs a quarter of it
MAX_FILES = 16


def _read(place: Path, name: str, limit: int) -> bytes:
    """All bytes of a regular file of at most `limit` bytes, in a folder or in an archive.

    A symbolic link in a folder is followed: installers link files, and nothing is learnt from a
    foreign file whose sha256 the manifest has to state. A device or a pipe is no regular file.
    """
    if not place.is_dir():
        return read_member(place, name, limit)
    path = place / name
    try:
        if not path.is_file():
            raise BundleError(f"{path}: missing, or no regular file; the bundle is incomplete")
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                raise BundleError(f"{path}: larger than {limit} bytes, which no bundle of ours is")
            content = file.read(limit + 1)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(content) > limit:
        raise BundleError(f"{path}: larger than {limit} bytes, which no bundle of ours is")
    return content


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A verified bundle. Make it with `Bundle.open`."""

    path: Path
    manifest: Manifest
    certificate: Certificate
    digest: str  # sha256 of manifest.json, which states all other digests: the bundle's identity

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Open and verify the bundle in the folder or archive `path`.

        Raises:
            BundleError: a file is missing, damaged, of a foreign version or not what the manifest
                promises; the message names the file or the field.
        """
        place = Path(path)
        if not place.exists():
            raise BundleError(f"{place}: no such bundle folder or archive")
        text = _read(place, MANIFEST, MAX_TEXT_BYTES)
        try:
            manifest = Manifest.from_json(text)
            _check_files(manifest)
        except BundleError as error:
            raise BundleError(f"{place}: {error}") from None
        if not place.is_dir():
            _check_members(place, manifest)
        for name in manifest.digests:  # one after the other: they need not fit memory together
            content = _read_verified(place, manifest, name)
            if name in manifest.graphs.values():
                check_model_bytes(content, f"{place / name}")
            del content
        try:
            certificate = Certificate.from_json(_read_verified(place, manifest, CERTIFICATE))
            _check_certificate(manifest, certificate)
        except BundleError as error:
            raise BundleError(f"{place}: {error}") from None
        return cls(place, manifest, certificate, hashlib.sha256(text).hexdigest())

    @property
    def name(self) -> str:
        """Name of the model, as in its manifest."""
        return self.manifest.name

    @property
    def model_digest(self) -> str:
        """sha256 of the float32 graph: which model this is, at whatever precision it runs."""
        return self.manifest.digests[MODEL]

    def graph_digest(self, precision: str = "fp32") -> str:
        """sha256 of the graph at a precision."""
        return self.manifest.digests[self.manifest.graph(precision)]

    def read_graph(self, precision: str = "fp32") -> bytes:
        """Bytes of the graph at a precision, verified against its digest in this very call."""
        return self.read(self.manifest.graph(precision))

    def read(self, name: str = MODEL) -> bytes:
        """Bytes of one file of the bundle, verified against its digest in this very call."""
        if name not in self.manifest.digests:
            raise BundleError(f"{self.path}: the manifest lists no file {name!r}")
        return _read_verified(self.path, self.manifest, name)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Every file with its name, the manifest first, each verified as it is read."""
        text = _read(self.path, MANIFEST, MAX_TEXT_BYTES)
        if hashlib.sha256(text).hexdigest() != self.digest:
            raise BundleError(f"{self.path / MANIFEST}: it changed since the bundle was opened")
        yield MANIFEST, text
        for name in sorted(self.manifest.digests):
            yield name, self.read(name)


def _read_verified(place: Path, manifest: Manifest, name: str) -> bytes:
    graph = name in manifest.graphs.values()
    content = _read(place, name, MAX_MODEL_BYTES if graph else MAX_TEXT_BYTES)
    if hashlib.sha256(content).hexdigest() != manifest.digests[name]:
        raise BundleError(
            f"{place / name}: its sha256 is not the one in manifest.json; "
            "the file is damaged or was changed: install or export it again"
        )
    return content


def _check_files(manifest: Manifest) -> None:
    missing = sorted({MODEL, CERTIFICATE} - set(manifest.digests))
    if missing:
        raise BundleError(f"manifest.json: digests: {', '.join(missing)} is not listed")
    if len(manifest.digests) > MAX_FILES:
        raise BundleError(f"manifest.json: digests: more than {MAX_FILES} files")


def _check_members(archive: Path, manifest: Manifest) -> None:
    extra = sorted(set(member_names(archive)) - {MANIFEST, *manifest.digests})
    if extra:
        raise BundleError(
            f"{archive}: holds files that its manifest does not list: {', '.join(extra)}"
        )


def _check_certificate(manifest: Manifest, certificate: Certificate) -> None:
    if certificate.model_digest != manifest.digests[MODEL]:
        raise BundleError("certificate.json: it certifies another model.onnx")
    certified = {**certificate.graph_digests, "fp32": certificate.model_digest}
    for precision, file in manifest.graphs.items():
        if certified.get(precision) != manifest.digests[file]:
            raise BundleError(f"certificate.json: it does not certify {file} at {precision}")
    inputs = {tensor.name for tensor in manifest.inputs}
    outputs = {tensor.name for tensor in manifest.outputs}
    for index, probe in enumerate(certificate.probes):
        if set(probe.inputs) != inputs or set(probe.outputs) != outputs:
            raise BundleError(
                f"certificate.json: probes[{index}]: its tensors are not those of the manifest"
            )


_SHIPPED = Path(__file__).parent / "bundles"


def shipped_folder() -> Path:
    """The folder of the bundles that came with this installation."""
    return _SHIPPED


def shipped_names() -> tuple[str, ...]:
    """Names of the bundles that came with this installation, sorted."""
    if not _SHIPPED.is_dir():
        return ()
    return tuple(sorted(p.name for p in _SHIPPED.iterdir() if (p / MANIFEST).is_file()))


def shipped_bundle(name: str) -> Bundle:
    """Open the bundle `name` that came with this installation.

    Raises:
        BundleError: there is none of this name, or it is damaged.
    """
    names = shipped_names()
    if name not in names:
        raise BundleError(
            f"no bundle {name!r} came with this installation; there are: {', '.join(names) or '-'}"
        )
    return Bundle.open(_SHIPPED / name)


def named_bundle(name: str | os.PathLike[str]) -> Bundle:
    """Open the bundle that somebody named: one that ships, else the folder or archive of that path.

    Raises:
        BundleError: there is no such bundle, or it is damaged.
    """
    names = shipped_names()
    if str(name) in names:
        return shipped_bundle(str(name))
    if not Path(name).exists():
        raise BundleError(
            f"{name}: no such bundle folder or archive, and none of the models that ship: "
            f"{', '.join(names) or '-'}"
        )
    return Bundle.open(name)
