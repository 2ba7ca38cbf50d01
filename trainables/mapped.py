"""How do trials read a bank that is larger than memory? From files that every process of a machine maps, a page once.

One `.npy` file an array, written view by view as the teachers answer, so that no more than one view is ever in memory.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trainables.augment import Augmentation
from trainables.bank import CLASSIFIER, FORMAT, Bank, corrupt, file_digest
from trainables.files import whole_folder
from trainables.tasks.base import Split

FACTS, LOGITS, TAP = "bank.json", "logits", "tap."


class MappedArray(np.memmap):
    """An array in a file, read-only; what is sent to another process is the path, and it maps the file itself."""

    nbytes = 0  # of the object store, as of a feature that is computed when it is asked for
    path: Path | None

    def __array_finalize__(self, obj: Any) -> None:
        super().__array_finalize__(obj)
        self.path = None  # of a part

    def __reduce_ex__(self, protocol: Any) -> Any:
        return super().__reduce_ex__(protocol) if self.path is None else (opened, (self.path,))


def opened(path: Path) -> MappedArray:
    """The array in a `.npy` file, not read yet."""
    found = np.load(path, mmap_mode="r", allow_pickle=False).view(MappedArray)
    found.path = path.resolve()  # a worker may have another working folder
    return found


def build_mapped(folder: Path, build: Callable[..., Bank]) -> None:
    """Write a bank to `folder`, whole or not at all.

    Args:
        folder: where it lies then.
        build: `trainables.bank.build` with all but `room`.
    """
    with whole_folder(folder) as draft:

        def room(name: str, shape: tuple[int, ...]) -> np.ndarray:
            path = draft / f"{name}.npy"
            return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)

        bank = build(room=room)
        if bank.classifier is not None:
            for name, part in zip(CLASSIFIER, bank.classifier, strict=True):
                np.save(draft / f"{name}.npy", part)
        files = {path.name: file_digest(path) for path in sorted(draft.glob("*.npy"))}
        facts = {"format": FORMAT, "teacher_params": bank.teacher_params, "taps": list(bank.taps), "sha256": files}
        (draft / FACTS).write_text(json.dumps(facts))


def load_mapped(folder: Path, split: Split, *, augmentation: Augmentation, seed: int) -> Bank:
    """Bank that `build_mapped` wrote, for the same split.

    Raises:
        KdnasError: a file is missing, cut short or altered, or it belongs to another split.
    """
    try:
        facts = json.loads((folder / FACTS).read_text())
        if any(file_digest(folder / name) != digest for name, digest in facts["sha256"].items()):
            raise corrupt(folder, "its checksum does not match")
        logits, taps = opened(folder / f"{LOGITS}.npy"), {n: opened(folder / f"{TAP}{n}.npy") for n in facts["taps"]}
        there = (folder / f"{CLASSIFIER[0]}.npy").exists()
        # Mapped first: a header that promises more than the file holds is refused before any memory is taken.
        weight, bias = (np.array(opened(folder / f"{name}.npy")) if there else None for name in CLASSIFIER)
        params = tuple(int(size) for size in facts["teacher_params"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise corrupt(folder, f"it cannot be read ({error})") from error
    for samples in (logits.shape[2], *(tap.shape[1] for tap in taps.values())):
        if samples != len(split):
            raise corrupt(folder, f"it holds {samples} samples, the data {len(split)}")
    known = None if weight is None or bias is None else (weight, bias)
    return Bank(split.images, split.labels, logits, taps, augmentation, seed, params, known)
