"""What was measured of weights before: an evaluation elsewhere stands beside that on the run's own test patients."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from volssl.bundle.metadata import METADATA, read_facts, read_metadata
from volssl.evaluation.validation import MODEL

BOUNDS = ("value", "low", "high")


def evaluation_of(run: Path, name: str) -> dict[str, Any] | None:
    """The evaluation of a file of weights on test patients, or on others where there is none; None without any."""
    weights = hashlib.sha256((run / name).read_bytes()).hexdigest()
    found = [json.loads(path.read_text()) for path in sorted([*run.glob("metrics.json"), *run.glob("*/metrics.json")])]
    found = [figures for figures in found if figures.get("model_sha256") == weights]
    # The run's own store goes before another site's, and its test patients before others.
    return min(found, key=lambda each: (bool(each.get("external")), each["split"] != "test"), default=None)


def internal_auc(run: Path) -> dict[str, Any] | None:
    """AUC on the test patients of a run's own store, that an evaluation left in the run, or a bundle's metadata hold.

    Args:
        run: folder of `model.pt`: a run, or `models` of a bundle.

    Returns:
        `n_studies`, `n_patients`, and under `auc` value and interval of each output; None where nothing is known.
    """
    measured = evaluation_of(run, MODEL)
    if measured is not None:
        figures: Mapping[str, Any] = measured
        auc = {name: output["metrics"]["auc"] for name, output in figures["outputs"].items()}
    else:
        figures = kept_by_bundle(run.parent, hashlib.sha256((run / MODEL).read_bytes()).hexdigest())
        auc = {name: metrics["auc"] for name, metrics in figures.get("outputs", {}).items() if "auc" in metrics}
    if figures.get("split") != "test" or figures.get("external"):
        return None
    return {
        "n_studies": figures["n_studies"],
        "n_patients": figures["n_patients"],
        "auc": {name: {key: figure[key] for key in BOUNDS} for name, figure in auc.items()},
    }


def kept_by_bundle(bundle: Path, weights_sha256: str) -> Mapping[str, Any]:
    """The figures that a bundle's metadata hold of these weights; none where it is no bundle, or of others."""
    if not (bundle / METADATA).is_file() or read_facts(bundle).weights_sha256 != weights_sha256:
        return {}
    figures: Mapping[str, Any] = read_metadata(bundle).get("eval_metrics") or {}
    return figures
