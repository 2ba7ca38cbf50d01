"""Specification of the speech task: pictures of recordings, speakers that are kept apart, and what is refused."""

import logging
import math
import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tones import CLASSES, SPEAKERS, folder, parquet, spoken, tone, wav

from search_spaces import KdnasError, SpeechSpace, sample
from search_spaces.resnet import build_resnet, resnet_architecture
from trainables import bank as banks
from trainables.augment import Augmentation, check_fits
from trainables.loop import Normalise, evaluate, start, train
from trainables.losses import LOSSES
from trainables.recipe import Recipe, Term
from trainables.sound import decode_wav
from trainables.tasks import SpeechTask

SHARED = Path(__file__).parents[3] / "../shared/data/spoken_digits/recordings.parquet"
NOTHING = Augmentation()
SMALL = {"seconds": 0.3, "mels": 12, "hop_ms": 10.0}


def task(path: str, **options: object) -> SpeechTask:
    return SpeechTask(path, **{**SMALL, **options})


def refusal(made: SpeechTask, field: str, seed: int = 0) -> str:
    with pytest.raises(KdnasError) as caught:
        made.load(seed)
    assert caught.value.field == field
    assert caught.value.remedy
    return str(caught.value)


def speakers(made: SpeechTask, rows: list[tuple], seed: int = 0) -> list[set[str]]:
    """Who speaks in train, validation and test split, recognised by the pictures."""
    data, how = made.load(seed), made.preprocessing(seed)
    known = {how.picture(decode_wav(sound)[0]).tobytes(): who for sound, _, who in rows}
    return [{known[picture.tobytes()] for picture in part.images} for part in (data.train, data.validation, data.test)]


@pytest.fixture
def rows() -> list[tuple]:
    return spoken()


@pytest.fixture
def path(tmp_path, rows) -> str:
    return parquet(tmp_path / "a.parquet", rows)


def test_recordings_become_pictures_of_bytes_with_their_labels(path, rows):
    made = task(path)
    data, how = made.load(0), made.preprocessing(0)
    assert data.shape == (1, 12, 31) == (1, how.mels, how.frames)
    assert data.train.images.dtype == np.uint8
    assert data.classes == CLASSES
    assert sum(map(len, (data.train, data.validation, data.test))) == len(rows)
    known = {how.picture(decode_wav(sound)[0]).tobytes(): word for sound, word, _ in rows}
    for part in (data.train, data.validation, data.test):
        assert [known[image.tobytes()] for image in part.images] == [data.classes[label] for label in part.labels]


def test_the_loudest_energy_of_the_training_recordings_is_255(path):
    for same in (True, False):
        made = task(path, same_loudness=same, test_speakers=("eva",))  # she is the loudest
        data = made.load(0)
        assert data.train.images.max() == 255
        assert data.train.images.min() == 0


def test_loudness_is_seen_only_where_it_is_kept(tmp_path):
    soft = [(wav(0.05 * tone(500)), "go", "soft"), (wav(0.05 * tone(900)), "stop", "soft")]
    made = task(parquet(tmp_path / "a.parquet", [*spoken(), *soft]), test_speakers=("soft",))
    assert made.load(0).test.images.max() > 240
    assert replace(made, same_loudness=False).load(0).test.images.max() < 200


def test_data_repeat_with_the_seed_and_differ_without(path):
    assert task(path).load(1).digest() == task(path).load(1).digest() != task(path).load(2).digest()


@pytest.mark.parametrize("seed", range(6))
def test_speakers_of_one_split_are_in_no_other_when_they_are_drawn(path, rows, seed):
    made = task(path)
    train, validation, test = speakers(made, rows, seed)
    assert (len(train), len(validation), len(test)) == (3, 1, 1)
    assert train | validation | test == set(SPEAKERS)


def test_every_speaker_is_drawn_for_the_test_split_by_some_seed(path, rows):
    made = task(path)
    assert set().union(*(speakers(made, rows, seed)[2] for seed in range(20))) == set(SPEAKERS)


def test_named_speakers_are_the_ones_in_their_splits(path, rows):
    made = task(path, test_speakers=("ben", "eva"), validation_speakers=("ann",))
    assert speakers(made, rows) == [{"cem", "dee"}, {"ann"}, {"ben", "eva"}]
    made = task(path, validation_speakers=("ann",))
    train, validation, test = speakers(made, rows)
    assert validation == {"ann"}
    assert (len(train), len(test)) == (3, 1)


