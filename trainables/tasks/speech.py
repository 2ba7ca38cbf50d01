"""How do recordings of spoken words become a task of small pictures of sound?

Each recording is cut or padded to one length and turned into log-mel energies, quantised to bytes: from there on it is
an image of one channel, `[mels, frames]`, and bank, loop, augmentation and export work as for any image.
"""

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from trainables.augment import Augmentation
from trainables.recordings import READ_ROWS, Source, compiled, open_source, refusal
from trainables.sound import SILENT_DB, LogMel, decibels, decode_wav, filters, fit, quantise
from trainables.tasks.base import Classification, Data, Split, assemble, check_shares, split

logger = logging.getLogger(__name__)

# Mirrored speech is no speech, and a shift in frequency makes another voice: time only, and masks.
SPEECH = Augmentation(time_shift=6, time_mask=8, frequency_mask=5)
# What is possible for each number of the options, both ends included.
RANGES = {
    "seconds": (0.1, 30.0),
    "mels": (8, 128),
    "window_ms": (5.0, 200.0),
    "hop_ms": (1.0, 200.0),
    "low_hz": (0.0, 10_000.0),
    "range_db": (20.0, 120.0),
    "most_bad": (0.0, 0.5),
}


@dataclass(frozen=True)
class SpeechTask(Classification):
    """Short recordings of spoken words: a Parquet file, a folder of them, or a folder with a subfolder of WAVs a class.

    Speakers of the test split are heard neither in training nor in validation wherever speakers are known: from the
    column of a Parquet file, or from the names of the files by `speaker_pattern`. Without speakers the splits are
    stratified. Subfolders whose names begin with `_` or `.` are left out.

    Source: Warden 2018, Speech Commands: A Dataset for Limited-Vocabulary Speech Recognition.

    Args:
        path: the Parquet file or the folder.
        audio_column: column of the recordings in Parquet, whole WAV files (PCM of 8, 16, 24 or 32 bits).
        label_column: column of the labels in Parquet.
        speaker_column: column of the speakers in Parquet; null where splits need not tell them apart. The default may
            be absent.
        speaker_pattern: regular expression whose one group is the speaker in the name of a WAV file in a folder, such
            as `^(.+)_nohash_` in Speech Commands.
        seconds: every recording is cut or padded to it, around the centre of its energy.
        mels: rows of the picture: mel filters.
        window_ms: length of the windows of the spectra, milliseconds.
        hop_ms: from one window to the next; `seconds` divided by it is about the number of columns.
        low_hz: where the lowest mel filter begins.
        high_hz: where the highest ends; null for half the sample rate.
        same_loudness: scale every recording to the same largest sample, so that a speaker who was recorded louder or
            softer than those of the training split is understood too; false keeps loudness.
        range_db: what lies so far below the loudest energy of the training recordings is silence.
        most_bad: share of the recordings that may be unreadable; so many are skipped with a warning.
        validation: share of the speakers (or of the recordings, without speakers) that candidates are compared on.
        test: share of the speakers (or recordings) kept sealed for the finalists.
        validation_speakers: names of the speakers to compare on; empty to draw them.
        test_speakers: names of the speakers to keep sealed; empty to draw them.
        augmentation: transforms that views of the training recordings are drawn from.
    """

    path: Path
    audio_column: str = "audio"
    label_column: str = "label"
    speaker_column: str | None = "speaker"
    speaker_pattern: str | None = None
    seconds: float = 1.0
    mels: int = 40
    window_ms: float = 32.0
    hop_ms: float = 16.0
    low_hz: float = 20.0
    high_hz: float | None = None
    same_loudness: bool = True
    range_db: float = 80.0
    most_bad: float = 0.01
    validation: float = 0.1
    test: float = 0.2
    validation_speakers: tuple[str, ...] = ()
    test_speakers: tuple[str, ...] = ()
    augmentation: Augmentation = SPEECH

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise refusal("not possible", name, value, f"stay between {low:g} and {high:g}")
        if self.hop_ms > self.window_ms:
            remedy = f"at most window_ms = {self.window_ms:g}"
            raise refusal("leaves gaps between the windows", "hop_ms", self.hop_ms, remedy)
        if self.window_ms > 1000 * self.seconds:
            remedy = f"at most {1000 * self.seconds:g}, or more seconds"
            raise refusal("longer than a recording", "window_ms", self.window_ms, remedy)
        if self.speaker_pattern is not None:
            compiled(self.speaker_pattern)
        both = sorted({*self.test_speakers} & {*self.validation_speakers})
        if both:
            raise refusal("is a test speaker too", "validation_speakers", both[0], "name each speaker once")

    def load(self, seed: int) -> Data:
        """The data, split by this seed.

        Raises:
            KdnasError: names the path, column, speaker or recording that cannot be used.
        """
        return self._read(seed)[0]

    def preprocessing(self, seed: int) -> LogMel:
        """How the recordings of the data of this seed became bytes, for use outside; reads the data once more.

        Raises:
            KdnasError: as `load`.
        """
        return self._read(seed)[1]

    def speakers(self, seed: int) -> tuple[list[str], list[str], list[str]] | None:
        """Names of the speakers of train, validation and test split of this seed; None where they are not known.

        Raises:
            KdnasError: as `load`.
        """
        return _speakers_apart(self, open_source(self).speakers, seed)

    def _read(self, seed: int) -> tuple[Data, LogMel]:
        source = open_source(self)
        _check_classes(self, source.classes)
        check_shares(self.validation, self.test)
        parts = _speakers_apart(self, source.speakers, seed)
        energies, how, kept = _energies(self, source)
        labels = source.labels[kept]
        if parts is None:
            # Bytes need the peak of the training split, so numbers stand for the pictures while they are split.
            places = np.arange(len(kept)).reshape(-1, 1, 1, 1)
            found = split(places, labels, source.classes, validation=self.validation, test=self.test, seed=seed)
            members = [part.images.ravel() for part in found]
        else:
            speakers = np.array(source.speakers)[kept]
            members = [np.flatnonzero(np.isin(speakers, part)) for part in parts]
            _check_each_class(labels, members, parts, source.classes)
        peak = max(float(energies[index].max()) for index in members[0])
        if peak <= SILENT_DB:
            raise source.refuse("all recordings to train on are silent", "check how they were written")
        how = replace(how, peak_db=peak)
        pictures = quantise(energies, how)
        train, validation, test = (Split(pictures[indices], labels[indices]) for indices in members)
        return assemble(train, validation, test, source.classes), how


