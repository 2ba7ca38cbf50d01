"""How are files and folders written so that whoever reads them meets the old or the new, never half of one?"""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

HELD = "held"  # locked by the process whose folder it is


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


@contextlib.contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A folder of this process for what nobody needs later, deleted when the context ends.

    Those of the user's processes that were killed before they could do so are deleted first: each holds a lock on its
    own as long as it runs.

    Args:
        prefix: of the folder's name, the same for all uses of one kind.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # deleted by another, of another user, or held
            if left.stat().st_uid == os.getuid() and not left.is_symlink():
                with (left / HELD).open() as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        with (folder / f".{HELD}").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            (folder / f".{HELD}").rename(folder / HELD)  # held before anybody sees it
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
