"""The engine: trains any method, logs, and resumes to the same bits."""

from volssl.engine.averaging import WeightAverage
from volssl.engine.handlers import SaveEncoder
from volssl.engine.larc import LARC
from volssl.engine.monitor import CollapseMonitor
from volssl.engine.pictures import SavePictures
from volssl.engine.schedule import WarmupCosine, scaled_rate
from volssl.engine.trainer import MethodTrainer

__all__ = [
    "LARC",
    "CollapseMonitor",
    "MethodTrainer",
    "SaveEncoder",
    "SavePictures",
    "WarmupCosine",
    "WeightAverage",
    "scaled_rate",
]
