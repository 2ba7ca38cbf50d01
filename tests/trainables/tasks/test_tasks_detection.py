"""Are images with boxes read, fitted, checked and split as the task says?"""

import io
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from shapes import CLASSES, coco, parquet, pictures

from search_spaces import KdnasError
from trainables import bank as banks
from trainables.augment import Augmentation
from trainables.tasks import DetectionTask
from trainables.tasks.base import keep_labels, known

CELLS = Path(__file__).parents[4] / "shared" / "data" / "blood_cells"


@pytest.fixture(scope="module")
def rows():
    return pictures(24)


@pytest.fixture
def file(tmp_path, rows):
    return parquet(tmp_path / "shapes.parquet", rows)


def task(path, **options) -> DetectionTask:
    return DetectionTask(Path(path), **{"size": (64, 64), "validation": 0.2, **options})


def boxes_of(labels: np.ndarray) -> list[list[float]]:
    return [row.tolist() for row in labels if row[0] >= 0]


def test_load_gives_images_boxes_and_splits(file):
    data = task(file, classes=CLASSES).load(0)
    assert data.classes == CLASSES
    assert data.shape == (3, 64, 64)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [14, 5, 5]
    assert data.train.labels.shape[1:] == (2, 5)
    assert known(data.train.labels).all()
    assert task(file).load(0).digest() != task(file).load(1).digest()


def test_numbers_are_the_names_where_none_are_given(file):
    assert task(file).load(0).classes == ("0", "1")


def test_images_keep_their_proportions_and_boxes_follow(tmp_path):
    wide = pictures(12, height=64, width=128)
    data = task(parquet(tmp_path / "wide.parquet", wide)).load(0)
    for part in (data.train, data.validation, data.test):
        assert part.images[:, :, 32:].max() == 0
        for image, labels in zip(part.images, part.labels, strict=True):
            for _, x0, y0, x1, y1 in boxes_of(labels):
                inside = image[:, int(y0 + y1) // 2, int(x0 + x1) // 2]
                assert inside.max() > 200
                assert y1 <= 32


def test_coco_file_gives_what_parquet_gives_and_leaves_out_an_empty_category(tmp_path, rows, file, caplog):
    with caplog.at_level(logging.WARNING):
        found = task(coco(tmp_path / "coco", rows)).load(0)
    assert found.classes == CLASSES
    assert "no box is of shapes; left out" in caplog.text
    other = task(file, classes=CLASSES).load(0)
    np.testing.assert_array_equal(found.train.images, other.train.images)
    np.testing.assert_array_equal(found.train.labels, other.train.labels)


def test_folder_with_one_json_file_and_images_elsewhere(tmp_path, rows):
    path = Path(coco(tmp_path / "images", rows))
    (tmp_path / "annotations").mkdir()
    path.rename(tmp_path / "annotations" / "train.json")
    data = task(tmp_path / "annotations", images=tmp_path / "images").load(0)
    assert data.classes == CLASSES


def test_classes_of_a_coco_file_can_be_chosen(tmp_path, rows, caplog):
    data = task(coco(tmp_path / "coco", rows), classes=("square",)).load(0)
    assert data.classes == ("square",)
    assert set(data.train.labels[..., 0][data.train.labels[..., 0] == data.train.labels[..., 0]]) == {0}
    assert "boxes of other classes are left out (disc)" in caplog.text


def test_test_split_may_lie_apart(tmp_path, rows, file):
    other = parquet(tmp_path / "other.parquet", pictures(6, seed=9))
    data = task(file, test_path=Path(other)).load(0)
    assert len(data.test) == 6
    assert len(data.train) + len(data.validation) == 24


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ([5, 5, 5, 9], "has no area and is left out"),
        ([70, 5, 90, 9], "lies outside the image and is left out"),
        ([5, 5, 9, 80], "reaches beyond the image and is cut"),
        ([5, 5, 9], "is no box of four numbers and is left out"),
        ([5, 5, float("nan"), 9], "is no box of four numbers and is left out"),
    ],
)
def test_bad_box_is_named_and_skipped_up_to_a_share_and_refused_past_it(tmp_path, rows, box, said, caplog):
    stored, boxes, labels = rows[3]
    changed = [*rows[:3], (stored, [*boxes, box], [*labels, 0]), *rows[4:]]
    path = parquet(tmp_path / "bad.parquet", changed)
    data = task(path, most_bad=0.1).load(0)
    assert (
        f"1 of 49 boxes cannot be used as they are: record 3 (3.png): box 2 {[*map(float, box)]} {said}" in caplog.text
    )
    total = sum(len(boxes_of(row)) for part in (data.train, data.validation, data.test) for row in part.labels)
    assert total == (49 if "cut" in said else 48)
    with pytest.raises(KdnasError, match="record 3") as caught:
        task(path, most_bad=0.01).load(0)
    assert caught.value.field == "task.path"
    assert "task.most_bad=0.021" in caught.value.remedy


