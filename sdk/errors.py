"""Every exception that Revisage raises on purpose.

Each class also derives from the nearest built-in exception, so that callers who know nothing of
Revisage still catch what they expect. Messages say which input was wrong, what was expected, what
came, and what to do. This module imports nothing of ours.
"""

from __future__ import annotations

__all__ = [
    "BuildCancelledError",
    "BundleError",
    "CheckpointError",
    "DeviceError",
    "EngineError",
    "MediaError",
    "MissingExtraError",
    "NoFaceError",
    "OptionError",
    "OutputError",
    "ParityError",
    "RecipeError",
    "RevisageError",
    "ShapeError",
]


class RevisageError(Exception):
    """Base of all errors raised by Revisage on purpose."""


class OptionError(RevisageError, ValueError):
    """An option has a value that cannot be used."""


class ShapeError(RevisageError, ValueError):
    """An array has the wrong shape, dtype, layout or strides."""


class MediaError(RevisageError, OSError):
    """A photo or video cannot be read: missing, empty, truncated, unknown or absurdly large."""


class OutputError(RevisageError, OSError):
    """A result cannot be written: it exists already, or the place is not writable."""


class NoFaceError(RevisageError, LookupError):
    """The operation needs a face and none was found."""


class DeviceError(RevisageError, RuntimeError):
    """A device was asked for that cannot run here."""


class EngineError(RevisageError, RuntimeError):
    """An engine could not be built, loaded or run, or it does not give the certified output."""


class BuildCancelledError(EngineError):
    """The build of an engine was stopped by whoever asked for it."""


class BundleError(RevisageError, ValueError):
    """A model bundle is damaged, incomplete, hostile or of a foreign version."""


class ParityError(RevisageError, ArithmeticError):
    """An exported graph does not compute what the network computes."""


class CheckpointError(RevisageError, ValueError):
    """A checkpoint cannot be read, or its keys fit no known network."""


class RecipeError(RevisageError, ValueError):
    """A training recipe has an unknown key or an impossible value."""


class MissingExtraError(RevisageError, ImportError):
    """An optional dependency is not installed; the message names the extra to install."""

    def __init__(self, extra: str, needed_for: str) -> None:
        self.extra = extra
        super().__init__(
            f"{needed_for} needs an optional part of Revisage: pip install 'revisage[{extra}]'"
        )
