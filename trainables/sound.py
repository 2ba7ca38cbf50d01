"""How does a WAV file become a picture that a network reads?

Only the standard library's `wave`, numpy and torch are needed; `LogMel` says how to compute the same elsewhere.
"""

import io
import math
import wave
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search_spaces import first_line

MOST_BYTES = 2**28  # of one recording: 46 minutes of 16 bits at 48 kHz
MOST_RATE = 768_000  # samples a second, the most that any recorder writes; windows grow with it
SILENT_DB = -100.0  # what digital silence is taken for, relative to a power of 1


@dataclass(frozen=True)
class LogMel:
    """How a recording becomes what the networks read: bytes `[mels, frames]`, low frequencies first.

    `fit`: samples of -1 to 1, stereo averaged, less their mean, are cut or padded with silence to `samples`, so that
    the centre of their energy comes to lie in the middle as far as the recording reaches; with `same_loudness` they
    are then scaled so that the largest is 1. `decibels`: power spectra of Hann windows around every `hop`-th sample
    (silence beyond the ends) are summed by triangular filters whose peaks are 1 and evenly spaced in
    `mel(f) = 2595 log10(1 + f / 700)`. `quantise`: `peak_db`, the loudest energy in the training recordings, becomes
    255 and `peak_db - range_db` becomes 0; what lies outside is clipped.

    Source: Davis and Mermelstein 1980, Comparison of Parametric Representations for Monosyllabic Word Recognition
    (filters); Young et al., The HTK Book, section 5.4 (this mel formula).

    Args:
        rate: samples a second.
        samples: length of a recording.
        mels: filters.
        window: samples of a Hann window.
        fft: samples of a Fourier transform, the window padded with zeros on both sides.
        hop: samples from a frame to the next.
        low_hz: where the first filter begins.
        high_hz: where the last filter ends.
        same_loudness: whether every recording is scaled to the same largest sample.
        range_db: from the darkest to the brightest byte.
        peak_db: 10 log10 of the mel energy that becomes 255.
    """

    rate: int
    samples: int
    mels: int
    window: int
    fft: int
    hop: int
    low_hz: float
    high_hz: float
    same_loudness: bool
    range_db: float
    peak_db: float = 0.0

    @property
    def frames(self) -> int:
        """Columns of the picture of one recording."""
        return 1 + self.samples // self.hop

    def picture(self, sound: np.ndarray) -> np.ndarray:
        """Bytes `[1, mels, frames]` of one recording, `[n]` of any length, as the networks were trained on."""
        return quantise(decibels(fit(sound, self)[None], self), self)[0]


def decode_wav(data: bytes) -> tuple[np.ndarray, int]:
    """Samples `[frames]` float64 between -1 and 1, channels averaged, and their rate a second.

    Args:
        data: a whole WAV file; PCM of 8 (unsigned), 16, 24 or 32 bits.

    Raises:
        ValueError: says what is wrong with it.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
    try:
        with wave.open(io.BytesIO(data)) as file:
            channels, width, rate, frames, *_ = file.getparams()
            raw = file.readframes(frames)
    # Damaged headers make `wave` raise anything from EOFError to RuntimeError.
    except Exception as error:
        said = first_line(error) if data else "it is empty"
        raise ValueError(f"not a WAV file of PCM samples ({said})") from error
    if not frames or rate < 1:
        raise ValueError("no samples in it" if rate > 0 else f"its sample rate is {rate}")
    if rate > MOST_RATE:
        raise ValueError(f"its sample rate is {rate:,}; at most {MOST_RATE:,} are possible")
    if len(raw) != frames * channels * width:
        there = len(raw) // (channels * width)
        raise ValueError(f"cut short: {there:,} of {frames:,} samples are there")
    if width == 1:
        values = (np.frombuffer(raw, dtype=np.uint8).astype(np.float64) - 128) / 128
    elif width == 3:
        wide = np.zeros((frames * channels, 4), dtype=np.uint8)
        wide[:, 1:] = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 3)  # times 256, which keeps the sign in its place
        values = wide.view("<i4")[:, 0] / 2.0**31
    elif width in (2, 4):
        values = np.frombuffer(raw, dtype=f"<i{width}") / 2.0 ** (8 * width - 1)
    else:
        raise ValueError(f"{8 * width} bits a sample; known are 8, 16, 24 and 32")
    return values.reshape(-1, channels).mean(axis=1), rate


def fit(sound: np.ndarray, how: LogMel) -> np.ndarray:
    """The recording `[n]` less its mean, cut or padded with silence to `[samples]` around the centre of its energy.

    Nothing is cut from a recording that is short enough, and nothing padded to one that is long enough, so the centre
    may lie elsewhere than in the middle.
    """
    sound = sound - sound.mean()
    energy = sound**2
    total = energy.sum()
    centre = float(np.arange(len(sound)) @ energy / total) if total else (len(sound) - 1) / 2
    spare = len(sound) - how.samples
    first = min(max(round(centre - (how.samples - 1) / 2), min(spare, 0)), max(spare, 0))
    fitted = np.zeros(how.samples)
    taken = sound[max(first, 0) : first + how.samples]
    fitted[max(-first, 0) :][: len(taken)] = taken
    largest = np.abs(fitted).max()
    return fitted / largest if how.same_loudness and largest else fitted


def filters(how: LogMel) -> Tensor:
    """Triangular mel filters `[mels, fft / 2 + 1]` float64; each rises from the peak of the one before it to 1.

    Source: Young et al., The HTK Book, section 5.4: `mel(f) = 2595 log10(1 + f / 700)`.
    """
    ends = [2595 * math.log10(1 + hz / 700) for hz in (how.low_hz, how.high_hz)]
    corners = 700 * (10 ** (torch.linspace(ends[0], ends[1], how.mels + 2, dtype=torch.float64) / 2595) - 1)
    low, peak, high = (corners[index : index + how.mels, None] for index in (0, 1, 2))
    hz = torch.linspace(0, how.rate / 2, how.fft // 2 + 1, dtype=torch.float64)[None]
    return torch.minimum((hz - low) / (peak - low), (high - hz) / (high - peak)).clamp(min=0)


def decibels(sound: np.ndarray, how: LogMel) -> np.ndarray:
    """Log-mel energies `[N, 1, mels, frames]` float32 in dB of N recordings `[N, samples]`, at least `SILENT_DB`."""
    spectrum = torch.stft(
        torch.from_numpy(sound),
        how.fft,
        hop_length=how.hop,
        win_length=how.window,
        window=torch.hann_window(how.window, dtype=torch.float64),
        center=True,
        pad_mode="constant",
        return_complex=True,
    )
    energy = filters(how) @ spectrum.abs().square()
    return (10 * torch.log10(energy.clamp(min=10 ** (SILENT_DB / 10)))).float()[:, None].numpy()


def quantise(energies: np.ndarray, how: LogMel) -> np.ndarray:
    """Bytes of energies in dB: `peak_db - range_db` becomes 0, `peak_db` 255."""
    pictures = np.empty(energies.shape, dtype=np.uint8)
    for index, energy in enumerate(energies):  # one by one: a float copy of all would take four times their memory
        pictures[index] = np.rint((energy - how.peak_db).clip(-how.range_db, 0) * (255 / how.range_db) + 255)
    return pictures
