"""How does a run outlive the machine that its driver runs on? By a copy at a URL, made as the run grows."""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from pyarrow import fs

from search_spaces import KdnasError, first_line
from trainables.checkpoints import Checkpoints, within

EVERY_S = 30.0
BUSY = 10  # a copy takes at most a tenth of the time
GROWING = (".jsonl", ".journal")  # only appended to
SMALL = 2**16
# Unfinished candidates and banks have places of their own there; what begins with a dot is a draft or a lock.
APART = ("trials", "bank")
BANKS = "banks"
FIELD = "resources.storage"

Say = Callable[[str], None]
Stamp = tuple[int, int]


def check_storage(storage: str | None, run: Path, new: bool) -> None:
    """Refuses a URL that cannot be written, or where another run of this name lies.

    Raises:
        KdnasError: see there.
    """
    if storage is None:
        return
    Checkpoints(storage).check(FIELD)
    system, base = fs.FileSystem.from_uri(within(storage, run.resolve().name))
    if new and system.get_file_info(f"{base}/config.yaml").type is not fs.FileType.NotFound:
        raise KdnasError(
            f"holds a run named {run.resolve().name} already",
            field=FIELD,
            value=storage,
            remedy="choose another name by --out, or go on with that run: `kdnas fetch` brings it here",
        )


@contextlib.contextmanager
def mirrored(run: Path, storage: str | None, say: Say) -> Iterator[None]:
    """While this lasts, a copy of the run folder lies at `storage`/<its name>, half a minute old at most.

    Where a copy takes longer than three seconds there are ten times as long between two. What lies there is the run as
    it was at one moment: of files that grow, as much as there was then.

    Args:
        run: the folder.
        storage: URL; None for no copy.
        say: told when copying fails, and when it works again.
    """
    if storage is None:
        yield
        return
    where, sent, ended = within(storage, run.resolve().name), dict[str, Stamp](), threading.Event()

    def copy(behind: bool) -> bool:
        try:
            _send(run, where, sent)
        except OSError as error:
            if not behind:
                say(f"Warning: the copy at {storage} is behind ({first_line(error)}); it is tried again.")
            return True
        if behind:
            say(f"The copy at {storage} is up to date again.")
        return False

    def keep_up() -> None:
        pause, behind = EVERY_S, False
        while not ended.wait(pause):
            begin = time.monotonic()
            behind = copy(behind)
            pause = max(EVERY_S, BUSY * (time.monotonic() - begin))

    thread = threading.Thread(target=keep_up, daemon=True, name="kdnas-mirror")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        copy(False)


def fetch(where: str, out: Path) -> Path:
    """Bring the copy of a run here as the run folder `out`.

    Raises:
        KdnasError: there is none, or something lies at `out`.
    """
    if out.exists():
        raise KdnasError("exists already", field="--out", value=str(out), remedy="name another folder")
    draft = out.with_name(f".{out.name}.fetched")
    shutil.rmtree(draft, ignore_errors=True)
    try:
        found = _bring(where, draft)
    except (OSError, ValueError) as error:  # pyarrow raises ValueError for what is no URL it knows
        raise KdnasError(f"cannot be read ({first_line(error)})", field="URL", value=where) from error
    if not found or not (draft / "config.yaml").is_file():
        shutil.rmtree(draft, ignore_errors=True)
        raise KdnasError(
            "no copy of a run lies there",
            field="URL",
            value=where,
            remedy="give resources.storage of the run and its name, such as s3://bucket/kdnas/first",
        )
    return draft.rename(out)


def fetch_bank(storage: str | None, folder: Path, say: Say) -> None:
    """Bring the bank of this name here, where another machine computed it."""
    if storage is None or folder.exists():
        return
    draft = folder.with_name(f".{folder.name}.fetched")
    try:
        if _bring(within(storage, f"{BANKS}/{folder.name}"), draft):
            draft.rename(folder)
            say(f"Knowledge bank: fetched from {storage}")
    except OSError as error:
        say(f"The knowledge bank cannot be fetched from {storage} ({first_line(error)}).")
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def store_bank(storage: str | None, folder: Path, say: Say) -> None:
    """Leave the bank for other machines, if none left it before."""
    if storage is None or not folder.exists():
        return
    try:
        where = within(storage, f"{BANKS}/{folder.name}")
        system, base = fs.FileSystem.from_uri(where)
        if system.get_file_info(base).type is fs.FileType.NotFound:
            _send(folder, where, {})
    except OSError as error:
        say(f"The knowledge bank cannot be stored at {storage} ({first_line(error)}).")


def _send(folder: Path, where: str, sent: dict[str, Stamp]) -> None:
    """Copy what changed since it was `sent`."""
    system, base = fs.FileSystem.from_uri(where)
    # Files that grow come last: what a small one says of them, such as how far MLflow was told, is in them then.
    paths = sorted(_files(folder), key=lambda path: path.suffix in GROWING)
    now: list[tuple[Path, str, Stamp, bytes | None]] = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # replaced in this moment: the next time
            stamp = (path.stat().st_size, path.stat().st_mtime_ns)
            name = path.relative_to(folder).as_posix()
            if sent.get(name) != stamp:
                small = path.suffix not in GROWING and stamp[0] <= SMALL
                now.append((path, name, stamp, path.read_bytes() if small else None))
    for path, name, stamp, content in now:
        with contextlib.suppress(FileNotFoundError):
            _write(system, f"{base}/{name}", path, stamp[0], content)
            sent[name] = stamp


def _write(system: fs.FileSystem, to: str, path: Path, size: int, content: bytes | None) -> None:
    if system.type_name == "local":
        system.create_dir(to.rpartition("/")[0], recursive=True)
    with path.open("rb") as file, system.open_output_stream(to) as stream:
        if content is not None:
            stream.write(content)
            return
        left = size if path.suffix in GROWING else None
        while part := file.read(2**20 if left is None else min(left, 2**20)):
            stream.write(part)
            left = None if left is None else left - len(part)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in APART or path.name.startswith("."):
            continue
        if path.is_dir():
            yield from (inner for inner in sorted(path.rglob("*")) if inner.is_file())
        else:
            yield path


def _bring(where: str, folder: Path) -> int:
    """Copy what lies there into the folder; returns the number of files."""
    system, base = fs.FileSystem.from_uri(where)
    found = 0
    for info in system.get_file_info(fs.FileSelector(base, allow_not_found=True, recursive=True)):
        if info.type is not fs.FileType.File:
            continue
        name = PurePosixPath(info.path).relative_to(base)
        if ".." in name.parts or name.is_absolute():  # a key may be any text
            raise KdnasError("a name there leads out of the folder", field="URL", value=info.path)
        to = folder / name
        to.parent.mkdir(parents=True, exist_ok=True)
        with system.open_input_stream(info.path) as stream, to.open("wb") as file:
            while part := stream.read(2**20):
                file.write(part)
        found += 1
    return found
