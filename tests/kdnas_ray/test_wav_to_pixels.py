"""Specification of `kdnas_ray.wav_to_pixels`: an exported student of recordings is used with NumPy and ONNX Runtime."""

import ast
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from card_program import printed, program
from finished_runs import finish
from tones import RATE, parquet, spoken, tone, wav

from kdnas_ray import export, wav_to_pixels
from kdnas_ray.config import read
from trainables.sound import LogMel, decode_wav

HOW = LogMel(
    rate=RATE, samples=2000, mels=20, window=200, fft=256, hop=100, low_hz=20.0, high_hz=2000.0, same_loudness=True,
    range_db=80.0, peak_db=35.5,
)  # fmt: skip


def noisy(samples: int, seed: int = 0) -> np.ndarray:
    """A tone in noise that ends early."""
    sound = tone(440, samples) + 0.1 * np.random.default_rng(seed).standard_normal(samples)
    sound[samples // 3 :] *= 0.01
    return sound.clip(-1, 1)


@pytest.mark.parametrize("loud", [True, False], ids=["same_loudness", "as_recorded"])
@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "sound",
    [noisy(800), noisy(5001), noisy(2000), np.stack([noisy(900), noisy(900, 1)], axis=1), np.zeros(700)],
    ids=["short", "long", "exact", "stereo", "silent"],
)
def test_pixels_are_those_that_the_networks_were_trained_on(tmp_path, sound, width, loud):
    how = LogMel(**{**asdict(HOW), "same_loudness": loud})
    data = wav(sound, width=width)
    (tmp_path / "a.wav").write_bytes(data)
    found = wav_to_pixels.pixels(tmp_path / "a.wav", json.loads(json.dumps(asdict(how))))
    expected = how.picture(decode_wav(data)[0])
    assert found.dtype == np.uint8
    assert found.shape == (1, *expected.shape) == (1, 1, 20, 21)
    apart = np.abs(found[0].astype(int) - expected)
    assert apart.max() <= 1  # two libraries round a half differently
    assert (apart > 0).mean() < 0.001


def test_recording_of_another_rate_is_refused(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav(tone(440), rate=8000))
    with pytest.raises(ValueError, match="8000 samples a second, the network hears 4000"):
        wav_to_pixels.pixels(tmp_path / "a.wav", asdict(HOW))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("speech")
    settings = {
        "task": {"name": "speech", "path": parquet(folder / "tones.parquet", spoken(6)), "mels": 12, "seconds": 0.4},
        "space": {"name": "speech", "families": ["tc_resnet"], "stem_widths": [8], "widths": [8], "depths": [1]},
        "recipes": "labels",
        "tracking": {"enabled": False},
    }
    finish(folder / "run", read(settings))
    return folder / "run"


@pytest.mark.parametrize("form", ["onnx", "torch-export", "safetensors"])
def test_card_leads_from_a_recording_to_the_answer(finished, form, tmp_path):
    taken = export.export(finished, form, out=tmp_path / form)
    about = json.loads((taken.folder / "about.json").read_text())
    how = about["input"]["preprocessing"]
    assert how["rate"] == RATE
    assert how["mels"] == 12
    card = (taken.folder / "README.md").read_text()
    assert "## From a recording to pixels" in card
    config = read(yaml.safe_load((finished / "config.yaml").read_text()))
    (speaker,) = about["data"]["test_speakers"]
    assert (speaker,) == tuple(config.task.speakers(config.seed)[2])
    assert f"of the speaker {speaker}, heard neither" in card
    code = program(taken.folder)
    data = wav(tone(830, 1300))
    (taken.folder / "hello.wav").write_bytes(data)
    output = printed(taken.folder, code, form)
    from trainables.loop import Normalise
    from trainables.model_files import load_student

    model, meta = load_student(finished / "best")
    picture = torch.from_numpy(LogMel(**how).picture(decode_wav(data)[0]))[None]
    with torch.inference_mode():
        expected = model(Normalise(meta["mean"], meta["std"])(picture)).argmax(dim=1)
    assert ast.literal_eval(output) == [meta["classes"][index] for index in expected]


def test_numbers_are_in_the_onnx_file_too_and_those_of_the_search(finished, tmp_path):
    import onnxruntime

    taken = export.export(finished, out=tmp_path / "student")
    session = onnxruntime.InferenceSession(taken.folder / "student.onnx", providers=["CPUExecutionProvider"])
    about = json.loads(session.get_modelmeta().custom_metadata_map["about"])
    config = read(yaml.safe_load((finished / "config.yaml").read_text()))
    assert about["input"]["preprocessing"] == asdict(config.task.preprocessing(config.seed))


def test_images_need_no_such_file(tmp_path):
    run = tmp_path / "run"
    finish(run, read({"space": {"name": "resnet", "stages": 2, "stem_widths": [4], "widths": [4], "depths": [1]}}))
    taken = export.export(run, "safetensors", out=tmp_path / "student")
    assert not (taken.folder / "wav_to_pixels.py").exists()
    assert json.loads((taken.folder / "about.json").read_text())["input"]["preprocessing"] is None
    assert "recording" not in (taken.folder / "README.md").read_text()
