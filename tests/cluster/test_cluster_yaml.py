"""Is cluster.yaml what Ray's launcher accepts, and is nothing of it public or without authentication?"""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf8")
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
TOKEN = "~/.ray/auth_token"
WORD = r"\b[A-Z_]+_ID\b|\bREGION\b"  # what stands for a value of the reader's


@pytest.fixture
def config() -> dict[str, Any]:
    return yaml.safe_load(TEXT)


def checked(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as `ray up` completes it, by Ray's own schema and rules."""
    complete = prepare_config(copy.deepcopy(config))
    validate_config(complete)
    return complete


def problems(config: dict[str, Any]) -> list[str]:
    """What is unsafe or cannot work, though Ray accepts it."""
    found = []
    types, head = config["available_node_types"], config["head_node_type"]
    workers = {name: kind for name, kind in types.items() if name != head}
    found += [f"{name}: more at least than at most" for name, kind in types.items() if _least(kind) > _most(kind)]
    found += [f"{name}: more than the cluster" for name, kind in workers.items() if _most(kind) > config["max_workers"]]
    if sum(map(_most, workers.values())) != config["max_workers"]:
        found.append("max_workers is not what the types add up to")
    if _most(types[head]) != 0:
        found.append("a second head")
    if not any(map(_least, workers.values())):
        found.append("no room for a trial when a search begins")
    for name in STARTS:
        (start,) = [command for command in config[name] if "ray start" in command]
        if "export RAY_AUTH_MODE=token;" not in start.partition("ray start")[0]:
            found.append(f"{name}: no authentication")
        if re.search(r"--(dashboard-host|node-ip-address)[= ](?!127\.0\.0\.1)", start):
            found.append(f"{name}: the dashboard is not on loopback")
    if "--dashboard-host=127.0.0.1" not in " ".join(config["head_start_ray_commands"]):
        found.append("the dashboard is not on loopback")
    if config["file_mounts"].get(TOKEN) != TOKEN:
        found.append("the token does not reach the nodes")
    if f"chmod 600 {TOKEN}" not in config["setup_commands"][0]:
        found.append("others on a node may read the token")
    if not config["provider"].get("use_internal_ips"):
        found.append("public addresses")
    # Where there is none, Ray makes one that answers SSH from anywhere.
    found += [f"{name}: no security group" for name, kind in types.items() if not _node(kind).get("SecurityGroupIds")]
    if "0.0.0.0" in str(config) or "::/0" in str(config):
        found.append("open to everybody")
    installs = [command for command in config["setup_commands"] if "pip install" in command]
    if not re.fullmatch(r"\S+pip install --quiet --constraint \S+/constraints\.txt torch", installs[0]):
        found.append("torch is not what is installed first")
    found += ["an install without constraints" for command in installs if "/constraints.txt" not in command]
    return found


def _least(kind: dict[str, Any]) -> int:
    return kind.get("min_workers", 0)


def _most(kind: dict[str, Any]) -> int:
    return kind["max_workers"]


def _node(kind: dict[str, Any]) -> dict[str, Any]:
    return kind["node_config"]


def test_launcher_file_when_checked_by_ray_then_is_accepted_and_keeps_its_numbers(config):
    complete = checked(config)
    assert complete["available_node_types"].keys() == {"head", "cpu", "gpu"}
    assert complete["head_setup_commands"] == complete["worker_setup_commands"] == config["setup_commands"]
    for name in STARTS:
        assert complete[name] == config[name]


def test_launcher_file_when_looked_at_for_safety_then_nothing_is_found(config):
    assert problems(config) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda config: config.update(max_worker=3),
        lambda config: config.update(head_node_type="boss"),
        lambda config: config["available_node_types"]["cpu"].update(min_workers=99),
        lambda config: config["available_node_types"]["cpu"].pop("resources"),
        lambda config: config["auth"].update(password="secret"),
        lambda config: config.update(setup_commands=[{"run": "pip install ray"}]),
    ],
)
def test_launcher_file_when_spoilt_then_ray_refuses_it(config, spoil: Callable[[dict], Any]):
    spoil(config)
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        checked(config)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda config: config["available_node_types"]["cpu"].update(min_workers=9), "more at least than at most"),
        (lambda config: config["available_node_types"]["gpu"].update(max_workers=99), "more than the cluster"),
        (lambda config: config["available_node_types"]["head"].update(max_workers=1), "second head"),
        (lambda config: config["available_node_types"]["cpu"].update(min_workers=0), "no room"),
        (lambda config: _replace(config, STARTS[0], "RAY_AUTH_MODE=token", "A=b"), "no authentication"),
        (lambda config: _replace(config, STARTS[1], "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled"), "no authent"),
        (lambda config: _replace(config, STARTS[0], "127.0.0.1", "0.0.0.0"), "loopback"),
        (lambda config: _replace(config, STARTS[0], "--dashboard-host=127.0.0.1", ""), "loopback"),
        (lambda config: config["file_mounts"].pop(TOKEN), "does not reach"),
        (lambda config: _replace(config, "setup_commands", "chmod 600", "chmod 644"), "may read the token"),
        (lambda config: config["provider"].pop("use_internal_ips"), "public addresses"),
        (lambda config: _node(config["available_node_types"]["gpu"]).pop("SecurityGroupIds"), "no security group"),
        (lambda config: config["setup_commands"].insert(0, "pip install ray"), "torch is not"),
        (lambda config: _replace(config, "setup_commands", "constraints.txt 'ray", "other.txt 'ray"), "constraints"),
    ],
)
def test_launcher_file_when_made_unsafe_then_that_is_found(config, spoil: Callable[[dict], Any], problem: str):
    spoil(config)
    assert any(problem in found for found in problems(config))


def _replace(config: dict[str, Any], key: str, old: str, new: str) -> None:
    changed = [command.replace(old, new) for command in config[key]]
    assert changed != config[key]
    config[key] = changed


def test_launcher_file_when_it_copies_the_checkout_then_all_that_it_names_is_there(config):
    mounted = [local for local in config["file_mounts"].values() if not local.startswith("~")]
    assert [local for local in mounted if not (ROOT / local).exists()] == []
    packages = yaml.safe_load(TEXT)["file_mounts"].keys()
    for needed in ("pyproject.toml", "README.md", "constraints.txt", "search_spaces", "trainables", "kdnas_ray"):
        assert f"~/kdnas_ray/{needed}" in packages
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_launcher_file_when_filled_in_then_no_other_word_is_left_to_replace():
    comments, rest = TEXT[: TEXT.index("cluster_name")], TEXT[TEXT.index("cluster_name") :]
    named = set(re.findall(WORD, comments))
    assert named == {"REGION", "IMAGE_ID", "SUBNET_ID", "SECURITY_GROUP_ID", "FILE_SYSTEM_ID"}
    assert named == set(re.findall(WORD, rest))
