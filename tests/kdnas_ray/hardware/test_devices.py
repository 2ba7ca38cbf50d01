"""Specification of `kdnas_ray.hardware.devices`: read by name or path, and refused when they make no sense."""

import pytest

from kdnas_ray.hardware.devices import DeviceProfile, absolute, device, parse, shipped, write
from search_spaces import KdnasError

MINE = "name: mine\nflops_per_s: 1e9\nbytes_per_s: 2.0e+9\nlacks: [gelu]\noverhead_us: 3\nefficiency: {conv: 0.5}\n"


def test_shipped_when_listed_then_each_names_itself_and_what_limits_it():
    profiles = shipped()
    assert set(profiles) == {"gpu-bandwidth", "npu-small", "cortex-m7", "server-cpu"}
    assert all(name == profile.name and profile.summary for name, profile in profiles.items())


@pytest.mark.parametrize("name", shipped())
def test_profile_when_written_and_read_again_then_is_the_same(name, tmp_path):
    file = tmp_path / "profile.yaml"
    file.write_text(write(device(name)))
    assert device(str(file)) == device(name)


def test_profile_when_in_a_file_then_short_forms_are_understood(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    found = device("mine.yaml")
    assert (found.name, found.flops_per_s, found.overhead_us, found.lacks) == ("mine", 1e9, {"default": 3.0}, ("gelu",))
    assert absolute("mine.yaml") == str(tmp_path / "mine.yaml")
    assert absolute("npu-small") == "npu-small"


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("name: x\nflops_per_s: 1\nbytes_per_s: 1\nspeed: 3\n", "devices", "keys of: name"),
        ("name: x\nflops_per_s: 1\n", "devices.bytes_per_s", "give it a value"),
        ("name: x\nflops_per_s: 10 GFLOPS\nbytes_per_s: 1\n", "devices.flops_per_s", "its unit is part of the key"),
        ("name: x\nflops_per_s: -1\nbytes_per_s: 1\n", "devices.flops_per_s", "above 0"),
        ("name: x\nflops_per_s: .nan\nbytes_per_s: 1\n", "devices.flops_per_s", "above 0"),
        ("name: a b\nflops_per_s: 1\nbytes_per_s: 1\n", "devices.name", "letters"),
        ("name: x\nflops_per_s: 1\nbytes_per_s: 1\ndtype: int4\n", "devices.dtype", "float32"),
        ("name: x\nflops_per_s: 1\nbytes_per_s: 1\nlacks: [geglu]\n", "devices.lacks", "known kinds"),
        ("name: x\nflops_per_s: 1\nbytes_per_s: 1\nlacks: gelu\n", "devices.lacks", "[gelu]"),
        ("name: x\nflops_per_s: 1\nbytes_per_s: 1\nefficiency: 1.5\n", "devices.efficiency.default", "at most 1"),
        ("name: x\nflops_per_s: 1\nbytes_per_s: 1\noverhead_us: {cnv: 1}\n", "devices.overhead_us", "known kinds"),
        ("name: x\nflops_per_s: 1\nbytes_per_s: 1\nmemory_bytes: 0\n", "devices.memory_bytes", "or null"),
        ("name: x\nflops_per_s: 1\nbytes_per_s: 1\nfused: maybe\n", "devices.fused", "true or false"),
        (f"name: x\nflops_per_s: 1{400 * '0'}\nbytes_per_s: 1\n", "devices.flops_per_s", "give a number"),
        ("? [name]\n: x\n", "devices", ""),
        ("[1, 2]", "devices", "keys of"),
        ("a: [", "devices", ""),
    ],
)
def test_profile_when_it_makes_no_sense_then_the_key_is_named(text, field, words):
    with pytest.raises(KdnasError) as caught:
        parse(text, "mine.yaml")
    assert caught.value.field == field
    assert words in (caught.value.remedy or "")


def test_device_when_misspelt_or_missing_then_says_what_is_there(tmp_path):
    with pytest.raises(KdnasError, match="did you mean 'npu-small'"):
        device("npu-smal")
    with pytest.raises(KdnasError, match="cannot be read"):
        device(str(tmp_path / "none.yaml"))
    with pytest.raises(KdnasError, match="cannot be read"):
        device("odd\0.yaml")


def test_profile_when_python_then_wants_three_numbers_only():
    assert DeviceProfile("x", 1e9, 1e9).element_bytes == 4
