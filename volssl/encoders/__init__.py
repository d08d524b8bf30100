"""Encoders: volumes in, pyramids of features and pooled vectors out."""

from volssl.encoders.base import Encoder
from volssl.encoders.build import build_encoder, encoder_like, load_encoder
from volssl.encoders.densenet import PaperDenseNet
from volssl.encoders.densenet121 import DenseNet121
from volssl.encoders.file import labelled_patients, save_encoder, start_from
from volssl.encoders.stock import save_stock_weights
from volssl.encoders.swin import SwinUNETR
from volssl.encoders.swin_decoder import UNETRDecoder

__all__ = [
    "DenseNet121",
    "Encoder",
    "PaperDenseNet",
    "SwinUNETR",
    "UNETRDecoder",
    "build_encoder",
    "encoder_like",
    "labelled_patients",
    "load_encoder",
    "save_encoder",
    "save_stock_weights",
    "start_from",
]
