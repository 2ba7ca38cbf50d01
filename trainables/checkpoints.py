"""Where do the files of unfinished candidates lie, so that any machine can go on with any of them?

In a folder that all machines see, or at a URL (s3://bucket/folder, gs://…, as pyarrow's file systems read them) with a
copy on each machine that worked on them.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from search_spaces import KdnasError, first_line

PROBE = "probe"


def within(where: str, folder: str) -> str:
    """A folder there; a URL may end in options (`?region=…`)."""
    path, mark, options = where.partition("?")
    return f"{path.rstrip('/')}/{folder}{mark}{options}"


@dataclass(frozen=True)
class Checkpoints:
    """A folder for each unfinished candidate.

    Args:
        where: a folder, or a URL.
    """

    where: str

    @property
    def remote(self) -> bool:
        """Whether it is a URL."""
        return "://" in self.where

    def folder(self, name: str) -> Path:
        """The candidate's folder on this machine; it need not be there yet."""
        return self._root() / name

    def fetch(self, name: str, file: str) -> Path:
        """Path of the candidate's file as it was published last; there need not be one."""
        path = self.folder(name) / file
        if self.remote:
            system, base = fs.FileSystem.from_uri(self.where)
            with contextlib.suppress(FileNotFoundError), system.open_input_stream(f"{base}/{name}/{file}") as stream:
                content = stream.read()
                path.parent.mkdir(parents=True, exist_ok=True)
                draft = path.with_name(f".{file}")
                draft.write_bytes(content)
                draft.replace(path)
        return path

    def publish(self, name: str, file: str) -> None:
        """Let other machines see the candidate's file.

        Raises:
            OSError: it cannot be written.
        """
        if self.remote:
            self._write(f"{name}/{file}", (self.folder(name) / file).read_bytes())

    def drop(self, name: str) -> None:
        """Delete what is kept of a candidate, whatever is there."""
        shutil.rmtree(self.folder(name), ignore_errors=True)
        if self.remote:
            system, base = fs.FileSystem.from_uri(self.where)
            with contextlib.suppress(OSError):  # none, or the store is away: it costs room, nothing else
                system.delete_dir(f"{base}/{name}")

    def check(self, field: str = "resources.checkpoints") -> None:
        """Try to write there.

        Args:
            field: what the user wrote it as.

        Raises:
            KdnasError: it cannot be written.
        """
        if not self.remote:
            return
        try:
            self._write(PROBE, b"")
            system, base = fs.FileSystem.from_uri(self.where)
            system.delete_file(f"{base}/{PROBE}")
        except (OSError, ValueError) as error:  # pyarrow raises ValueError for what is no URL it knows
            raise KdnasError(
                f"cannot be written ({first_line(error)})",
                field=field,
                value=self.where,
                remedy="s3://bucket/folder, gs://bucket/folder or a folder that all machines see; keys come from the "
                "environment or the machine's role, never from here",
            ) from error

    def _write(self, path: str, content: bytes) -> None:
        system, base = fs.FileSystem.from_uri(self.where)
        if system.type_name == "local":
            system.create_dir(os.path.dirname(f"{base}/{path}"), recursive=True)
        with system.open_output_stream(f"{base}/{path}") as stream:
            stream.write(content)

    def _root(self) -> Path:
        if not self.remote:
            return Path(self.where)
        own = Path(tempfile.gettempdir()) / f"kdnas-{os.getuid()}"
        own.mkdir(mode=0o700, exist_ok=True)
        return own / hashlib.sha256(self.where.encode()).hexdigest()[:16]
