"""What can be learned; a new task is one file and one line here."""

from search_spaces import Registry
from trainables.tasks.digits import DigitsTask
from trainables.tasks.images import ImagesTask
from trainables.tasks.speech import SpeechTask

TASKS: Registry[type] = Registry("task", ("digits", DigitsTask), ("images", ImagesTask), ("speech", SpeechTask))

__all__ = ["TASKS", "DigitsTask", "ImagesTask", "SpeechTask"]
