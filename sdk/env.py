"""Every environment variable that the runtime reads, in one place.

| variable | meaning | default |
| --- | --- | --- |
| `REVISAGE_NUM_THREADS` | CPU threads of engines and kernels, 1 or more | all usable cores |
| `REVISAGE_OPERATORS` | native, portable or auto: see `revisage.engines.open_engine` | auto |

The kernels read the first one too, where they are called without a session. The number of threads
never changes a result, only its time.
"""

from __future__ import annotations

import os

from revisage.errors import OptionError

__all__ = ["OPERATORS", "number_of_threads", "operators"]

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