def test_shares_are_of_the_speakers(path, rows):
    made = task(path, test=0.4, validation=0.4)
    assert [len(part) for part in speakers(made, rows)] == [1, 2, 2]
    made = task(path, test=0.7, validation=0.2)
    assert [len(part) for part in speakers(made, rows)] == [1, 1, 3]


def test_test_speakers_stay_when_the_validation_share_changes(path, rows):
    few, many = (speakers(made, rows, 3)[2] for made in (task(path), task(path, validation=0.4)))
    assert few == many


def test_splits_are_stratified_when_speakers_are_not_known(tmp_path, rows):
    for made in (
        task(parquet(tmp_path / "b.parquet", rows, speaker=None)),
        task(parquet(tmp_path / "c.parquet", rows), speaker_column=None),
        task(folder(tmp_path / "d", rows)),
    ):
        data = made.load(0)
        assert [len(part) for part in (data.train, data.validation, data.test)] == [28, 4, 8]
        assert np.bincount(data.train.labels).tolist() == [14, 14]


def test_a_folder_and_a_parquet_file_of_the_same_recordings_are_the_same_data(tmp_path, rows):
    named = {"test_speakers": ("ann",), "validation_speakers": ("ben",)}
    first = task(parquet(tmp_path / "b.parquet", rows), **named).load(0)
    second = task(folder(tmp_path / "c", rows), speaker_pattern="^(.+)_nohash_", **named).load(0)
    for one, other in zip((first.train, first.test), (second.train, second.test), strict=True):
        assert sorted(image.tobytes() for image in one.images) == sorted(image.tobytes() for image in other.images)


def test_classes_are_learned_from_some_speakers_and_recognised_in_another(path):
    data = task(path).load(0)
    flat = [part.images.reshape(len(part), -1) / 255 for part in (data.train, data.test)]
    model = LogisticRegression(max_iter=300).fit(flat[0], data.train.labels)
    assert model.score(flat[1], data.test.labels) == 1


def learned_from_pictures(made: SpeechTask, family: str, terms: tuple[Term, ...], epochs: int) -> tuple:
    """Curve and test accuracy of a student of this family, taught by a small network that sees pictures."""
    data = made.load(0)
    normalise = Normalise(data.mean, data.std)
    torch.manual_seed(0)
    teacher = build_resnet(resnet_architecture(4, (4, 6, 8), (1, 1, 1)), data.shape, 2).eval()
    options = {"augmentation": made.augmentation, "views": 2, "seed": 0, "taps": ["stage1", "stage2"]}
    bank = banks.build(data.train, [teacher], normalise, **options)
    space = SpeechSpace(families=(family,), strides=(1,))
    student = space.build(sample(space, random.Random(0)), data.shape, 2)
    recipe = Recipe(terms=terms, batch_size=8, alpha=0.1, learning_rate=0.05)
    training = start(student, recipe, bank, seed=0, total_epochs=epochs)
    curve = train(training, bank, data.validation, made, normalise, epochs)
    return curve, evaluate(student, data.test, made, normalise)[1]


@pytest.mark.parametrize("family", ["ds_cnn", "tc_resnet"])
def test_students_of_either_family_understand_a_speaker_they_never_heard(path, family):
    made = task(path, augmentation=Augmentation(time_shift=2, frequency_mask=2))
    _, accuracy = learned_from_pictures(made, family, (Term("kd"), Term("hint", tap="stage2")), 20)
    assert accuracy == 1


@pytest.mark.parametrize("name", [name for name, x in LOSSES.items() if (x.feature or x.several) and not x.at])
def test_every_loss_on_features_compares_maps_along_time_with_those_of_pictures(path, name):
    terms = (Term(name, tap="stage2" if LOSSES[name].feature else None),)
    curve, _ = learned_from_pictures(task(path, augmentation=NOTHING), "tc_resnet", terms, 1)
    assert math.isfinite(curve[-1]["train_loss"])


def test_preprocessing_says_how_any_recording_becomes_what_the_network_reads(path, rows):
    made = task(path, low_hz=50.0, high_hz=1500.0, range_db=50.0)
    how = made.preprocessing(0)
    assert (how.rate, how.samples, how.mels, how.frames) == (4000, 1200, 12, 31)
    assert (how.window, how.fft, how.hop) == (128, 128, 40)
    assert (how.low_hz, how.high_hz, how.range_db) == (50, 1500, 50)
    assert how.picture(np.zeros(9)).tolist() == np.zeros((1, 12, 31)).tolist()


