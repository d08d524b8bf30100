"""`volssl export --stock`: the encoder of a run as weights that a stock MONAI network loads."""

from __future__ import annotations

from pathlib import Path

from volssl.encoders import load_encoder
from volssl.encoders.stock import save_stock_weights
from volssl.errors import UserError
from volssl.progress import say


def export_stock(run: Path, file: Path) -> Path:
    """Write the encoder of a run for `monai.networks.nets.SwinUNETR` or `DenseNet121`, and say how it is loaded.

    Args:
        run: of `volssl pretrain` or `volssl finetune`, or an `encoder.pt`.
        file: to write.

    Returns:
        The file.

    Raises:
        UserError: where there is no encoder, or one that MONAI does not have.
    """
    encoder, contract = load_encoder(run)
    try:
        save_stock_weights(file, encoder)
    except ValueError as error:
        raise UserError(f"{run}: {error}") from error
    spacing = " x ".join(f"{mm:g}" for mm in contract.spacing_mm)
    window = "" if contract.window_hu is None else f", windowed ({contract.window_hu})"
    say(
        f"load with {type(encoder).__name__}(...).load_state_dict(torch.load({str(file)!r}), strict=False); it was fed "
        f"{contract.modality}{window} to [0, 1], voxels of {spacing} mm"
    )
    return file
