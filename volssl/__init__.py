"""volssl: self-supervised learning on 3D CT and MR volumes, on MONAI and PyTorch-Ignite."""

__version__ = "0.1.0"