def test_box_that_reaches_beyond_by_rounding_is_cut_without_a_word(tmp_path, rows, caplog):
    stored, boxes, labels = rows[0]
    path = parquet(tmp_path / "edge.parquet", [(stored, [*boxes, [50, 50, 64.6, 64]], [*labels, 0]), *rows[1:]])
    data = task(path).load(0)
    assert not caplog.text
    assert (
        max(part.labels[..., 3][part.labels[..., 0] >= 0].max() for part in (data.train, data.validation, data.test))
        == 64
    )


def test_damaged_and_missing_images_are_named_and_refused_past_a_share(tmp_path, rows, caplog):
    path = Path(coco(tmp_path / "coco", rows))
    (path.parent / "2.png").unlink()
    (path.parent / "5.png").write_bytes(b"no image")
    with pytest.raises(KdnasError, match=r"2 of 24 images cannot be used as they are: 2.png \(no such file"):
        task(path).load(0)
    data = task(path, most_bad=0.1).load(0)
    assert sum(map(len, (data.train, data.validation, data.test))) == 22
    assert "5.png" in caplog.text


def test_image_of_another_size_than_annotated_is_refused(tmp_path, rows):
    path = Path(coco(tmp_path / "coco", rows))
    Image.new("RGB", (32, 32)).save(path.parent / "0.png")
    with pytest.raises(KdnasError, match="it has 32 x 32 pixels, its annotation says"):
        task(path).load(0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"annotations": [{"id": 0, "image_id": 99, "category_id": 1, "bbox": [0, 0, 4, 4]}]}, "not there"),
        ({"images": "none"}, "is not a COCO annotation file"),
    ],
)
def test_json_that_is_no_coco_file_is_refused(tmp_path, rows, change, match):
    with pytest.raises(KdnasError, match=match):
        task(coco(tmp_path / "coco", rows, **change)).load(0)


def test_crowds_are_left_out(tmp_path, rows):
    path = Path(coco(tmp_path / "coco", rows))
    data = json.loads(path.read_text())
    data["annotations"].append(data["annotations"][0] | {"id": 999, "iscrowd": 1, "bbox": [0, 0, 64, 64]})
    path.write_text(json.dumps(data))
    found = task(path).load(0)
    assert sum(len(boxes_of(row)) for part in (found.train, found.validation, found.test) for row in part.labels) == 48


@pytest.mark.parametrize(
    ("change", "options", "field"),
    [
        (lambda rows: [(s, b, [0, 0]) for s, b, _ in rows], {"classes": CLASSES}, "task.classes"),
        (lambda rows: rows, {"classes": ("disc",)}, "task.classes"),
        (lambda rows: [(s, [], []) for s, _, _ in rows], {}, "task.path"),
        (lambda rows: [(s, b, [-1, 0]) for s, b, _ in rows], {}, "task.path"),
    ],
)
def test_classes_that_cannot_be_are_refused(tmp_path, rows, change, options, field):
    path = parquet(tmp_path / "odd.parquet", change(rows))
    with pytest.raises(KdnasError) as caught:
        task(path, **options).load(0)
    assert caught.value.field == field


def test_class_that_a_split_lacks_is_named(tmp_path, rows):
    only = [(s, b[:1], k[:1]) if number else (s, b, k) for number, (s, b, k) in enumerate(rows)]
    with pytest.raises(KdnasError, match=r"class 'square' has no box in the .* images of the"):
        task(parquet(tmp_path / "rare.parquet", only), classes=CLASSES).load(0)


def test_test_split_with_unknown_classes_is_refused(tmp_path, rows, file):
    other = parquet(tmp_path / "other.parquet", [(s, b, [0, 2]) for s, b, _ in rows])
    with pytest.raises(KdnasError, match="classes that the training data lacks") as caught:
        task(file, test_path=Path(other)).load(0)
    assert caught.value.field == "task.test_path"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"size": (60, 64)}, "task.size"),
        ({"most_bad": 0.9}, "task.most_bad"),
        ({"classes": ("a", "a")}, "task.classes"),
        ({"augmentation": Augmentation(crop=2)}, "task.augmentation.crop"),
    ],
)
def test_impossible_option_is_refused(options, field):
    with pytest.raises(KdnasError) as caught:
        task("x.parquet", **options)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("column", "field"), [("image", "image_column"), ("boxes", "box_column"), ("labels", "label_column")]
)
def test_missing_column_is_named_with_those_that_are_there(tmp_path, rows, column, field):
    with pytest.raises(KdnasError) as caught:
        task(parquet(tmp_path / "x.parquet", rows, **{column: "other"})).load(0)
    assert caught.value.field == f"task.{field}"
    assert "other" in caught.value.remedy


def test_missing_path_and_empty_folder_are_refused(tmp_path):
    for path, match in ((tmp_path / "nowhere", "does not exist"), (tmp_path, "holds neither")):
        with pytest.raises(KdnasError, match=match):
            task(path).load(0)


