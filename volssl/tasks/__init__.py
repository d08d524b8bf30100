"""Downstream tasks: what a label means, and the networks' answers for it."""

from volssl.tasks.base import Task
from volssl.tasks.cache import BoxCache
from volssl.tasks.classification import Classification
from volssl.tasks.hemorrhage import Hemorrhage
from volssl.tasks.metastasis import Metastasis
from volssl.tasks.views import TaskViews

__all__ = ["BoxCache", "Classification", "Hemorrhage", "Metastasis", "Task", "TaskViews"]
