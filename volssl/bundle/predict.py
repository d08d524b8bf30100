"""`volssl predict`: a bundle's own inference config, looked through first, run over studies straight from DICOM."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from volssl.bundle.answers import Answer, AnswerWriter
from volssl.bundle.verify import build, check_bundle
from volssl.errors import UserError


def predict_studies(bundle: Path, studies: Sequence[Path], out: Path, *, trust: bool = False) -> list[Answer]:
    """Answer for every volume of the studies: a JSON each and one CSV in `out`.

    What runs is what `python -m monai.bundle run` runs of the same bundle, so that the answers are the same.

    Args:
        bundle: that `volssl export` wrote.
        studies: DICOM folders, volume files, or folders of them.
        out: folder for the answers; made where it is missing.
        trust: run a bundle whose config names code that is not known here.

    Raises:
        UserError: for a bundle that is refused, studies that do not exist, or, after all others are answered, for those
            that could not be.
    """
    checked = check_bundle(Path(bundle), trust=trust)
    # Paths as objects: as text they would be looked through for references and expressions.
    places = {"bundle_root": checked.root, "dataset_dir": [Path(study) for study in studies], "output_dir": Path(out)}
    writer, evaluator = build(checked.config | places, "writer", "evaluator")
    if not isinstance(writer, AnswerWriter):
        raise UserError(
            f"{bundle}: its inference config has no writer of answers; write the bundle with `volssl export`"
        )
    logging.getLogger(type(evaluator).__module__).setLevel(logging.CRITICAL)
    for name in ("ignite.engine.engine", "ignite.engine.engine.SupervisedEvaluator"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what stops it is raised, and shown once
    evaluator.run()
    return writer.answers
