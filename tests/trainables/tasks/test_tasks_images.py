"""Specification of the images task: what it reads, what it makes of it, what it refuses."""

import io
import socket
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from search_spaces import KdnasError
from trainables.tasks import ImagesTask

SHARED = Path(__file__).parents[3] / "../shared/data"
COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(value: int, size: tuple[int, int] = (6, 6)) -> bytes:
    return stored(Image.new("L", size, value))


def write(path: Path, images: list, labels: list, features: datasets.Features | None = None, **names: str) -> str:
    """A Parquet file as it would come from anywhere; with features, as Hugging Face writes it."""
    table = pa.table(
        {
            names.get("image", "image"): [
                image if image is None or isinstance(image, dict) else {"bytes": image, "path": None}
                for image in images
            ],
            names.get("label", "label"): labels,
        }
    )
    if features is not None:
        table = table.cast(features.arrow_schema)
    pq.write_table(table, path, row_group_size=7)
    return str(path)


def greys(path: Path, labels: list, **options: object) -> str:
    """One grey image a label; its value is its record number, so that it is recognised afterwards."""
    return write(path, [grey(number) for number in range(len(labels))], labels, **options)


def folder(path: Path, each: int = 6) -> str:
    for name, colour in COLOURS.items():
        (path / name).mkdir(parents=True)
        for number in range(each):
            Image.new("RGB", (6, 6), colour).save(path / name / f"{number} [a].png")
    return str(path)


def by_number(data) -> dict[int, str]:
    """Record number to class name, over all three splits."""
    return {
        int(image[0, 0, 0]): data.classes[label]
        for part in (data.train, data.validation, data.test)
        for image, label in zip(part.images, part.labels, strict=True)
    }