def _check_classes(task: SpeechTask, classes: Sequence[str]) -> None:
    if len(classes) < 2:
        raise refusal(
            f"all recordings are of one class ({classes[0]!r})",
            "path",
            str(task.path),
            "at least two are needed; in a folder each class has its own subfolder",
        )


def _speakers_apart(
    task: SpeechTask, speakers: Sequence[str], seed: int
) -> tuple[list[str], list[str], list[str]] | None:
    """Names of the speakers of train, validation and test split; None where speakers are not known."""
    if not speakers:
        for option in ("test_speakers", "validation_speakers"):
            if getattr(task, option):
                raise refusal(
                    "the recordings name no speakers",
                    option,
                    list(getattr(task, option)),
                    "say where they are in task.speaker_column (Parquet) or task.speaker_pattern (folder)",
                )
        return None
    known = sorted(set(speakers))
    for option in ("test_speakers", "validation_speakers"):
        for name in getattr(task, option):
            if name not in known:
                shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
                raise refusal("no such speaker", option, name, f"known: {shown}")
    drawn = np.random.default_rng(seed).permutation(known).tolist()
    free = [name for name in drawn if name not in (*task.test_speakers, *task.validation_speakers)]
    wanted = [not task.test_speakers, not task.validation_speakers]
    if len(free) < 1 + sum(wanted):
        raise refusal(
            f"too few speakers: {len(known)} ({', '.join(known[:20])}), of whom {len(free)} are left for training"
            + "".join(f" and {name}" for name, missing in zip(("test", "validation"), wanted, strict=True) if missing),
            "test_speakers",
            list(task.test_speakers),
            "each split needs one of its own; task.speaker_column=null (no task.speaker_pattern) splits without regard "
            "to them",
        )
    # At least one in each split; the draw of the test speakers does not depend on the validation's share.
    room = len(free) - 1 - wanted[1]
    held_out = min(max(round(task.test * len(known)), 1), room) if wanted[0] else 0
    compared = min(max(round(task.validation * len(known)), 1), len(free) - held_out - 1) if wanted[1] else 0
    test = [*task.test_speakers, *free[:held_out]]
    validation = [*task.validation_speakers, *free[held_out : held_out + compared]]
    return free[held_out + compared :], validation, test


def _check_each_class(
    labels: np.ndarray, members: Sequence[np.ndarray], parts: Sequence[Sequence[str]], classes: Sequence[str]
) -> None:
    for option, indices, people in zip(("path", "validation_speakers", "test_speakers"), members, parts, strict=True):
        counts = np.bincount(labels[indices], minlength=len(classes))
        if counts.min() == 0:
            missing, name = classes[int(counts.argmin())], option.partition("_")[0].replace("path", "train")
            nowhere = not (labels == int(counts.argmin())).any()
            said = "it has no recording at all" if nowhere else f"its {len(people)} speakers say none"
            raise refusal(
                f"class {missing!r} is missing in the {name} split: {said}",
                option,
                list(people),
                "leave the class out, or add recordings of it"
                if nowhere
                else "name other speakers, or more of them (task.test, task.validation), or choose another seed",
            )


