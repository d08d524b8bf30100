"""Encoders: volumes in, pyramids of features and pooled vectors out."""

from volssl.encoders.base import Encoder
from volssl.encoders.densenet import PaperDenseNet

__all__ = ["Encoder", "PaperDenseNet"]
