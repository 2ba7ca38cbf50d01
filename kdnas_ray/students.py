"""How is a found student loaded? (`load_student(RUN / "best")`)"""

from trainables.model_files import load_student, save_student

__all__ = ["load_student", "save_student"]
