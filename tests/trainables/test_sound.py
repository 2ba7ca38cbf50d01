"""Specification of `trainables.sound`: what a WAV file holds, and the picture that is made of it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import tones
from tones import wav

from trainables.sound import SILENT_DB, LogMel, decibels, decode_wav, filters, fit, quantise

HOW = LogMel(
    rate=8000,
    samples=4000,
    mels=20,
    window=200,
    fft=256,
    hop=80,
    low_hz=100,
    high_hz=4000,
    same_loudness=False,
    range_db=60,
)


def tone(hz: float, samples: int = 4000) -> np.ndarray:
    return tones.tone(hz, samples, HOW.rate)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_samples_come_back_from_every_width_and_channels_are_averaged(width, channels):
    samples = np.random.default_rng(0).uniform(-1, 1, (500, channels))
    samples[0], samples[1] = -1, 1
    found, rate = decode_wav(wav(samples, 11025, width))
    assert rate == 11025
    assert found.shape == (500,)
    assert found == pytest.approx(samples.mean(axis=1), abs=2.0 ** (2 - 8 * width))


def test_a_file_cut_anywhere_is_refused_and_never_anything_else_raised():
    whole = wav(tone(440, 60), width=3)
    for length in range(len(whole)):
        with pytest.raises(ValueError, match=r"not a WAV file|cut short|no samples"):
            decode_wav(whole[:length])


def test_damaged_bytes_are_decoded_or_refused_but_never_anything_else_raised():
    rng, whole = np.random.default_rng(0), wav(tone(440, 60))
    for _ in range(2000):
        damaged = bytearray(whole)
        for place in rng.integers(0, 60, 3):
            damaged[place] = rng.integers(256)
        try:
            found, rate = decode_wav(bytes(damaged))
        except ValueError:
            continue
        assert rate > 0
        assert len(found) > 0
        assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"ID3 this is an mp3", "not a WAV file"),
        (wav(np.zeros(0)), "no samples"),
        (wav(tone(440))[:-100], r"cut short: 3,950 of 4,000"),
        (wav(tone(440))[:20] + b"\3" + wav(tone(440))[21:], "not a WAV file"),  # numbers with a point
    ],
    ids=["empty", "mp3", "no samples", "cut", "float"],
)
def test_what_is_no_recording_is_refused_with_what_is_wrong(data, said):
    with pytest.raises(ValueError, match=said):
        decode_wav(data)


def test_a_short_recording_is_padded_so_that_the_centre_of_its_energy_is_in_the_middle():
    sound = np.zeros(1001)
    sound[700], sound[702] = 1, -1  # the centre is 701
    fitted = fit(sound, HOW)
    assert fitted.shape == (4000,)
    assert np.flatnonzero(fitted).tolist() in ([1998, 2000], [1999, 2001])
    assert fitted.sum() == sound.sum()


def test_a_long_recording_is_cut_around_the_centre_of_its_energy():
    sound = np.zeros(20_000)
    sound[9000], sound[9002] = 1, -1
    assert np.flatnonzero(fit(sound, HOW)).tolist() in ([1998, 2000], [1999, 2001])


@pytest.mark.parametrize("place", [0, 5, 990])
def test_nothing_of_a_short_recording_is_lost_wherever_its_energy_lies(place):
    sound = np.zeros(1000)
    sound[place], sound[place + 5] = 1, -1
    fitted = fit(np.concatenate([sound, np.zeros(2500)]), HOW)
    assert np.abs(fitted).sum() == 2


@pytest.mark.parametrize("place", [0, 19_990])
def test_nothing_is_padded_to_a_long_recording_wherever_its_energy_lies(place):
    rng = np.random.default_rng(0)
    sound = rng.uniform(-1e-6, 1e-6, 20_000)
    sound[place] = 1
    assert np.count_nonzero(fit(sound, HOW)) == 4000


def test_the_mean_is_taken_off_and_loudness_made_the_same_only_where_it_is_asked_for():
    sound = 0.1 * tone(500) + 0.3
    assert np.abs(fit(sound, HOW)).max() == pytest.approx(0.05, rel=0.01)
    assert np.abs(fit(sound, replace(HOW, same_loudness=True))).max() == 1
    assert not fit(np.zeros(100), replace(HOW, same_loudness=True)).any()


def test_filters_are_triangles_evenly_spaced_in_mel_whose_peaks_are_1():
    fine = filters(LogMel(8000, 4000, 20, 200, 2**16, 80, 100, 4000, False, 60)).numpy()
    hz = np.linspace(0, 4000, 2**15 + 1)
    peaks = hz[fine.argmax(axis=1)]
    assert np.diff(2595 * np.log10(1 + peaks / 700)) == pytest.approx(np.full(19, (2146.06 - 150.49) / 21), rel=1e-3)
    assert fine.max(axis=1) == pytest.approx(np.ones(20), abs=1e-3)
    inside = (hz > peaks[0]) & (hz < peaks[-1])
    assert fine.sum(axis=0)[inside] == pytest.approx(1)  # each place belongs to two neighbours
    assert fine.min() == 0


def test_a_tone_lights_the_filter_of_its_frequency_in_every_frame():
    corners = 700 * (10 ** (np.linspace(150.49, 2146.06, 22) / 2595) - 1)
    for number in (3, 10, 17):
        energy = decibels(tone(corners[number + 1])[None], HOW)[0, 0]
        assert energy.shape == (20, HOW.frames) == (20, 51)
        assert (energy[:, 3:-3].argmax(axis=0) == number).all()


def test_energy_of_a_tone_is_the_one_computed_by_hand():
    """A sine of amplitude a at a bin's frequency has power (a/2 · sum of the window)² in that bin."""
    hz = 32 * 8000 / 256
    exact = LogMel(8000, 4000, 1, 256, 256, 128, 0, 4000, False, 60)
    weights = filters(exact)[0].numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    power = (0.25 * window.sum()) ** 2 * weights[32] + (0.125 * window.sum()) ** 2 * (weights[31] + weights[33])
    energy = decibels(tone(hz)[None], exact)[0, 0, 0, 10]
    assert energy == pytest.approx(10 * math.log10(power), abs=1e-4)


def test_silence_is_as_dark_as_can_be():
    assert (decibels(np.zeros((2, 4000)), HOW) == SILENT_DB).all()


def test_quantised_are_even_steps_of_the_range_below_the_peak_clipped_at_both_ends():
    found = quantise(np.array([[10.0, 9.9, -20, -49.9, -50, -90, 12]], np.float32), replace(HOW, peak_db=10.0))
    assert found.tolist() == [[255, 255, 128, 0, 0, 0, 255]]
    assert found.dtype == np.uint8
