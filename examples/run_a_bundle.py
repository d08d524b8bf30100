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
    """Print the probabilities of each volume and the slice with the highest, or the length of its feature."""
    answers = predict_studies(bundle, studies, out)
    for notice in {answer.content["notice"] for answer in answers}:
        print(notice)
    for answer in answers:
        told = answer.content
        if "embedding" in told:
            print(f"{answer.study}: a feature of {len(told['embedding'])} numbers")
        else:
            print(f"{answer.study}: {', '.join(f'{name} {value:.3f}' for name, value in told['volume'].items())}")
            for name, probability in told["types"].items():
                print(f"  {name} {probability:.3f}")
            known = [one for one in told["slices"] if one["probability"] is not None]
            if known:
                top = max(known, key=lambda one: float(one["probability"]))
                print(f"  slice {top['index']} at {top['position_mm']} mm: {top['probability']:.3f}")
        for warning in told["warnings"]:
            print(f"  {warning}")


if __name__ == "__main__":
    typer.run(main)
