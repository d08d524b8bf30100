"""`volssl predict`: a bundle's own inference config, looked through first, run over studies straight from DICOM."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from volssl.bundle.answers import Answer, AnswerWriter
from volssl.bundle.overlay import Overlays
from volssl.bundle.structured_report import Reports, refuse_reports
from volssl.bundle.verify import build, check_bundle
from volssl.errors import UserError


def predict_studies(
    bundle: Path,
    studies: Sequence[Path],
    out: Path,
    *,
    modality: str | None = None,
    key: Path | None = None,
    trust: bool = False,
    overlay: bool = False,
    dicom_sr: bool = False,
    research_only: bool = False,
) -> list[Answer]:
    """Answer for every volume of the studies: a JSON each and one CSV in `out`, which name a study by its key.

    Of a pretraining run's bundle the answer is the encoder's feature.

    What runs is what `python -m monai.bundle run` runs of the same bundle, so that the answers are the same. What a key
    stands for is in `paths.csv` and on the terminal, and nowhere else.

    Args:
        bundle: that `volssl export` wrote.
        studies: DICOM folders, volume files, or folders of them.
        out: folder for the answers; made where it is missing.
        modality: `CT` or `MR`, for files that do not say it; None tells it from the values.
        key: a file with the secret of the keys; None takes the one in `out`, or makes one there.
        trust: run a bundle whose config names code that is not known here.
        overlay: write beside each answer where the network looked, as a NIfTI on the study's grid and as a PNG.
        dicom_sr: write beside each answer a DICOM Structured Report, which names the patient.
        research_only: mark it as research; without, weights trained on simulated data write none.

    Raises:
        UserError: for a bundle that is refused, studies that do not exist, an `out` that holds a store or other keys,
            or, after all others are answered, for studies that could not be.
    """
    checked = check_bundle(Path(bundle), trust=trust)
    if checked.facts.dim and (overlay or dicom_sr):
        asked = "--overlay" if overlay else "--dicom-sr"
        raise UserError(f"{bundle}: it embeds volumes, and has no output that {asked} could show; leave it out")
    if dicom_sr:
        refuse_reports(checked.facts, research=research_only)
    # Paths as objects: as text they would be looked through for references and expressions.
    places = {"bundle_root": checked.root, "dataset_dir": [Path(study) for study in studies], "output_dir": Path(out)}
    config = checked.config | places
    if modality is not None:
        config["dataset"] = with_keyword(config, "dataset", "files_modality", modality)
    if key is not None:
        config["writer"] = with_keyword(config, "writer", "key", Path(key))
    writer, evaluator, network = build(config, "writer", "evaluator", "network_def")
    if not isinstance(writer, AnswerWriter):
        raise UserError(
            f"{bundle}: its inference config has no writer of answers; write the bundle with `volssl export`"
        )
    logging.getLogger(type(evaluator).__module__).setLevel(logging.CRITICAL)
    for name in ("ignite.engine.engine", "ignite.engine.engine.SupervisedEvaluator"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what stops it is raised, and shown once
    if overlay:
        Overlays(network=network, writer=writer).attach(evaluator)
    if dicom_sr:
        Reports(writer=writer, research=research_only).attach(evaluator)
    evaluator.run()
    return writer.answers


def with_keyword(config: dict[str, Any], name: str, keyword: str, value: object) -> dict[str, Any]:
    """An object of a config with one more keyword.

    Raises:
        UserError: where the config has no such object.
    """
    if not isinstance(config.get(name), dict):
        raise UserError(f"the inference config has no {name}; write the bundle with `volssl export`")
    return {**config[name], keyword: value}
