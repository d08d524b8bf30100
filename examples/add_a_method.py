"""A method of your own, outside of the package: VICReg (Bardes et al. 2022), trained on a store.

    python examples/add_a_method.py work/store --out work
    python examples/add_a_method.py work/store --out work max_epochs=20 crop_size='[48, 56, 20]' method::covariance=0.1

Words after the options are overrides of bundles/volume_pretraining/configs/base.yaml and of the config below.
docs/add_a_method.md says what a method must keep; `volssl finetune … --encoder work/vicreg` uses what it learnt.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor
from torch.nn.functional import mse_loss

from volssl.bundle.config import bundle_config
from volssl.bundle.workflow import run_training
from volssl.encoders import Encoder
from volssl.evaluation.history import read_history
from volssl.heads import projection_head
from volssl.methods.base import Batch, Losses, Method
from volssl.views.base import Views

CONFIG = """# VICReg, laid over base.yaml
method:
  _target_: add_a_method.VICReg
  encoder: '@network_def'
  views:
    _target_: volssl.views.TwoCrops
    crops: {_target_: volssl.views.MultiCrop, sizes: ['@grid'], counts: [2], zoom: [[0.6, 1.0]],
      spacing_mm: '@spacing_mm', window_hu: '@window_hu'}
"""


class VICReg(Method):
    """Two crops give the same features, each feature varies over the batch, and no two vary together.

    Args:
        encoder: any `Encoder`.
        views: makes `crop0` and `crop1`.
        feature_dim: length of the projected feature.
        invariance, variance, covariance: weights of the three terms; the paper's.
    """

    couples_samples = True  # variance and covariance are over a batch

    def __init__(
        self,
        encoder: Encoder,
        *,
        views: Views,
        feature_dim: int = 512,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> None:
        super().__init__(encoder, views=views)
        self.projector = projection_head(encoder.dim, feature_dim)
        self.weights = {"invariance": invariance, "variance": variance, "covariance": covariance}

    def embed(self, batch: Batch) -> dict[str, Tensor]:
        """`crop0` and `crop1` (B, C, R, A, S) -> their features, (B, feature_dim) each."""
        crops = torch.cat([batch["crop0"], batch["crop1"]])  # (2 B, C, R, A, S)
        first, second = self.projector(self.encoder.pool(self.encode(crops))).float().chunk(2)
        return {"first": first, "second": second}

    def losses(self, embedded: Mapping[str, Tensor]) -> Losses:
        """Eq. 6 of the paper, over the whole batch."""
        both = (embedded["first"], embedded["second"])
        terms = {
            "invariance": mse_loss(*both),
            "variance": sum((lacking_variance(rows) for rows in both), torch.tensor(0.0)),
            "covariance": sum((covariance(rows) for rows in both), torch.tensor(0.0)),
        }
        weighed = [self.weights[name] * term for name, term in terms.items()]
        return {"loss": torch.stack(weighed).sum(), **terms}


def lacking_variance(rows: Tensor) -> Tensor:
    """(B, dim) -> by how much the standard deviation of a feature falls short of 1, on average (eq. 1)."""
    return (1 - (rows.var(dim=0) + 1e-4).sqrt()).clamp(min=0).mean()


def covariance(rows: Tensor) -> Tensor:
    """(B, dim) -> the squared covariances of different features, over dim (eqs. 3 and 4)."""
    centred = rows - rows.mean(dim=0)
    table = centred.T @ centred / (len(rows) - 1)  # (dim, dim)
    return (table.square().sum() - table.diagonal().square().sum()) / len(table)


def main(
    store: Path,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    out: Annotated[Path, typer.Option(help="For the config and the run.")] = Path("work"),
) -> None:
    """Write the config, and train it as `volssl pretrain` trains those of the package."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "vicreg.yaml").write_text(CONFIG)
    base, _ = bundle_config("volume_pretraining", "simclr")
    given = {"dataset_dir": str(store), "output_dir": str(out / "vicreg")}
    run_training([base, out / "vicreg.yaml"], given=given, words=overrides or [], resume=False)
    losses = [row["loss"] for row in read_history(out / "vicreg" / "metrics.jsonl") if "loss" in row]
    print(f"{len(losses)} steps, the loss from {losses[0]:.2f} to {losses[-1]:.2f}; {out / 'vicreg' / 'encoder.pt'}")


if __name__ == "__main__":  # the processes that make views import this file: without this line each would start over
    typer.run(main)
