"""What can be learned; a new task is one file and one line here."""

from search_spaces import Registry
from trainables.tasks.detection import DetectionTask
from trainables.tasks.digits import DigitsTask
from trainables.tasks.images import ImagesTask
from trainables.tasks.speech import SpeechTask
from trainables.tasks.table import TableTask

TASKS: Registry[type] = Registry(
    "task",
    ("digits", DigitsTask),
    ("images", ImagesTask),
    ("speech", SpeechTask),
    ("table", TableTask),
    ("detection", DetectionTask),
    needs=("load", "loss", "metric", "targets", "metric_name", "augmentation"),
)

__all__ = ["TASKS", "DetectionTask", "DigitsTask", "ImagesTask", "SpeechTask", "TableTask"]