def test_missing_evaluation_package_is_refused_with_the_extra(file, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.coco", None)
    with pytest.raises(KdnasError, match="pycocotools") as caught:
        task(file).load(0)
    assert "kdnas_ray[detection]" in caught.value.remedy


def bounds(image: torch.Tensor, channel: int) -> list[int]:
    """Box around the pixels of a colour."""
    ys, xs = torch.nonzero(image[channel] > 150, as_tuple=True)
    return [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]


def test_boxes_of_a_view_lie_around_the_objects_of_its_images(file):
    data = task(file, classes=CLASSES).load(0)
    augmentation = Augmentation(flip=True, shift=3)
    bank = banks.without_teacher(data.train, augmentation=augmentation, views=4, seed=0)
    moved = 0
    for view in range(4):
        batch = bank.batch(np.arange(len(bank)), view, bank.transforms(view))
        for image, labels, before in zip(batch.images, batch.labels, data.train.labels, strict=True):
            for (kind, *box), old in zip(labels.tolist(), before.tolist(), strict=True):
                assert bounds(image, 0 if kind == 0 else 2) == pytest.approx(box, abs=1)
                moved += box != old[1:]
    assert moved > 20
    assert (bank.batch(np.arange(3), 0, bank.transforms(0)).labels.numpy() == data.train.labels[:3]).all()


def test_box_that_a_shift_hides_for_the_most_part_is_no_box_any_more():
    from trainables.augment import Transforms, apply_to_boxes

    labels = torch.tensor([[[0.0, 0, 0, 10, 10], [1, 20, 20, 30, 30]]])
    moved = apply_to_boxes(labels, Transforms(shift=np.array([[0, 9]], dtype=np.int16)), 32, 32)
    assert moved[0, 0].isnan().all()
    assert moved[0, 1].tolist() == [1, 11, 20, 21, 30]


def test_images_whose_labels_are_kept_back_have_no_boxes_and_are_told_from_empty_ones(file):
    data = task(file).load(0)
    part = keep_labels(data.train, 0.5, data.classes, seed=0)
    there = known(part.labels)
    assert there.sum() == 7
    assert np.isnan(part.labels[~there][:, :, 1:]).all()
    empty = np.full((2, 3, 5), np.nan, dtype=np.float32)
    assert known(empty).all()
    assert known(torch.from_numpy(part.labels)).tolist() == there.tolist()


def test_image_without_a_box_is_learned_from(tmp_path, rows):
    empty = io.BytesIO()
    Image.new("RGB", (64, 64)).save(empty, "PNG")
    data = task(parquet(tmp_path / "x.parquet", [*rows, (empty.getvalue(), [], [])])).load(0)
    assert sum(map(len, (data.train, data.validation, data.test))) == 25


@pytest.mark.skipif(not CELLS.exists(), reason="the blood cells are not here")
def test_blood_cells_have_one_box_without_area_in_each_file(caplog):
    found = DetectionTask(
        CELLS / "train.parquet", test_path=CELLS / "test.parquet", classes=("Platelets", "RBC", "WBC"), size=(96, 128)
    ).load(0)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [238, 26, 50]
    assert "1 of 3540 boxes cannot be used as they are: record 55" in caplog.text
    assert "1 of 676 boxes cannot be used as they are: record 23" in caplog.text


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("labels", 1),
        ("labels", "ab"),
        ("boxes", 3),
        ("image", "a.png"),
        ("image", 5),
        ("image", {"bytes": "text", "path": "a.png"}),
    ],
)
def test_a_column_of_another_type_is_refused_by_its_name(tmp_path, rows, column, value):
    columns = {"image": [row[0] for row in rows], "boxes": [row[1] for row in rows], "labels": [row[2] for row in rows]}
    pq.write_table(pa.table({**columns, column: [value] * len(rows)}), tmp_path / "odd.parquet")
    with pytest.raises(KdnasError, match=f"in column '{column}'") as refused:
        task(tmp_path / "odd.parquet").load(0)
    assert refused.value.field == "task.path"


def test_numbers_of_classes_with_gaps_are_read_at_once(tmp_path, rows):
    far = [(stored, boxes, [0, 10**12]) for stored, boxes, _ in rows]
    assert task(parquet(tmp_path / "far.parquet", far)).load(0).classes == ("0", str(10**12))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, "two of its categories have one id"),
        ({"annotations": [{"image_id": 0, "category_id": 77, "bbox": [1, 1, 9, 9]}]}, "category_id 77"),
        ({"annotations": [{"image_id": 99, "category_id": 1, "bbox": [1, 1, 9, 9]}]}, "image_id 99"),
        ({"annotations": [{"image_id": 0, "category_id": 1, "bbox": [10**400, 1, 9, 9]}]}, "OverflowError"),
    ],
)
def test_ids_and_numbers_of_coco_that_cannot_be_are_named(tmp_path, rows, changes, problem):
    with pytest.raises(KdnasError, match=problem):
        task(coco(tmp_path / "odd", rows, **changes)).load(0)
