"""Specification of `trainables.recordings`: what is read from Parquet files and folders, and what is refused."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tones import folder, parquet, spoken

from search_spaces import KdnasError
from trainables.recordings import compiled, open_source
from trainables.tasks import SpeechTask

ROWS = spoken(2)


def refusal(task: SpeechTask, field: str) -> str:
    with pytest.raises(KdnasError) as caught:
        list(open_source(task).records())
    assert caught.value.field == field
    return str(caught.value)


def read(task: SpeechTask) -> list[tuple]:
    """(WAV, class, speaker) as `spoken` gives them; no speaker is None."""
    source = open_source(task)
    words = [source.classes[label] for label in source.labels]
    data = [record.data for record in source.records()]
    return list(zip(data, words, source.speakers or [None] * len(words), strict=True))


def test_a_parquet_file_is_read_in_its_order_with_labels_and_speakers(tmp_path):
    assert read(SpeechTask(parquet(tmp_path / "a.parquet", ROWS))) == ROWS


def test_columns_of_other_names_are_read_when_they_are_configured(tmp_path):
    path = parquet(tmp_path / "a.parquet", ROWS, audio="wav", label="word", speaker="who")
    assert read(SpeechTask(path, "wav", "word", "who")) == ROWS


def test_a_folder_of_parquet_files_is_read_as_one(tmp_path):
    parquet(tmp_path / "part-1.parquet", ROWS[:9])
    parquet(tmp_path / "part-2.parquet", ROWS[9:])
    assert read(SpeechTask(str(tmp_path))) == ROWS


def test_a_folder_gives_a_class_a_subfolder_and_a_pattern_the_speakers(tmp_path):
    path = folder(tmp_path / "set [1]", ROWS)
    (tmp_path / "set [1]/go/notes.txt").write_text("x")
    (tmp_path / "set [1]/go/._a.wav").write_bytes(b"x")
    (tmp_path / "set [1]/cover.wav").write_bytes(b"x")
    folder(tmp_path / "set [1]", [(b"x", "_background_noise_", "ann")])
    (tmp_path / "set [1]/go/deeper").mkdir()
    (tmp_path / "set [1]/go/deeper/ann_nohash_99.WAV").write_bytes(b"deep")
    expected = [*ROWS, (b"deep", "go", "ann")]
    assert sorted(read(SpeechTask(path, speaker_pattern="^(.+)_nohash_"))) == sorted(expected)
    assert {speaker for _, _, speaker in read(SpeechTask(path))} == {None}


def test_speakers_are_unknown_when_the_default_column_is_absent_or_none_is_asked_for(tmp_path):
    without, having = parquet(tmp_path / "a.parquet", ROWS, speaker=None), parquet(tmp_path / "b.parquet", ROWS)
    assert open_source(SpeechTask(without)).speakers == []
    assert open_source(SpeechTask(having, speaker_column=None)).speakers == []


def test_class_names_come_from_the_features_when_the_file_has_them(tmp_path):
    rows = [(data, ("go", "stop").index(word), who) for data, word, who in ROWS]
    table = pq.read_table(parquet(tmp_path / "a.parquet", rows))
    features = {"info": {"features": {"label": {"names": ["leave", "halt"], "_type": "ClassLabel"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "b.parquet")
    assert open_source(SpeechTask(f"{tmp_path}/a.parquet")).classes == ["0", "1"]
    assert open_source(SpeechTask(f"{tmp_path}/b.parquet")).classes == ["leave", "halt"]
    table = table.set_column(1, "label", pa.array([2, *[0] * 19]))
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), tmp_path / "c.parquet")
    assert "record 0 has the label 2" in refusal(SpeechTask(f"{tmp_path}/c.parquet"), "task.label_column")


@pytest.mark.parametrize("stored", ["binary", "path"])
def test_recordings_are_read_from_a_binary_column_and_from_files_that_paths_name(tmp_path, stored):
    files = folder(tmp_path / "files", ROWS)
    table = pq.read_table(parquet(tmp_path / "a.parquet", ROWS))
    audio = [data for data, _, _ in ROWS]
    if stored == "path":
        names = [f"{files}/{word}/{who}_nohash_{number}.wav" for number, (_, word, who) in enumerate(ROWS)]
        audio = [{"bytes": None, "path": name} for name in names]
        audio = pa.array(audio, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    pq.write_table(table.set_column(0, "audio", pa.array(audio)), tmp_path / "b.parquet")
    assert read(SpeechTask(f"{tmp_path}/b.parquet")) == ROWS


def test_a_recording_whose_path_is_no_file_here_has_no_data(tmp_path):
    rows = [({"bytes": None, "path": "https://example.org/a.wav"}, "go", "ann"), *ROWS]
    first = next(open_source(SpeechTask(parquet(tmp_path / "a.parquet", rows))).records())
    assert first == ("record 0 (https://example.org/a.wav)", None)


@pytest.mark.parametrize("address", ["missing.parquet", "https://example.org/a.parquet", "a" * 5000])
def test_a_path_that_is_no_file_here_is_refused(address):
    assert "does not exist" in refusal(SpeechTask(address), "task.path")


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "holes"])
def test_a_damaged_parquet_file_is_refused(tmp_path, damage):
    path = Path(parquet(tmp_path / "a.parquet", ROWS))
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"audio,label\n1,2\n",
            "cut": whole[: len(whole) // 2],
            "holes": whole[:4] + bytes(len(whole) * 3 // 4) + whole[4 + len(whole) * 3 // 4 :],
        }[damage]
    )
    text = refusal(SpeechTask(str(path)), "task.path")
    assert "not a readable Parquet file" in text or "cannot be read" in text


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    table = pq.read_table(parquet(tmp_path / "a.parquet", ROWS))
    pq.write_table(table[:0], tmp_path / "a.parquet")
    assert "no recordings" in refusal(SpeechTask(f"{tmp_path}/a.parquet"), "task.path")


def test_a_folder_without_recordings_is_refused(tmp_path):
    assert "subfolder a class" in refusal(SpeechTask(str(tmp_path)), "task.path")


def test_a_folder_of_several_splits_is_refused(tmp_path):
    for part in ("train", "test"):
        parquet(tmp_path / f"{part}-00000-of-00001.parquet", ROWS)
        folder(tmp_path / "files" / part, ROWS)
    assert "several splits (test, train)" in refusal(SpeechTask(str(tmp_path)), "task.path")
    assert "several splits (test, train)" in refusal(SpeechTask(f"{tmp_path}/files"), "task.path")


@pytest.mark.parametrize("option", ["audio_column", "label_column", "speaker_column"])
def test_a_missing_column_is_refused_with_the_columns_there_are(tmp_path, option):
    task = SpeechTask(parquet(tmp_path / "a.parquet", ROWS), **{option: "target"})
    assert "it has: audio, label, speaker" in refusal(task, f"task.{option}")


def test_a_column_that_holds_no_recordings_is_refused_with_its_type(tmp_path):
    path = parquet(tmp_path / "a.parquet", ROWS)
    assert "holds string" in refusal(SpeechTask(path, audio_column="label"), "task.audio_column")


@pytest.mark.parametrize(
    ("label", "said"), [(None, "record 5 has no label"), (0.5, "type float"), ([1], "type list"), (b"x", "type bytes")]
)
def test_a_label_that_is_none_is_refused_with_its_record(tmp_path, label, said):
    ordinary = 1 if label is None else label
    rows = [(data, label if number == 5 else ordinary, who) for number, (data, _, who) in enumerate(ROWS)]
    assert said in refusal(SpeechTask(parquet(tmp_path / "a.parquet", rows)), "task.label_column")


@pytest.mark.parametrize("name", [None, ""])
def test_a_recording_without_speaker_among_others_is_refused_with_its_record(tmp_path, name):
    rows = [*ROWS[:3], (*ROWS[3][:2], name), *ROWS[4:]]
    text = refusal(SpeechTask(parquet(tmp_path / "a.parquet", rows)), "task.speaker_column")
    assert "record 3 has no speaker" in text


def test_a_name_in_which_the_pattern_finds_no_speaker_is_refused_with_the_file(tmp_path):
    path = folder(tmp_path / "a", ROWS)
    (tmp_path / "a/go/noise.wav").write_bytes(b"x")
    assert "'go/noise.wav'" in refusal(SpeechTask(path, speaker_pattern="^(.+)_nohash_"), "task.speaker_pattern")


def test_a_pattern_for_a_parquet_file_is_refused(tmp_path):
    path = parquet(tmp_path / "a.parquet", ROWS)
    assert "task.speaker_column" in refusal(SpeechTask(path, speaker_pattern="^(.+)_"), "task.speaker_pattern")


@pytest.mark.parametrize(("pattern", "said"), [("(", "regular expression"), (".+", "0 groups"), ("(a)(b)", "2 groups")])
def test_a_pattern_that_names_no_speaker_is_refused_when_the_task_is_made(pattern, said):
    with pytest.raises(KdnasError, match=said):
        compiled(pattern)
    with pytest.raises(KdnasError, match=r"task\.speaker_pattern"):
        SpeechTask("a", speaker_pattern=pattern)