def test_the_default_augmentation_fits_and_never_mirrors(path):
    made = SpeechTask(path)
    assert not made.augmentation.flip
    assert made.augmentation.shift == made.augmentation.crop == 0
    check_fits(made.augmentation, 40, 63)


@pytest.mark.parametrize(("mels", "count"), [(60, 600), (16, 700)])
def test_pictures_of_more_records_than_a_piece_are_in_order(tmp_path, mels, count):
    rows = [(wav(tone(300 if number % 2 else 900)), number % 2, None) for number in range(count)]
    path = parquet(tmp_path / "b.parquet", rows, speaker=None)
    data = task(path, mels=mels, window_ms=100.0).load(0)
    for part in (data.train, data.validation, data.test):
        low = part.images[:, 0, : mels // 2].sum(axis=(1, 2), dtype=np.int64)
        high = part.images[:, 0, mels // 2 :].sum(axis=(1, 2), dtype=np.int64)
        assert ((low > high) == part.labels.astype(bool)).all()


def test_sample_rates_that_differ_are_refused_with_both_and_the_record(tmp_path, rows):
    rows[7] = (wav(tone(300, rate=8000), rate=8000), *rows[7][1:])
    text = refusal(task(parquet(tmp_path / "b.parquet", rows), most_bad=0.5), "task.path")
    assert "record 0 (0.wav) has 4000 a second, record 7 (7.wav) has 8000" in text
    text = refusal(task(folder(tmp_path / "c", rows)), "task.path")
    assert "ann_nohash_7.wav has 8000" in text


BAD = {
    "empty": b"",
    "no samples": wav(np.zeros(0)),
    "cut": wav(tone(300))[:-7],
    "mp3": b"ID3 and so on",
    "missing": {"bytes": None, "path": "gone.wav"},
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_recording_is_refused_with_its_record_and_what_would_let_it_pass(tmp_path, rows, bad):
    rows[13] = (bad, *rows[13][1:])
    text = refusal(task(parquet(tmp_path / "b.parquet", rows)), "task.path")
    assert "1 of 40 recordings cannot be used" in text
    assert "the first is record 13 (" in text
    assert "task.most_bad=0.025" in text
    task(parquet(tmp_path / "b.parquet", rows), most_bad=0.025).load(0)


def test_few_bad_recordings_are_skipped_with_a_warning_that_counts_them_and_names_the_first(tmp_path, rows, caplog):
    good = task(parquet(tmp_path / "a.parquet", rows)).load(0)
    rows = [(b"", "go", "ann"), *rows[:9], (wav(tone(300))[:99], "stop", "dee"), *rows[9:]]
    with caplog.at_level(logging.WARNING):
        data = task(parquet(tmp_path / "b.parquet", rows), most_bad=0.05).load(0)
    assert [record.getMessage().partition("; ")[2] for record in caplog.records] == [
        "the first is record 0 (0.wav): not a WAV file of PCM samples (it is empty)"
    ]
    assert caplog.records[0].getMessage().startswith("2 of 42 recordings")
    assert data.digest() == good.digest()


def test_nothing_is_said_when_all_recordings_are_good(path, caplog):
    task(path).load(0)
    assert caplog.records == []


def test_nothing_but_bad_recordings_is_refused(tmp_path, rows):
    rows = [(b"", word, who) for _, word, who in rows]
    assert "40 of 40" in refusal(task(parquet(tmp_path / "b.parquet", rows), most_bad=0.5), "task.path")


def test_silence_alone_is_refused(tmp_path, rows):
    rows = [(wav(np.zeros(900)), word, who) for _, word, who in rows]
    assert "silent" in refusal(task(parquet(tmp_path / "b.parquet", rows)), "task.path")


def test_a_single_class_is_refused(tmp_path):
    path = parquet(tmp_path / "b.parquet", spoken(classes=("go",)))
    assert "one class ('go')" in refusal(task(path), "task.path")


@pytest.mark.parametrize("option", ["test_speakers", "validation_speakers"])
def test_an_unknown_speaker_is_refused_with_the_known_ones(path, option):
    text = refusal(task(path, **{option: ("ann", "bob")}), f"task.{option}")
    assert "'bob'" in text
    assert "known: ann, ben, cem, dee, eva" in text


@pytest.mark.parametrize("option", ["test_speakers", "validation_speakers"])
def test_named_speakers_are_refused_when_the_recordings_name_none(tmp_path, rows, option):
    path = parquet(tmp_path / "b.parquet", rows, speaker=None)
    assert "task.speaker_pattern" in refusal(task(path, **{option: ("ann",)}), f"task.{option}")


def test_a_speaker_in_two_splits_is_refused_when_the_task_is_made():
    with pytest.raises(KdnasError, match=r"task\.validation_speakers = 'ben'"):
        SpeechTask("a", test_speakers=("ann", "ben"), validation_speakers=("ben",))


@pytest.mark.parametrize(
    ("count", "named"),
    [
        (1, {}),
        (2, {}),
        (2, {"test_speakers": ("ann",)}),
        (2, {"test_speakers": ("ann",), "validation_speakers": ("ben",)}),
        (5, {"test_speakers": SPEAKERS}),
        (5, {"validation_speakers": SPEAKERS[:4]}),
    ],
)
def test_too_few_speakers_for_three_splits_are_refused_with_a_way_out(tmp_path, count, named):
    path = parquet(tmp_path / "b.parquet", spoken(speakers=SPEAKERS[:count]))
    text = refusal(task(path, **named), "task.test_speakers")
    assert "too few speakers" in text
    assert "task.speaker_column=null" in text
    task(path, speaker_column=None).load(0)


@pytest.mark.parametrize(
    ("named", "field", "part"),
    [
        ({"test_speakers": ("dee",)}, "task.test_speakers", "test"),
        ({"validation_speakers": ("dee",)}, "task.validation_speakers", "validation"),
        ({"test_speakers": ("ann", "ben"), "validation_speakers": ("cem", "eva")}, "task.path", "train"),
    ],
)
def test_a_class_that_nobody_in_a_split_says_is_refused(tmp_path, rows, named, field, part):
    rows = [row for row in rows if row[1:] != ("stop", "dee")]
    text = refusal(task(parquet(tmp_path / "b.parquet", rows), **named), field)
    assert f"class 'stop' is missing in the {part} split" in text


def test_a_class_whose_only_recordings_are_bad_is_refused(tmp_path, rows):
    path = parquet(tmp_path / "b.parquet", [*rows, (b"", "left", "ann")])
    assert "class 'left'" in refusal(task(path, most_bad=0.1), "task.path")


def test_impossible_shares_are_refused(path):
    refusal(task(path, test=0.6, validation=0.4), "task.validation")
    refusal(task(path, test=0.0), "task.test")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seconds", 0.01),
        ("seconds", 31.0),
        ("seconds", float("nan")),
        ("mels", 7),
        ("mels", 129),
        ("window_ms", 4.0),
        ("window_ms", 201.0),
        ("hop_ms", 0.5),
        ("hop_ms", 33.0),
        ("low_hz", -1.0),
        ("range_db", 10.0),
        ("most_bad", -0.1),
        ("most_bad", 0.6),
    ],
)
def test_numbers_out_of_range_are_refused_when_the_task_is_made(option, value):
    with pytest.raises(KdnasError) as caught:
        SpeechTask("a.parquet", **{option: value})
    assert caught.value.field == f"task.{option}"
    assert caught.value.remedy


def test_windows_longer_than_the_recordings_are_refused():
    with pytest.raises(KdnasError, match=r"task\.window_ms = 150"):
        SpeechTask("a.parquet", seconds=0.1, window_ms=150.0)


def test_more_mels_than_the_windows_tell_apart_are_refused_with_how_many_they_do(path):
    text = refusal(task(path, mels=128), "task.mels")
    possible = int(text.partition(" are possible")[0].split()[-1])
    assert 60 <= possible < 128
    task(path, mels=possible).load(0)


@pytest.mark.parametrize(("named", "field"), [({"high_hz": 3000.0}, "high_hz"), ({"low_hz": 2500.0}, "low_hz")])
def test_frequencies_that_the_recordings_do_not_hold_are_refused_with_the_highest(path, named, field):
    assert "up to 2000 Hz" in refusal(task(path, **named), f"task.{field}")


def test_more_than_the_machine_holds_is_refused(path, monkeypatch):
    monkeypatch.setattr(os, "sysconf", lambda name: 200 if name == "SC_PHYS_PAGES" else 100)
    assert "40 recordings of 12 x 31" in refusal(task(path), "task.seconds")


def test_spoken_digits_are_read_and_look_as_they_are_known_to():
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is absent")
    data = SpeechTask(str(SHARED)).load(0)
    assert data.shape == (1, 40, 63)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1500, 500, 500]
    assert data.classes == tuple("0123456789")
