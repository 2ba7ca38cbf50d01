"""Is every configuration in examples/ one that a search would accept, and does its first line say what it is for?"""

from pathlib import Path

import pytest
import shapes
from tones import CLASSES, parquet, spoken

from kdnas_ray.config import read_file
from kdnas_ray.driver import planned
from search_spaces import SPACES
from trainables.evaluators import EVALUATORS, Table
from trainables.tasks import DetectionTask, SpeechTask
from trainables.teachers import PairedTeacher

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
TABLES = ROOT.parent / "shared" / "data" / "nas_bench_macro"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_is_accepted_and_explained(path, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert path.read_text(encoding="utf8").startswith("# ")
    assert f"kdnas search examples/{path.name}" in path.read_text(encoding="utf8")
    config = read_file(path)
    if isinstance(config.evaluator, Table):
        table = TABLES / config.evaluator.path.name
        if not table.exists():
            pytest.skip("the table is not here")
        config = read_file(path, [f"evaluator.path={table}"])
    if isinstance(config.task, SpeechTask):
        words = ("0", "1") if isinstance(config.teachers[0], PairedTeacher) else CLASSES
        recordings = parquet(tmp_path / "recordings.parquet", spoken(12, classes=words))
        config = read_file(path, [f"task.path={recordings}"])
    if isinstance(config.task, DetectionTask):
        config = read_file(path, [f"task.path={shapes.parquet(tmp_path / 'shapes.parquet', shapes.pictures(24))}"])
    planned(config)


def test_every_space_and_evaluator_but_the_defaults_has_an_example(monkeypatch):
    monkeypatch.chdir(ROOT)
    configs = [read_file(path) for path in EXAMPLES]
    assert {SPACES.name_of(config.space) for config in configs} >= set(SPACES)
    assert {EVALUATORS.name_of(config.evaluator) for config in configs} >= set(EVALUATORS)
