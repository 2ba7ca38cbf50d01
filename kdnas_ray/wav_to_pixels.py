"""How does a WAV file become what an exported student of recordings reads? NumPy alone is needed.

`kdnas export` copies this file beside such a student; `about.json` there (and the metadata of an ONNX file) holds the
numbers: `how = about["input"]["preprocessing"]`.
"""

import math
import wave
from collections.abc import Mapping
from os import PathLike
from typing import Any

import numpy as np

SILENT_DB = -100.0  # what digital silence is taken for, relative to a power of 1


def pixels(path: str | PathLike[str], how: Mapping[str, Any]) -> np.ndarray:
    """What a network reads of one recording: uint8 `[1, 1, mels, frames]`, low frequencies first.

    Args:
        path: a WAV file, PCM of 8, 16, 24 or 32 bits, of the rate that the network was trained on; of any length.
        how: the numbers of the network's preprocessing.

    Raises:
        ValueError: it has another sample rate or other samples.
    """
    sound, rate = read(path)
    if rate != how["rate"]:
        raise ValueError(f"{path} has {rate} samples a second, the network hears {how['rate']}: resample it")
    return quantised(decibels(fitted(sound, how), how), how)[None, None]


def read(path: str | PathLike[str]) -> tuple[np.ndarray, int]:
    """Samples `[n]` between -1 and 1, channels averaged, and their rate a second.

    Raises:
        ValueError: the samples have another width, or there are none.
    """
    with wave.open(str(path), "rb") as file:
        channels, width, rate, frames = file.getparams()[:4]
        raw = np.frombuffer(file.readframes(frames), dtype=np.uint8)
    if width not in (1, 2, 3, 4) or not len(raw):
        raise ValueError(f"{path} has {8 * width} bits a sample, {len(raw)} bytes; known are 8, 16, 24 and 32 bits")
    if width == 1:
        values = (raw.astype(np.float64) - 128) / 128
    else:
        wide = np.zeros((len(raw) // width, 4), dtype=np.uint8)
        wide[:, 4 - width :] = raw.reshape(-1, width)  # as the upper bytes of 32 bits, which keeps the sign
        values = wide.view("<i4")[:, 0] / 2.0**31
    return values.reshape(-1, channels).mean(axis=1), rate


def fitted(sound: np.ndarray, how: Mapping[str, Any]) -> np.ndarray:
    """The recording `[n]` less its mean, cut or padded to `[samples]` around the centre of its energy.

    Nothing is cut from one that is short enough, and nothing padded to one that is long enough.
    """
    samples, sound = how["samples"], sound - sound.mean()
    energy = sound**2
    total = energy.sum()
    centre = float(np.arange(len(sound)) @ energy / total) if total else (len(sound) - 1) / 2
    spare = len(sound) - samples
    first = min(max(round(centre - (samples - 1) / 2), min(spare, 0)), max(spare, 0))
    found = np.zeros(samples)
    taken = sound[max(first, 0) : first + samples]
    found[max(-first, 0) :][: len(taken)] = taken
    largest = np.abs(found).max()
    return found / largest if how["same_loudness"] and largest else found


def decibels(sound: np.ndarray, how: Mapping[str, Any]) -> np.ndarray:
    """Log-mel energies `[mels, frames]` in dB, at least `SILENT_DB`: Hann windows around every `hop`-th sample."""
    fft, window, hop = how["fft"], how["window"], how["hop"]
    padded = np.pad(sound, fft // 2)
    hann = np.zeros(fft)
    start = (fft - window) // 2
    hann[start : start + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = np.stack([padded[at : at + fft] for at in range(0, len(padded) - fft + 1, hop)], axis=1)
    power = np.abs(np.fft.rfft(frames * hann[:, None], axis=0)) ** 2  # [fft / 2 + 1, frames]
    energy = filters(how) @ power
    return (10 * np.log10(np.maximum(energy, 10 ** (SILENT_DB / 10)))).astype(np.float32)


def filters(how: Mapping[str, Any]) -> np.ndarray:
    """Triangular filters `[mels, fft / 2 + 1]` with peak 1, evenly spaced in `mel(f) = 2595 log10(1 + f / 700)`."""
    ends = [2595 * math.log10(1 + hz / 700) for hz in (how["low_hz"], how["high_hz"])]
    corners = 700 * (10 ** (np.linspace(ends[0], ends[1], how["mels"] + 2) / 2595) - 1)
    low, peak, high = (corners[index : index + how["mels"], None] for index in (0, 1, 2))
    hz = np.linspace(0, how["rate"] / 2, how["fft"] // 2 + 1)[None]
    return np.maximum(np.minimum((hz - low) / (peak - low), (high - hz) / (high - peak)), 0)


def quantised(energy: np.ndarray, how: Mapping[str, Any]) -> np.ndarray:
    """Bytes: `peak_db` becomes 255, `peak_db - range_db` 0, what lies outside is clipped."""
    range_db = how["range_db"]
    return np.rint((energy - how["peak_db"]).clip(-range_db, 0) * (255 / range_db) + 255).astype(np.uint8)
