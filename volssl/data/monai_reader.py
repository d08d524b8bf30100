"""A reader of the store's files for MONAI: `LoadImaged(keys="image", reader=StoreReader)` on `Store.to_datalist()`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from monai.data import ImageReader
from monai.data.utils import is_supported_format
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple

from volssl.data.stored_volume import DAMAGE, open_volume, unreadable


class StoreReader(ImageReader):  # type: ignore[misc]
    """Reads whole `.b2nd` volumes, (R, A, S), with their affine to RAS millimetres, spacing and modality.

    Training reads boxes instead, with `Store.scan`: a reader of MONAI always loads the whole volume.
    """

    def verify_suffix(self, filename: Sequence[str | Path] | str | Path) -> bool:
        """Whether every file is one of a store, by its name."""
        return bool(is_supported_format(filename, ["b2nd"]))

    def read(self, data: Sequence[str | Path] | str | Path, **_: Any) -> list[blosc2.NDArray]:
        """Open the files; nothing is decoded yet.

        Raises:
            UserError: a file is missing or damaged.
        """
        return [_opened(Path(name)) for name in ensure_tuple(data)]

    def get_data(self, img: Sequence[blosc2.NDArray]) -> tuple[np.ndarray, dict[str, Any]]:
        """Decode: one volume is (R, A, S), several are stacked in front, as MONAI's readers do.

        Raises:
            ValueError: several volumes whose shapes differ.
        """
        volumes = [volume[...] for volume in img]
        kept = img[0].schunk.vlmeta
        affine = np.array(kept["affine"], dtype=np.float64).reshape(4, 4)
        several = len(volumes) > 1
        meta = {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.array(img[0].shape),
            MetaKeys.ORIGINAL_CHANNEL_DIM: 0 if several else "no_channel",
            "spacing_mm": list(kept["spacing_mm"]),
            "modality": kept["modality"],
        }
        return (np.stack(volumes) if several else volumes[0]), meta


def _opened(path: Path) -> blosc2.NDArray:
    try:
        return open_volume(path)
    except DAMAGE as error:
        raise unreadable(path, error) from error
