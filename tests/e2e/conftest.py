"""One small real search on digits, shared by the tests that look at what it left behind."""

from pathlib import Path

import pytest
from e2e.launch import config_file, kdnas


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run folder of a finished small search, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    done = kdnas("search", config_file(folder), "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return folder / "run", done.stdout
