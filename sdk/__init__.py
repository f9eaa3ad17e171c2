"""Revisage: portrait retouching that changes nothing it was not asked to change.

    import revisage as rv

    session = rv.Session()
    result = session.retouch(photo, rv.Retouch(wrinkles=0.8))

Names load on first use, so that `import revisage` takes a blink and pulls in no engine or decoder.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from revisage import errors
    from revisage.edit import Edit
    from revisage.faces import Face
    from revisage.options import Retouch
    from revisage.results import Receipt, Result
    from revisage.session import Session
    from revisage.video import open_video

    __version__: str

__all__ = [
    "Edit",
    "Face",
    "Receipt",
    "Result",
    "Retouch",
    "Session",
    "__version__",
    "errors",
    "open_video",
]

_HOMES = {
    "Edit": "revisage.edit",
    "Face": "revisage.faces",
    "Receipt": "revisage.results",
    "Result": "revisage.results",
    "Retouch": "revisage.options",
    "Session": "revisage.session",
    "open_video": "revisage.video",
}


def __getattr__(name: str) -> Any:
    value: Any
    if name == "__version__":
        from importlib.metadata import version

        value = version("revisage")
    elif name == "errors":
        value = importlib.import_module("revisage.errors")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'revisage' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
