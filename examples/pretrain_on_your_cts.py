"""Pretrain an encoder on a folder of CTs, then describe one of them by its features.

    python examples/pretrain_on_your_cts.py archive/export --out work
    python examples/pretrain_on_your_cts.py archive/export --out work max_epochs=20 crop_size='[48, 56, 20]'

Words after the options are overrides of bundles/volume_pretraining/configs/swav.yaml, as on `volssl pretrain`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from volssl import load_encoder
from volssl.bundle.workflow import pretrain
from volssl.data import Store, prepare
from volssl.views.cropper import read_box


def features_of(run: Path, store: Path) -> torch.Tensor:
    """The pooled feature of the middle of the store's first volume, fed as the encoder's contract says: (dim,)."""
    encoder, contract = load_encoder(run)
    opened = Store.open(store)
    scan = opened.scan(opened.rows["id"][0].as_py())
    steps = [mm / own for mm, own in zip(contract.spacing_mm, scan.spacing_mm, strict=True)]  # voxels of the scan
    (r, a, s) = (
        ((n - size * step) / 2, (n + size * step) / 2)
        for n, size, step in zip(scan.shape, contract.grid, steps, strict=True)
    )
    image = read_box(scan, (r, a, s), contract.grid, contract.window_hu or (0.0, 1.0))  # (1, R, A, S) in [0, 1]
    with torch.no_grad():
        return encoder.pooled(image[None])[0]


def main(
    source: Path,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    out: Annotated[Path, typer.Option(help="For the store and the run.")] = Path("work"),
) -> None:
    """Prepare a store, pretrain on its training patients, load the encoder."""
    print(prepare([source], out / "store"))
    pretrain("swav", store=out / "store", out=out / "swav", words=overrides or [])
    feature = features_of(out / "swav", out / "store")
    print(f"{len(feature)} features, mean {feature.mean():.3f}, standard deviation {feature.std():.3f}")


if __name__ == "__main__":  # prepare reads with several processes: without this line each would start over
    typer.run(main)
