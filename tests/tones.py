"""Recordings made for tests: each class a tone of its own pitch, each speaker of another strength."""

import io
import wave
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

RATE = 4000
CLASSES = ("go", "stop")
SPEAKERS = ("ann", "ben", "cem", "dee", "eva")


def tone(hz: float, samples: int = 1200, rate: int = RATE, strength: float = 0.5) -> np.ndarray:
    """A sine `[samples]`."""
    return strength * np.sin(2 * np.pi * hz * np.arange(samples) / rate)


def wav(samples: np.ndarray, rate: int = RATE, width: int = 2) -> bytes:
    """A WAV file of samples `[frames]` or `[frames, channels]` between -1 and 1."""
    whole = np.round(samples * (2.0 ** (8 * width - 1) - 1)).astype(np.int64)
    if width == 3:
        data = (whole << 8).astype("<i4").reshape(-1, 1).view(np.uint8)[:, 1:].tobytes()
    else:
        data = (whole + (128 if width == 1 else 0)).astype({1: "u1", 2: "<i2", 4: "<i4"}[width]).tobytes()
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(data)
    return buffer.getvalue()


def spoken(each: int = 4, speakers: tuple[str, ...] = SPEAKERS, classes: tuple[str, ...] = CLASSES) -> list[tuple]:
    """(WAV, class, speaker) of `each` recordings of every class by every speaker."""
    rows = []
    for who, speaker in enumerate(speakers):
        for what, word in enumerate(classes):
            for number in range(each):
                pitch = 300 + 500 * what + 10 * who + number
                rows.append((wav(tone(pitch, strength=0.3 + 0.1 * who)), word, speaker))
    return rows


def parquet(path: Path, rows: list[tuple], **names: str | None) -> str:
    """A Parquet file of (WAV, class, speaker); `speaker=None` leaves that column out, other names rename columns."""
    columns = {
        names.get("audio", "audio"): [
            stored if isinstance(stored, dict) else {"bytes": stored, "path": f"{number}.wav"}
            for number, (stored, _, _) in enumerate(rows)
        ],
        names.get("label", "label"): [word for _, word, _ in rows],
    }
    if names.get("speaker", "speaker"):
        columns[names.get("speaker", "speaker")] = [speaker for _, _, speaker in rows]
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return str(path)


def folder(path: Path, rows: list[tuple]) -> str:
    """A folder with a subfolder a class; files are named SPEAKER_nohash_NUMBER.wav, as in Speech Commands."""
    for number, (data, word, speaker) in enumerate(rows):
        (path / word).mkdir(parents=True, exist_ok=True)
        (path / word / f"{speaker}_nohash_{number}.wav").write_bytes(data)
    return str(path)
