"""Every environment variable that the runtime reads, in one place.

| variable | meaning | default |
| --- | --- | --- |
| `REVISAGE_NUM_THREADS` | CPU threads of engines and kernels, 1 or more | all usable cores |
| `REVISAGE_OPERATORS` | native, portable or auto: see `revisage.engines.open_engine` | auto |
| `REVISAGE_CACHE` | folder of built engines | the user's cache folder |
| `REVISAGE_CACHE_GIGABYTES` | how large that folder may grow | 8 |

The kernels read the first one too, where they are called without a session. The number of threads
never changes a result, only its time.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from revisage.errors import OptionError

__all__ = ["OPERATORS", "cache_bytes", "cache_folder", "number_of_threads", "operators"]

OPERATORS = ("auto", "native", "portable")


def number_of_threads() -> int | None:
    """`REVISAGE_NUM_THREADS`, or None where it is not set.

    Raises:
        OptionError: it is set to something that is not a whole number above 0.
    """
    text = os.environ.get("REVISAGE_NUM_THREADS", "").strip()
    if not text:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise OptionError(
            f"REVISAGE_NUM_THREADS is {text!r}; set it to a whole number above 0, or unset it"
        )
    return int(text)


def operators() -> str:
    """`REVISAGE_OPERATORS`, "auto" where it is not set.

    Raises:
        OptionError: it is set to something else than its values.
    """
    text = os.environ.get("REVISAGE_OPERATORS", "").strip() or "auto"
    if text not in OPERATORS:
        raise OptionError(f"REVISAGE_OPERATORS is {text!r}; set it to {', '.join(OPERATORS)}")
    return text


def cache_folder() -> Path:
    """`REVISAGE_CACHE`, else the folder `revisage/engines` in the user's cache folder."""
    text = os.environ.get("REVISAGE_CACHE", "").strip()
    if text:
        return Path(text).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("revisage", appauthor=False) / "engines"


def cache_bytes() -> int:
    """`REVISAGE_CACHE_GIGABYTES` in bytes.

    Raises:
        OptionError: it is set to something that is not a number above 0.
    """
    text = os.environ.get("REVISAGE_CACHE_GIGABYTES", "").strip() or "8"
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 < gigabytes < math.inf:
        raise OptionError(
            f"REVISAGE_CACHE_GIGABYTES is {text!r}; set it to a number above 0, or unset it"
        )
    return int(gigabytes * 1e9)
