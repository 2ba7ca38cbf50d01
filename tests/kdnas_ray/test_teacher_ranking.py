"""Specification of `kdnas_ray.teacher_ranking`: which size of teacher teaches one student best?"""

import pytest

from kdnas_ray.config import read
from kdnas_ray.teacher_ranking import Taught, TeacherRanking, parse_widths, rank_teachers, scaled, verdict
from search_spaces import Architecture
from trainables.teachers import TrainedTeacher


def ranking(*students: tuple[float, ...], alone: tuple[float, ...] = (0.5,)) -> TeacherRanking:
    """Teachers of width 8, 16, 24 … whose students reached these accuracies."""
    rows = (Taught(8 * (n + 1), 100 * n, 0.9, student) for n, student in enumerate(students))
    return TeacherRanking(Architecture.of({"width": 4}), 1234, 3, tuple(rows), alone)


@pytest.fixture
def tiny(tmp_path):
    """A configuration whose rankings take a second."""
    return read(
        {
            "task": {"name": "digits", "validation": 0.5, "test": 0.3},
            "teachers": [{"stem": 8, "widths": [8], "depths": [1], "epochs": 1, "views": 1}],
            "bank": {"views": 1, "cache": tmp_path / "cache"},
            "space": {"stages": 1, "widths": [4], "depths": [1], "kernels": [3], "blocks": ["basic"]},
            "constraints": {"params": {"of_teacher": 0.15}},
        }
    )


def test_widths_when_read_then_ascend_and_come_once():
    assert parse_widths("32, 8,16,8,") == (8, 16, 32)


def test_teacher_when_scaled_then_keeps_its_shape_and_everything_else():
    teacher = TrainedTeacher(16, (32, 64), (2, 1), epochs=7, stop_epoch=3)
    assert scaled(teacher, 8) == TrainedTeacher(4, (8, 16), (2, 1), epochs=7, stop_epoch=3)
    assert scaled(teacher, 32) == teacher
    assert scaled(teacher, 1) == TrainedTeacher(1, (1, 2), (2, 1), epochs=7, stop_epoch=3)


def test_ranking_when_made_then_one_student_that_fits_the_largest_learned_from_each_and_it_repeats(tiny):
    said: list[str] = []
    found = rank_teachers(tiny, (4, 16), epochs=4, seeds=2, say=said.append)
    small, large = found.teachers
    assert (small.width, large.width) == (4, 16)
    assert small.params < large.params
    assert found.student_params <= 0.15 * large.params
    assert [len(row.val_accuracies) for row in found.teachers] == [2, 2] == [len(found.without_teacher)] * 2
    assert len({small.val_accuracies, large.val_accuracies, found.without_teacher}) == 3
    assert sum(line.startswith("Training the teacher") for line in said) == 2
    said.clear()
    assert rank_teachers(tiny, (4, 16), epochs=4, seeds=2, say=said.append) == found
    assert not [line for line in said if line.startswith("Training the teacher")]  # they were kept


def test_best_when_two_are_equal_then_is_the_smaller_and_gains_are_over_the_student_alone():
    found = ranking((0.7, 0.9), (0.8, 0.8), (0.6, 0.6), alone=(0.5, 0.7))
    assert found.best.width == 8
    assert [found.gain(row) for row in found.teachers] == pytest.approx([0.2, 0.2, 0.0])
    rows = found.to_json()["teachers"]
    assert [row["best"] for row in rows] == [True, False, False]
    assert rows[0]["val_accuracy_std"] == pytest.approx(0.2 / 2**0.5)
    assert ranking((0.7,)).to_json()["without_teacher"]["val_accuracy_std"] is None


@pytest.mark.parametrize(
    ("students", "said"),
    [
        (
            [(0.7,), (0.8,)],
            "is the best for this student of 1,234 parameters: no sign of a capacity gap up to width 16.",
        ),
        ([(0.7, 0.71), (0.6, 0.63)], "is not the best for this student of 1,234 parameters: width 8 is 9.00 ± 1.41"),
        ([(0.7, 0.5), (0.5, 0.6)], "within the spread over seeds"),
        ([(0.7,), (0.6,)], "width 8 is 10.00 points ahead of width 16; one seed cannot tell"),
        ([(0.7,), (0.7,)], "is no better for this student of 1,234 parameters than the one of width 8"),
        ([(0.7,)], "name more widths"),
        ([(0.4,), (0.5,)], "No teacher made this student of 1,234 parameters better than it is without one"),
    ],
)
def test_verdict_when_said_then_tells_whether_the_biggest_is_best_and_how_sure_that_is(students, said):
    assert said in verdict(ranking(*students))
