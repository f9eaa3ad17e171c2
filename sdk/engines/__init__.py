"""Engines: what runs a bundle's graph, behind one small protocol.

`open_engine(bundle, device)` gives an `Engine` that is loaded, checked against the bundle's
certificate and ready. Each engine lives in a file of its own and imports its library inside
functions only.
"""

from __future__ import annotations

from revisage.engines.base import Engine
from revisage.engines.selection import DEVICES, DeviceStatus, device_status, open_engine

__all__ = ["DEVICES", "DeviceStatus", "Engine", "device_status", "open_engine"]
