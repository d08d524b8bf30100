"""What makes a run small enough for a test, and a simulated cohort's patients split for it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

TINY = ["max_epochs=1", "batch_size=4", "workers=0"]
CROPS = ["spacing_mm=[7.0, 7.0, 14.0]", "crop_size=[24, 28, 8]", "small_crop_size=[16, 16, 4]"]


def split_cohort(cohort: Path, *, train: float, validation: float) -> None:
    """Write splits into a cohort's patients.csv: these shares of the patients, in their order; the rest is for test."""
    table = pd.read_csv(cohort / "patients.csv")
    order = {patient: i for i, patient in enumerate(dict.fromkeys(table["patient"]))}
    share = table["patient"].map(order) / len(order)
    until = train + validation
    table["split"] = ["train" if x < train else "validation" if x < until else "test" for x in share]
    table.to_csv(cohort / "patients.csv", index=False)
