"""Names of NVIDIA cards and their compute capabilities.

Source of the table: NVIDIA, "CUDA GPU Compute Capability" (developer.nvidia.com/cuda-gpus).
"""

from __future__ import annotations

import re

from revisage.engines.driver import find_gpu
from revisage.errors import OptionError

__all__ = ["CARDS", "compute_capability_of"]

# Compute capability -> cards of it. Ti, Super and laptop cards have that of their name.
CARDS = {
    "7.0": "v100 titan-v",
    "7.5": "t4 gtx-1650 gtx-1660 rtx-2060 rtx-2070 rtx-2080 titan-rtx quadro-rtx-4000 "
    "quadro-rtx-5000 quadro-rtx-6000 quadro-rtx-8000",
    "8.0": "a30 a100",
    "8.6": "a2 a10 a16 a40 rtx-2050 rtx-3050 rtx-3060 rtx-3070 rtx-3080 rtx-3090 rtx-a2000 "
    "rtx-a3000 rtx-a4000 rtx-a4500 rtx-a5000 rtx-a5500 rtx-a6000",
    "8.7": "jetson-orin",
    "8.9": "l4 l40 l40s rtx-4050 rtx-4060 rtx-4070 rtx-4080 rtx-4090 rtx-2000-ada rtx-4000-ada "
    "rtx-4500-ada rtx-5000-ada rtx-6000-ada",
    "9.0": "h100 h200 gh200",
    "10.0": "b200 gb200",
    "10.3": "b300 gb300",
    "12.0": "rtx-5050 rtx-5060 rtx-5070 rtx-5080 rtx-5090 rtx-pro-4000 rtx-pro-4500 rtx-pro-5000 "
    "rtx-pro-6000",
    "12.1": "gb10 dgx-spark",
}
_CAPABILITY_OF = {name: number for number, names in CARDS.items() for name in names.split()}


def compute_capability_of(card: str) -> str:
    """Compute capability ("8.9") of a card.

    Args:
        card: a name ("rtx-4090", "GeForce RTX 4070 Ti"), a compute capability, or "current" for
            the GPU of this machine.

    Raises:
        OptionError: no card of this name is known.
        DeviceError: "current", and this machine has none that can be used.
    """
    if card == "current":
        return find_gpu().compute_capability
    if re.fullmatch(r"\d{1,2}\.\d", card):
        return card
    plain = re.sub(r"[\s_-]+", "-", card.strip().lower()).removeprefix("nvidia-")
    plain = re.sub(r"(-(ti|super|laptop|gpu|mobile|max-q|d))+$", "", plain.removeprefix("geforce-"))
    if plain not in _CAPABILITY_OF:
        raise OptionError(
            f"no card {card!r} is known; give its compute capability (8.9), current, or one of "
            f"{', '.join(_CAPABILITY_OF)}"
        )
    return _CAPABILITY_OF[plain]
