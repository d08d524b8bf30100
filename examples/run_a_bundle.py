"""Ask an exported bundle about studies: DICOM folders or volume files.

python examples/run_a_bundle.py out/head_ct_hemorrhage_classification studies/0001 studies/0002.nii.gz --out answer
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from volssl.bundle.predict import predict_studies


def main(
    bundle: Path, studies: list[Path], out: Annotated[Path, typer.Option(help="For the answers.")] = Path("answer")
) -> None:
    """Print the probabilities of each volume, and the slice that looks most like a hemorrhage."""
    for answer in predict_studies(bundle, studies, out):
        told = answer.content
        print(f"{answer.study}: hemorrhage {told['volume']['hemorrhage']:.3f}")
        for name, probability in told["types"].items():
            print(f"  {name} {probability:.3f}")
        known = [one for one in told["slices"] if one["probability"] is not None]
        if known:
            top = max(known, key=lambda one: float(one["probability"]))
            print(f"  slice {top['index']} at {top['position_mm']} mm: {top['probability']:.3f}")
        for warning in told["warnings"]:
            print(f"  {warning}")
        print(f"  {told['notice']}")


if __name__ == "__main__":
    typer.run(main)
