"""Specification of `kdnas device propose` and `fit`: the round trip, and what is said about bad input."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from kdnas_ray import cli
from kdnas_ray.hardware import measurements
from kdnas_ray.hardware.few_shot import predict
from search_spaces import NASBench201Space, ResNetSpace
from search_spaces.notation import notation

SPACE = NASBench201Space()


@pytest.fixture
def kdnas(monkeypatch, capsys, tmp_path):
    """Runs `kdnas device` with these words in an empty folder; gives exit code, output and error output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(measurements, "MODELLED", 60)

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kdnas", "device", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        return ended.value.code or 0, shown.out, shown.err

    return call


def milliseconds(text: str, conv: float = 9.0) -> float:
    return 2 + conv * text.count("3x3~") + 1.5 * text.count("1x1") + 0.3 * text.count("skip")


def write_table(path: Path, **columns) -> None:
    texts = [SPACE.notation(cell) for cell in measurements.distinct(SPACE, 200, 1)]
    known = {f"latency_ms_{i}": [milliseconds(text, conv) for text in texts] for i, conv in enumerate((3.0, 20.0))}
    pyarrow.parquet.write_table(pyarrow.table({"architecture": texts, **known, **columns}), path)


def fill(source: str, target: str) -> list[str]:
    with open(source, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["latency_ms"] for row in rows} == {""}
    with open(target, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["architecture", "latency_ms"])
        writer.writerows([row["architecture"], milliseconds(row["architecture"])] for row in rows)
    return [row["architecture"] for row in rows]


@pytest.mark.parametrize("tables", [[], ["--tables", "others.parquet"]])
def test_commands_when_used_one_after_the_other_then_give_a_model(kdnas, tables):
    write_table(Path("others.parquet"))
    code, out, err = kdnas("propose", "nasbench201", "space.width=8", "--count", "12", *tables, "--out", "m.csv")
    assert (code, err) == (0, "")
    assert "kdnas device fit m.csv space.width=8 --space nasbench201" in out
    texts = fill("m.csv", "done.csv")
    assert len(set(texts)) == 12
    code, out, err = kdnas(
        "fit", "done.csv", "space.width=8", "--space", "nasbench201", *tables, "--name", "phone", "--out", "p.yaml"
    )
    assert (code, err) == (0, "")
    assert re.search(r"Spearman .*90 % interval", out)
    assert "p.yaml" in out
    fast, slow = (
        "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|",
        "+".join("|" + "|".join(f"nor_conv_3x3~{s}" for s in range(n)) + "|" for n in (1, 2, 3)),
    )
    assert predict("p.yaml", fast) < predict("p.yaml", slow)


def test_propose_when_the_space_has_numbers_then_writes_its_json(kdnas):
    assert kdnas("propose", "resnet", "--count", "6", "--out", "m.csv")[0] == 0
    with open("m.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 6


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["propose", "nothing"], ["nothing"]),
        (["propose", "nasbench201", "width=3"], ["space.key=value"]),
        (["propose", "nasbench201", "--count", "2"], ["count", "too few"]),
        (["propose", "nasbench201", "--input", "3,32"], ["--input", "3x32x32"]),
        (["propose", "nasbench201", "--tables", "none.parquet"], ["--tables", "cannot be read"]),
        (["propose", "nasbench201", "--tables", "bad.parquet"], ["latency_ms_<device>"]),
        (["propose", "nasbench201", "--tables", "gap.parquet"], ["row 4", "latency_ms_x"]),
        (["propose", "nasbench201", "--tables", "objects.parquet"], ["--tables", "cannot be read"]),
        (["propose", "nasbench201", "--out", "kept.csv"], ["--out", "exists already"]),
        (["propose", "nasbench201", "--out", "no/m.csv"], ["--out", "cannot be written"]),
        (["fit", "kept.csv"], ["--space"]),
        (["fit", "none.csv", "--space", "nasbench201"], ["none.csv", "cannot be read"]),
    ],
)
def test_commands_when_an_argument_is_wrong_then_name_it_and_what_to_do(kdnas, words, parts):
    Path("kept.csv").write_text("mine")
    pyarrow.parquet.write_table(pyarrow.table({"architecture": ["x"]}), "bad.parquet")
    write_table(Path("gap.parquet"), latency_ms_x=[1.0, 2.0, 3.0, np.nan, *([1.0] * 196)])
    write_table(Path("objects.parquet"), latency_ms_x=[{"median": 1.0}] * 200)
    code, out, err = kdnas(*words)
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    for part in parts:
        assert part in err
    assert Path("kept.csv").read_text() == "mine"


CELLS = [SPACE.notation(cell) for cell in measurements.distinct(SPACE, 8, 0)]


@pytest.mark.parametrize(
    ("header", "change", "parts"),
    [
        ("architecture,latency", {}, ["latency_ms", "unit"]),
        ("cell,latency_ms", {}, ["`architecture`", "cell"]),
        ("architecture,latency_ms", {2: f"{CELLS[2]},"}, ["row 4", "not measured"]),
        ("architecture,latency_ms", {2: CELLS[2]}, ["row 4", "not measured"]),
        ("architecture,latency_ms", {2: f"{CELLS[2]},12 s"}, ["row 4", "12 s", "milliseconds"]),
        ("architecture,latency_ms", {2: f"{CELLS[2]},1,5"}, ["row 4", "1.5"]),
        ("architecture,latency_ms", {2: f"{CELLS[2]},nan"}, ["row 4", "positive"]),
        ("architecture,latency_ms", {2: f"{CELLS[2]},-1"}, ["row 4", "positive"]),
        ("architecture,latency_ms", {2: "|conv~0|,3"}, ["row 4", "no architecture"]),
        ("architecture,latency_ms", {2: f"{CELLS[0]},3"}, ["row 4", "row 2", "median"]),
        ("architecture,latency_ms", dict.fromkeys(range(4)), ["too few", "20"]),
        ("architecture,latency_ms", {i: f"{CELLS[i]},7" for i in range(8)}, ["the same"]),
    ],
)
def test_fit_when_a_measurement_is_wrong_then_names_the_row_and_what_to_do(kdnas, header, change, parts):
    lines = {i: f"{text},{milliseconds(text)}" for i, text in enumerate(CELLS)} | change
    Path("m.csv").write_text("\n".join([header, *(line for line in lines.values() if line)]) + "\n")
    code, out, err = kdnas("fit", "m.csv", "--space", "nasbench201")
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    for part in parts:
        assert part in err
    assert not Path("device.json").exists()


def test_measurements_when_written_by_a_spreadsheet_then_are_read(tmp_path):
    space = ResNetSpace()
    drawn = measurements.distinct(space, 5, 0)
    file = tmp_path / "m.csv"
    with file.open("w", newline="", encoding="utf-8-sig") as out:
        writer = csv.writer(out)
        writer.writerow(["architecture ", "latency_ms"])
        writer.writerows([notation(space, a), f" {i + 1}.5 "] for i, a in enumerate(drawn))
    assert measurements.read_measurements(file, space) == (drawn, [1.5, 2.5, 3.5, 4.5, 5.5])
