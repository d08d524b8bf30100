"""volssl: self-supervised learning on 3D CT and MR volumes, on MONAI and PyTorch-Ignite."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from volssl.encoders import load_encoder

__version__ = "0.1.0"

__all__ = ["__version__", "load_encoder"]


def __getattr__(name: str) -> Any:
    """Load the encoders, and torch with them, when they are asked for: who reads DICOM needs neither."""
    if name == "load_encoder":
        from volssl.encoders import load_encoder

        return load_encoder
    raise AttributeError(f"module 'volssl' has no attribute {name!r}")
