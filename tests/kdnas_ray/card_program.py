"""The program of a model card, run where an exported student lies."""

import re
import subprocess
import sys
from pathlib import Path

# Nothing of ours, and no torch, may be imported.
ALONE = "import sys\nfor name in ('torch', 'kdnas_ray', 'trainables', 'search_spaces'):\n    sys.modules[name] = None\n"


def program(folder: Path) -> str:
    """The one that the card shows."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    return code


def printed(folder: Path, code: str, form: str) -> str:
    """What it prints there, in a fresh interpreter; of the formats only safetensors needs our package."""
    alone = ALONE if form == "onnx" else ""
    own = [str(Path(__file__).parents[2])] if form == "safetensors" else []
    here = f"import sys; sys.path.insert(0, '.')\nsys.path += {own}\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", here + alone + code], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