def _energies(task: SpeechTask, source: Source) -> tuple[np.ndarray, LogMel, np.ndarray]:
    """Energies in dB `[K, 1, mels, frames]` of the readable recordings, how they were made, and their numbers `[K]`."""
    how: LogMel | None = None
    energies, kept, bad, first_name, sounds = np.empty(0), [], [], "", []
    for number, record in enumerate(source.records()):
        try:
            if record.data is None:
                raise ValueError("there is nothing to read")
            sound, rate = decode_wav(record.data)
        except ValueError as error:
            bad.append(f"{record.name}: {error}")
            continue
        if how is None:
            how, first_name = _settings(task, rate), record.name
            energies = _room(source, how)
        if rate != how.rate:
            raise source.refuse(
                f"sample rates differ: {first_name} has {how.rate} a second, {record.name} has {rate}",
                "resample them to one rate, for example with `sox IN.wav -r RATE OUT.wav`",
            )
        kept.append(number)
        sounds.append(fit(sound, how))
        if len(sounds) == READ_ROWS:
            energies[len(kept) - len(sounds) : len(kept)] = decibels(np.stack(sounds), how)
            sounds = []
    _check_bad(task, source, bad)
    assert how is not None
    if sounds:
        energies[len(kept) - len(sounds) : len(kept)] = decibels(np.stack(sounds), how)
    return energies[: len(kept)], how, np.array(kept)


def _check_bad(task: SpeechTask, source: Source, bad: Sequence[str]) -> None:
    total = len(source.labels)
    if not bad:
        return
    if len(bad) > task.most_bad * total:
        raise source.refuse(
            f"{len(bad)} of {total} recordings cannot be used, more than task.most_bad = {task.most_bad:g} of them; "
            f"the first is {bad[0]}",
            "replace or remove them"
            + (f", or set task.most_bad={math.ceil(1000 * len(bad) / total) / 1000:g}" if len(bad) < total / 2 else ""),
        )
    logger.warning("%d of %d recordings of %s are skipped; the first is %s", len(bad), total, source.path, bad[0])


def _settings(task: SpeechTask, rate: int) -> LogMel:
    """How recordings of this rate are turned into energies; the peak is not known yet."""
    window = max(round(task.window_ms * rate / 1000), 2)
    high = rate / 2 if task.high_hz is None else task.high_hz
    if not task.low_hz < high <= rate / 2:
        raise refusal(
            f"recordings of {rate} samples a second hold frequencies up to {rate / 2:g} Hz",
            "high_hz" if task.high_hz is not None else "low_hz",
            high if task.high_hz is not None else task.low_hz,
            f"choose low_hz below high_hz, and high_hz at most {rate / 2:g} or null",
        )
    how = LogMel(
        rate=rate,
        samples=round(task.seconds * rate),
        mels=task.mels,
        window=window,
        fft=2 ** math.ceil(math.log2(window)),
        hop=max(round(task.hop_ms * rate / 1000), 1),
        low_hz=task.low_hz,
        high_hz=high,
        same_loudness=task.same_loudness,
        range_db=task.range_db,
    )
    if not _all_hear(how):
        enough = next((mels for mels in range(task.mels - 1, 0, -1) if _all_hear(replace(how, mels=mels))), 1)
        raise refusal(
            f"some filters lie between two frequencies of windows of {task.window_ms:g} ms and would hear nothing",
            "mels",
            task.mels,
            f"{enough} are possible, or longer windows (task.window_ms)",
        )
    return how


def _all_hear(how: LogMel) -> bool:
    return bool((filters(how).sum(dim=1) > 0).all())


def _room(source: Source, how: LogMel) -> np.ndarray:
    """Space for the energies of all recordings, `[N, 1, mels, frames]` float32."""
    shape = (len(source.labels), 1, how.mels, how.frames)
    needed, there = math.prod(shape) * 5, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there / 2:
        raise refusal(
            f"{shape[0]} recordings of {how.mels} x {how.frames} take {needed / 1e9:.1f} GB; this machine has "
            f"{there / 1e9:.1f} GB",
            "seconds",
            how.samples / how.rate,
            "choose fewer seconds or mels, a longer hop_ms, or fewer recordings",
        )
    return np.empty(shape, dtype=np.float32)
