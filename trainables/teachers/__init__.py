"""Where does a teacher come from? Trained here, from a folder, or anything else that answers; a file each."""

from search_spaces import Registry
from trainables.teachers.base import Known, KnownTeacher, Say, Teacher, read_teacher, save_teacher
from trainables.teachers.classifier import ClassifierTeacher
from trainables.teachers.folder import FolderTeacher
from trainables.teachers.function import CallableTeacher
from trainables.teachers.huggingface import HuggingFaceTeacher
from trainables.teachers.module import ModuleTeacher
from trainables.teachers.obtaining import TeacherSettings, build_teacher, check_taps, obtain
from trainables.teachers.onnx_file import OnnxTeacher
from trainables.teachers.paired import PairedTeacher
from trainables.teachers.predictions import PredictionsTeacher, sample_ids, write_predictions
from trainables.teachers.trained import AssistantTeacher, TrainedTeacher, check_order, network, train_teacher

TEACHERS: Registry[type] = Registry(
    "teacher",
    ("trained", TrainedTeacher),
    ("assistant", AssistantTeacher),
    ("folder", FolderTeacher),
    ("module", ModuleTeacher),
    ("huggingface", HuggingFaceTeacher),
    ("onnx", OnnxTeacher),
    ("callable", CallableTeacher),
    ("predictions", PredictionsTeacher),
    ("paired", PairedTeacher),
    ("classifier", ClassifierTeacher),
)

__all__ = [
    "TEACHERS",
    "AssistantTeacher",
    "CallableTeacher",
    "ClassifierTeacher",
    "FolderTeacher",
    "HuggingFaceTeacher",
    "Known",
    "KnownTeacher",
    "ModuleTeacher",
    "OnnxTeacher",
    "PairedTeacher",
    "PredictionsTeacher",
    "Say",
    "Teacher",
    "TeacherSettings",
    "TrainedTeacher",
    "build_teacher",
    "check_order",
    "check_taps",
    "network",
    "obtain",
    "read_teacher",
    "sample_ids",
    "save_teacher",
    "train_teacher",
    "write_predictions",
]
