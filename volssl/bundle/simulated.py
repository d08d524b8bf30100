"""Whether a store's scans were simulated, and what every page about them says of it."""

from __future__ import annotations

from volssl.data import Store

NOTICE = "These scans are simulated (volssl simulate). What is measured here says nothing about patients."
SCANNERS = ("SIM ", "volssl simulator")  # how the simulator's scanners are called, in tables and in DICOM


def simulated_notice(store: Store) -> str | None:
    """The banner for pages about a store in which any scan came from the simulator; None for real scans."""
    return NOTICE if any(is_simulated(name) for name in store.columns("scanner")["scanner"].to_pylist()) else None


def is_simulated(scanner: str | None) -> bool:
    """Whether a scanner is the simulator."""
    return str(scanner).startswith(SCANNERS)
