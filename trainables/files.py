"""How are files and folders written so that whoever reads them meets the old or the new, never half of one?"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Give the file this content in one step."""
    draft = path.with_name(f".{path.name}")
    draft.write_text(text, encoding="utf8")
    draft.replace(path)


@contextlib.contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to fill; when the context ends it takes the place of `folder`, whole or not at all.

    Two processes may write the same folder at once: one of them wins.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    draft = work / "new"
    try:
        draft.mkdir()
        yield draft
        # Moved away, not deleted in place: a reader must never meet half a folder.
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder, work / "old")
        try:
            os.replace(draft, folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # there is one: another process was faster
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
