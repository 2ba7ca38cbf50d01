"""Specification of `kdnas_ray.kept_config`: a run needs no device's file outside its folder, and can be moved."""

import pytest
import yaml

from kdnas_ray.config import read, read_file
from kdnas_ray.hardware.lookup import by_name
from kdnas_ray.kept_config import keep_config, run_config
from kdnas_ray.report import write_report
from kdnas_ray.runs import read_config
from search_spaces import KdnasError

PROFILE = "name: mine\nflops_per_s: 1e9\nbytes_per_s: 1e9\n"
BOUND = {"latency_ms": 5}


@pytest.fixture
def kept(run, tmp_path):
    """A run on a profile in a file that is gone afterwards."""
    (tmp_path / "here.yml").write_text(PROFILE)
    keep_config(run, read({"devices": [str(tmp_path / "here.yml"), "npu-small"], "constraints": BOUND}))
    (tmp_path / "here.yml").unlink()
    return run


def test_run_when_the_profile_is_gone_and_the_folder_moved_then_still_has_its_device(kept, tmp_path):
    moved = kept.rename(tmp_path / "moved")
    assert read_config(moved)["devices"] == ["devices/mine.yml", "npu-small"]
    config = run_config(moved)
    assert list(config.constraints) == ["latency_ms/mine"]
    assert by_name(config.devices)["mine"].flops_per_s == 1e9
    assert "latency_ms/mine" in write_report(moved).read_text()
    # The same search once more, from the configuration of this run.
    assert by_name(read_file(moved / "config.yaml").devices).keys() == {"mine", "npu-small"}


def test_run_when_resumed_then_keeps_the_profile_it_began_with(kept, tmp_path):
    first = read_config(kept)
    (tmp_path / "here.yml").write_text(PROFILE.replace("flops_per_s: 1e9", "flops_per_s: 9e9"))
    keep_config(kept, run_config(kept, ["budget.trials=7"]))
    assert read_config(kept) == first | {"budget": {"trials": 7, "wall_s": None}}
    assert by_name(run_config(kept).devices)["mine"].flops_per_s == 1e9


def test_run_of_an_earlier_version_when_resumed_then_takes_its_profile_in(run, tmp_path):
    (tmp_path / "here.yaml").write_text(PROFILE)
    written = read({"devices": [str(tmp_path / "here.yaml")], "constraints": BOUND}).resolved()
    (run / "config.yaml").write_text(yaml.safe_dump(written))
    keep_config(run, run_config(run))
    assert (run / "devices" / "mine.yaml").read_text() == PROFILE


def test_run_when_its_copy_is_lost_then_says_which(kept):
    (kept / "devices" / "mine.yml").unlink()
    with pytest.raises(KdnasError) as caught:
        run_config(kept)
    assert (caught.value.field, caught.value.value) == ("devices", "devices/mine.yml")