def refusal(task: ImagesTask, field: str) -> str:
    with pytest.raises(KdnasError) as caught:
        task.load(0)
    assert caught.value.field == field
    return str(caught.value)


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fails a test that asks the network, even where the library swallows the refusal."""
    asked = []

    def refuse(*address: object) -> None:
        asked.append(address)
        raise OSError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert asked == []


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        ([10, 9, 100] * 10, ("9", "10", "100")),
        (["dog", "cat", "emu"] * 10, ("cat", "dog", "emu")),
        ([True, False] * 15, ("False", "True")),
    ],
)
def test_labels_of_any_plain_type_become_sorted_classes(tmp_path, labels, classes):
    data = ImagesTask(greys(tmp_path / "a.parquet", labels)).load(0)
    assert data.classes == classes
    assert by_number(data) == {number: str(label) for number, label in enumerate(labels)}


def test_class_names_come_from_the_features_when_the_file_has_them(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["zebra", "ant"])})
    data = ImagesTask(greys(tmp_path / "a.parquet", [0, 1] * 10, features=features)).load(0)
    assert data.classes == ("zebra", "ant")
    assert by_number(data)[0] == "zebra"


def test_columns_of_other_names_are_read_when_they_are_configured(tmp_path):
    path = greys(tmp_path / "a.parquet", [0, 1] * 10, image="scan", label="digit")
    assert len(by_number(ImagesTask(path, image_column="scan", label_column="digit").load(0))) == 20


def test_a_folder_of_parquet_files_is_read_as_one(tmp_path):
    write(tmp_path / "part-1.parquet", [grey(number) for number in range(10)], [0, 1] * 5)
    write(tmp_path / "part-2.parquet", [grey(number) for number in range(10, 20)], [0, 1] * 5)
    data = ImagesTask(str(tmp_path)).load(0)
    assert by_number(data) == {number: str(number % 2) for number in range(20)}


@pytest.mark.parametrize("count", [1000, 1001])
def test_every_record_keeps_its_label_when_the_data_are_read_in_several_pieces(tmp_path, count):
    images = [grey(number % 251) for number in range(count)]
    data = ImagesTask(write(tmp_path / "a.parquet", images, [number % 251 for number in range(count)])).load(0)
    assert sum(map(len, (data.train, data.validation, data.test))) == count
    for part in (data.train, data.validation, data.test):
        assert part.images[:, 0, 0, 0].tolist() == part.labels.tolist()


def test_an_image_folder_gives_a_class_a_subfolder_and_skips_other_files(tmp_path):
    path = folder(tmp_path / "set [1]")
    (tmp_path / "set [1]/red/notes.txt").write_text("x")
    (tmp_path / "set [1]/red/metadata.csv").write_text("file_name,label\n0 [a].png,3\n")
    (tmp_path / "set [1]/red/._0.png").write_bytes(b"x")
    (tmp_path / "set [1]/cover.png").write_bytes(b"x")
    data = ImagesTask(path).load(0)
    assert data.classes == ("blue", "green", "red")
    assert sum(map(len, (data.train, data.validation, data.test))) == 18
    for image, label in zip(data.train.images, data.train.labels, strict=True):
        assert tuple(image[:, 0, 0]) == COLOURS[data.classes[label]]


def test_images_keep_one_channel_when_all_are_grey_and_get_three_when_one_is_not(tmp_path):
    values = [grey(number) for number in range(20)]
    assert ImagesTask(write(tmp_path / "g.parquet", values, [0, 1] * 10)).load(0).shape == (1, 6, 6)
    values[7] = stored(Image.new("RGB", (6, 6), (1, 2, 3)))
    data = ImagesTask(write(tmp_path / "c.parquet", values, [0, 1] * 10)).load(0)
    assert data.shape == (3, 6, 6)
    pixels = np.concatenate([part.images for part in (data.train, data.validation, data.test)])[:, :, 0, 0]
    expected = [(number,) * 3 for number in range(20) if number != 7] + [(1, 2, 3)]
    assert sorted(map(tuple, pixels.tolist())) == sorted(expected)


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("1", (6, 6), 1), (255,)),
        (Image.new("LA", (6, 6), (7, 9)), (7,)),
        (Image.fromarray(np.full((6, 6), 0x8123, dtype=np.uint16)), (0x81,)),
        (Image.new("RGBA", (6, 6), (1, 2, 3, 4)), (1, 2, 3)),
        (Image.new("RGB", (6, 6), (9, 8, 7)).quantize(4), (9, 8, 7)),
    ],
    ids=["1 bit", "grey and alpha", "16 bit", "colour and alpha", "palette"],
)
def test_every_way_to_store_a_pixel_becomes_eight_bits_a_channel(tmp_path, image, pixel):
    data = ImagesTask(write(tmp_path / "a.parquet", [stored(image)] * 12, [0, 1] * 6)).load(0)
    assert tuple(data.train.images[0, :, 0, 0].tolist()) == pixel


def test_a_photograph_is_turned_upright_when_its_camera_says_so(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    image = stored(Image.new("L", (9, 4)), "JPEG", exif=exif)
    assert ImagesTask(write(tmp_path / "a.parquet", [image] * 12, [0, 1] * 6)).load(0).shape == (1, 9, 4)


def test_size_resizes_the_shorter_side_and_cuts_the_central_square(tmp_path):
    wide = np.zeros((8, 24), dtype=np.uint8)
    wide[:, 8:16] = 200
    images = [stored(Image.fromarray(wide)), stored(Image.fromarray(wide.T.copy()), "JPEG", quality=95)] * 10
    data = ImagesTask(write(tmp_path / "a.parquet", images, [0, 1] * 10), size=4).load(0)
    assert data.shape == (1, 4, 4)
    assert np.abs(data.train.images[:, :, :, 1:3].astype(int) - 200).max() < 10


def test_subset_draws_so_many_with_every_class_keeping_its_share(tmp_path):
    path = greys(tmp_path / "a.parquet", [0, 0, 0, 1] * 50)
    chosen = by_number(ImagesTask(path, subset=40).load(0))
    assert sorted(chosen.values()) == ["0"] * 30 + ["1"] * 10
    assert chosen == by_number(ImagesTask(path, subset=40).load(0))
    assert chosen.keys() != by_number(ImagesTask(path, subset=40).load(1)).keys()


def test_subset_decodes_only_what_it_draws(tmp_path):
    """All records that seed 0 leaves out are damaged, and nobody notices."""
    labels = [0, 1] * 30
    kept = by_number(ImagesTask(greys(tmp_path / "a.parquet", labels), subset=20).load(0))
    images = [grey(number) if number in kept else b"damaged" for number in range(60)]
    path = write(tmp_path / "b.parquet", images, labels)
    assert by_number(ImagesTask(path, subset=20).load(0)) == kept
    assert "cannot be decoded" in refusal(ImagesTask(path), "task.path")


def test_the_test_split_comes_whole_from_its_own_file_in_the_order_of_the_training_classes(tmp_path):
    path = greys(tmp_path / "a.parquet", ["cat", "dog"] * 20)
    test_path = greys(tmp_path / "b.parquet", ["dog", "dog", "dog"])
    data = ImagesTask(path, test_path=test_path, subset=20, validation=0.2).load(0)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [16, 4, 3]
    assert [data.classes[label] for label in data.test.labels] == ["dog"] * 3
    assert data.test.images[:, 0, 0, 0].tolist() == [0, 1, 2]


def test_nothing_is_left_on_disk_by_reading(tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    before = set(Path(datasets.config.HF_DATASETS_CACHE).rglob("*"))
    ImagesTask(greys(tmp_path / "a.parquet", [0, 1] * 10)).load(0)
    ImagesTask(folder(tmp_path / "folder")).load(0)
    assert list(scratch.iterdir()) == []
    assert set(Path(datasets.config.HF_DATASETS_CACHE).rglob("*")) == before


@pytest.mark.parametrize("address", ["missing.parquet", "https://example.org/a.parquet", "a" * 5000])
def test_a_path_that_is_no_file_here_is_refused(address):
    assert "does not exist" in refusal(ImagesTask(address), "task.path")


def test_a_missing_test_path_is_refused_under_its_own_field(tmp_path):
    path = greys(tmp_path / "a.parquet", [0, 1] * 10)
    assert "does not exist" in refusal(ImagesTask(path, test_path=str(tmp_path / "b")), "task.test_path")


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "holes"])
def test_a_damaged_parquet_file_is_refused(tmp_path, damage):
    path = Path(greys(tmp_path / "a.parquet", [0, 1] * 40))
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"image,label\n1,2\n",
            "cut": whole[: len(whole) // 2],
            "holes": whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :],
        }[damage]
    )
    text = refusal(ImagesTask(str(path)), "task.path")
    assert "not a readable Parquet file" in text or "cannot be read" in text


def test_a_damaged_file_is_reported_once_by_the_refusal_alone(tmp_path, capfd):
    path = Path(greys(tmp_path / "a.parquet", [0, 1] * 40))
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    refusal(ImagesTask(str(path)), "task.path")
    assert capfd.readouterr() == ("", "")


def test_an_empty_file_among_others_is_passed_over(tmp_path):
    greys(tmp_path / "part-1.parquet", [0, 1] * 10)
    pq.write_table(pq.read_table(tmp_path / "part-1.parquet")[:0], tmp_path / "part-0.parquet")
    assert len(by_number(ImagesTask(str(tmp_path)).load(0))) == 20


def test_a_parquet_file_without_rows_is_refused(tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    path = write(tmp_path / "a.parquet", [], [], features)
    assert "no samples" in refusal(ImagesTask(path), "task.path")


def test_a_folder_without_images_is_refused(tmp_path):
    assert "subfolder a class" in refusal(ImagesTask(str(tmp_path)), "task.path")


def test_a_folder_of_several_splits_is_refused_with_where_to_name_them(tmp_path):
    folder(tmp_path / "images/train")
    folder(tmp_path / "images/test")
    assert "several splits (test, train)" in refusal(ImagesTask(str(tmp_path / "images")), "task.path")
    greys(tmp_path / "train-00000-of-00001.parquet", [0, 1])
    greys(tmp_path / "test-00000-of-00001.parquet", [0, 1])
    assert "task.test_path" in refusal(ImagesTask(str(tmp_path)), "task.path")


@pytest.mark.parametrize("option", ["image_column", "label_column"])
def test_a_missing_column_is_refused_with_the_columns_there_are(tmp_path, option):
    path = greys(tmp_path / "a.parquet", [0, 1] * 10)
    assert "it has: image, label" in refusal(ImagesTask(path, **{option: "target"}), f"task.{option}")


@pytest.mark.parametrize(
    ("label", "said"),
    [(None, "record 5 has no label"), (0.5, "type float"), ([1], "type list"), (b"x", "type bytes")],
)
def test_a_label_that_is_none_is_refused_with_its_record(tmp_path, label, said):
    ordinary = 1 if label is None else label
    path = greys(tmp_path / "a.parquet", [ordinary] * 5 + [label] + [ordinary] * 5)
    assert said in refusal(ImagesTask(path), "task.path")


def test_a_label_outside_the_declared_classes_is_refused_with_its_record(tmp_path):
    path = tmp_path / "a.parquet"
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    greys(path, [0, 1] * 4 + [-1], features=features)
    assert "record 8 has the label -1" in refusal(ImagesTask(str(path)), "task.path")


@pytest.mark.parametrize(
    "image",
    [
        b"no image",
        grey(1)[:40],
        b"",
        None,
        {"bytes": None, "path": "https://example.org/a.png"},
        stored(Image.new("L", (6, 6)), "PCX"),
    ],
    ids=["text", "cut", "empty", "missing", "address", "unlisted format"],
)
def test_an_image_that_cannot_be_decoded_is_refused_with_its_record(tmp_path, image):
    images = [grey(number) for number in range(20)]
    images[13] = image
    text = refusal(ImagesTask(write(tmp_path / "a.parquet", images, [0, 1] * 10)), "task.path")
    assert "record 13" in text


def test_a_column_that_holds_no_images_is_refused(tmp_path):
    path = greys(tmp_path / "a.parquet", [0, 1] * 10)
    assert "'label'" in refusal(ImagesTask(path, image_column="label"), "task.path")


@pytest.mark.parametrize("side", [8_000, 14_000])
def test_an_image_of_impossible_size_is_refused_before_it_is_decoded(tmp_path, side):
    images = [stored(Image.new("1", (side, side)), "PNG", compress_level=1)] + [grey(0)] * 9
    text = refusal(ImagesTask(write(tmp_path / "a.parquet", images, [0, 1] * 5), size=8), "task.path")
    assert "record 0 is too large" in text


def test_images_of_different_size_are_refused_with_both_and_the_option_that_helps(tmp_path):
    images = [grey(0)] * 9 + [grey(0, (7, 5))]
    text = refusal(ImagesTask(write(tmp_path / "a.parquet", images, [0, 1] * 5)), "task.path")
    assert "record 0 has 6 x 6 pixels, record 9 has 5 x 7" in text
    assert "task.size=5" in text


def test_more_than_the_machine_holds_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 10**6 if name == "SC_PHYS_PAGES" else 1)
    path = greys(tmp_path / "a.parquet", [0, 1] * 10)
    assert "20 images of 100 x 100 pixels" in refusal(ImagesTask(path, size=100), "task.size")


def test_a_single_class_is_refused(tmp_path):
    path = greys(tmp_path / "a.parquet", ["cat"] * 10)
    assert "one class ('cat')" in refusal(ImagesTask(path), "task.path")


def test_a_subset_larger_than_the_data_is_refused_with_how_many_there_are(tmp_path):
    path = greys(tmp_path / "a.parquet", [0, 1] * 10)
    assert "at most 20" in refusal(ImagesTask(path, subset=21), "task.subset")
    assert len(by_number(ImagesTask(path, subset=20).load(0))) == 20


def test_a_subset_too_small_for_the_classes_is_refused_with_one_that_works(tmp_path):
    path = greys(tmp_path / "a.parquet", [0] * 90 + [1] * 10)
    assert "at least 30" in refusal(ImagesTask(path, subset=20), "task.subset")
    assert len(by_number(ImagesTask(path, subset=30).load(0))) == 30


def test_a_test_split_with_unknown_classes_is_refused(tmp_path):
    path, test_path = greys(tmp_path / "a.parquet", [0, 1] * 10), greys(tmp_path / "b.parquet", [1, 2, 3])
    assert "training data lacks (2, 3)" in refusal(ImagesTask(path, test_path=test_path), "task.test_path")


@pytest.mark.parametrize("option", ["size", "subset"])
def test_numbers_below_one_are_refused_when_the_task_is_made(option):
    with pytest.raises(KdnasError, match=rf"task\.{option} = 0"):
        ImagesTask("a.parquet", **{option: 0})


@pytest.mark.parametrize(("name", "mean"), [("cifar10", (0.4914, 0.4822, 0.4465)), ("mnist", (0.1307,))])
def test_shared_data_sets_are_read_and_look_as_they_are_known_to(name, mean):
    folder = SHARED / name
    if not folder.exists():
        pytest.skip(f"{folder} is absent")
    task = ImagesTask(f"{folder}/train.parquet", test_path=f"{folder}/test.parquet", subset=2000)
    data = task.load(0)
    assert np.bincount(data.train.labels).sum() == 1800
    assert len(data.classes) == 10
    assert data.mean == pytest.approx(mean, abs=0.02)


TAGS = [["cat"], [], ["cat", "dog"], ["dog"]] * 10


def test_labels_are_read_from_a_list_of_names_a_record(tmp_path):
    data = ImagesTask(greys(tmp_path / "a.parquet", TAGS), targets="labels").load(0)
    assert data.classes == ("cat", "dog")
    for part in (data.train, data.validation, data.test):
        expected = [[float(name in TAGS[int(image[0, 0, 0])]) for name in data.classes] for image in part.images]
        assert part.labels.tolist() == expected


def test_labels_of_a_test_split_that_lies_apart_are_put_in_the_order_of_the_training_labels(tmp_path):
    path = greys(tmp_path / "a.parquet", TAGS)
    test_path = greys(tmp_path / "b.parquet", [["dog"], ["dog"], []])
    data = ImagesTask(path, test_path=test_path, targets="labels", subset=20).load(0)
    assert data.test.labels.tolist() == [[0, 1], [0, 1], [0, 0]]
    assert len(data.train) + len(data.validation) == 20
    stranger = greys(tmp_path / "c.parquet", [["bird"]])
    assert "lacks (bird)" in refusal(ImagesTask(path, test_path=stranger, targets="labels"), "task.test_path")


def test_values_are_read_and_standardised(tmp_path):
    data = ImagesTask(greys(tmp_path / "a.parquet", [10.0 * n for n in range(40)]), targets="values").load(0)
    assert data.classes == ("label",)
    for part in (data.train, data.validation, data.test):
        values = part.labels[:, 0] * data.target_std[0] + data.target_mean[0]
        assert np.allclose(values, 10.0 * part.images[:, 0, 0, 0], atol=1e-3)


def test_labels_of_an_image_folder_and_words_as_values_are_refused(tmp_path):
    assert "no labels or values" in refusal(ImagesTask(folder(tmp_path / "f"), targets="labels"), "task.path")
    path = greys(tmp_path / "a.parquet", ["cat", "dog"] * 20)
    assert "record 0 has something else" in refusal(ImagesTask(path, targets="values"), "task.path")
    assert "record 0 has no list" in refusal(ImagesTask(path, targets="labels"), "task.path")


def darks(path: Path, numbers, **options: object) -> str:
    """Unlabelled images: a folder of grey ones with these values."""
    for number in numbers:
        (path / options.get("inside", "")).mkdir(parents=True, exist_ok=True)
        (path / options.get("inside", "") / f"{number}.png").write_bytes(grey(number))
    return str(path)


@pytest.mark.parametrize("inside", ["", "anything/deeper"])
def test_unlabelled_images_of_a_folder_join_the_training_split_alone(tmp_path, inside):
    labelled = greys(tmp_path / "a.parquet", [0, 1] * 20)
    plain = ImagesTask(labelled).load(0)
    data = ImagesTask(labelled, unlabelled=darks(tmp_path / "more", range(100, 130), inside=inside)).load(0)
    assert data.train.labels.tolist() == [*plain.train.labels.tolist(), *[-1] * 30]
    assert sorted(data.train.images[-30:, 0, 0, 0].tolist()) == list(range(100, 130))
    for name in ("validation", "test"):
        for part in ("images", "labels"):
            assert np.array_equal(getattr(getattr(data, name), part), getattr(getattr(plain, name), part))
    assert data.classes == plain.classes


def test_unlabelled_images_of_a_parquet_file_need_no_label_column(tmp_path):
    path = tmp_path / "more.parquet"
    pq.write_table(pa.table({"image": [{"bytes": grey(200), "path": None}] * 9}), path, row_group_size=4)
    data = ImagesTask(greys(tmp_path / "a.parquet", [0, 1] * 20), unlabelled=path).load(0)
    assert (data.train.labels == -1).sum() == 9


def test_unlabelled_images_that_are_held_out_stay_so(tmp_path, caplog):
    path = greys(tmp_path / "a.parquet", [0, 1] * 20)
    plain = ImagesTask(path).load(0)
    held_out = [int(image[0, 0, 0]) for part in (plain.validation, plain.test) for image in part.images]
    data = ImagesTask(path, unlabelled=darks(tmp_path / "more", range(45))).load(0)
    joined = data.train.images[data.train.labels == -1, 0, 0, 0].tolist()
    assert sorted(joined) == sorted(set(range(45)) - set(held_out))
    assert f"{len(held_out)} of 45 unlabelled images" in caplog.text
    sealed = ImagesTask(path, unlabelled=darks(tmp_path / "sealed", held_out))
    assert "all 12 images are in the validation or the test split" in refusal(sealed, "task.unlabelled")


def test_unlabelled_images_beside_tags_and_values_have_none_of_either(tmp_path):
    more = darks(tmp_path / "more", range(100, 105))
    tagged = ImagesTask(greys(tmp_path / "a.parquet", TAGS), targets="labels", unlabelled=more).load(0)
    assert np.isnan(tagged.train.labels[-5:]).all()
    path = greys(tmp_path / "b.parquet", [10.0 * n for n in range(40)])
    valued = ImagesTask(path, targets="values", unlabelled=more).load(0)
    assert np.isnan(valued.train.labels[-5:]).all()
    assert np.nanmean(valued.train.labels) == pytest.approx(0, abs=1e-5)


def test_unlabelled_images_that_cannot_be_used_are_named(tmp_path):
    path = greys(tmp_path / "a.parquet", [0, 1] * 20)
    assert "does not exist" in refusal(ImagesTask(path, unlabelled=tmp_path / "no"), "task.unlabelled")
    (tmp_path / "empty").mkdir()
    assert "nor images" in refusal(ImagesTask(path, unlabelled=tmp_path / "empty"), "task.unlabelled")
    larger = darks(tmp_path / "larger", [1])
    (Path(larger) / "2.png").write_bytes(grey(2, (9, 9)))
    assert "images differ in size" in refusal(ImagesTask(path, unlabelled=larger), "task.unlabelled")
    (Path(larger) / "2.png").write_bytes(b"no image")
    assert "2.png" in refusal(ImagesTask(path, unlabelled=larger), "task.unlabelled")
    nothing = tmp_path / "nothing.parquet"
    pq.write_table(pa.table({"image": pa.array([], pa.struct({"bytes": pa.binary(), "path": pa.string()}))}), nothing)
    assert "holds no samples" in refusal(ImagesTask(path, unlabelled=nothing), "task.unlabelled")
    other = write(tmp_path / "b.parquet", [grey(1)], [0], image="scan")
    assert "no such column" in refusal(ImagesTask(path, unlabelled=other), "task.image_column")
