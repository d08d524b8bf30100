"""Encoders: volumes in, pyramids of features and pooled vectors out."""

from volssl.encoders.base import Encoder
from volssl.encoders.densenet import PaperDenseNet
from volssl.encoders.file import load_encoder, save_encoder, start_from

__all__ = ["Encoder", "PaperDenseNet", "load_encoder", "save_encoder", "start_from"]
