"""volssl: self-supervised learning on 3D CT and MR volumes, on MONAI and PyTorch-Ignite."""

from volssl.encoders import load_encoder

__version__ = "0.1.0"

__all__ = ["__version__", "load_encoder"]
