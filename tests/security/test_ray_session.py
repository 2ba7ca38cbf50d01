"""Specification: who can reach the Ray session that `kdnas` starts?"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdnas_ray.environment import DISABLED, keep_token_private, ray_session

CLIENT = """
import sys
from ray._raylet import GcsClient
print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", namespace=None, timeout=20))
"""


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_token_when_there_is_none_then_is_made_for_the_user_alone(home):
    keep_token_private()
    token = home / ".ray" / "auth_token"
    assert (mode(token), mode(token.parent), len(token.read_text())) == (0o600, 0o700, 64)
    assert os.listdir(token.parent) == ["auth_token"]


def test_token_when_others_could_read_it_then_no_more_and_it_stays_the_same(home):
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("a" * 64)
    token.chmod(0o644)
    keep_token_private()
    assert (mode(token), token.read_text()) == (0o600, "a" * 64)


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_token_when_the_user_gives_another_then_none_is_made(home, monkeypatch, name):
    monkeypatch.setenv(name, "b" * 64)
    keep_token_private()
    assert not (home / ".ray").exists()


@pytest.mark.parametrize(("chosen", "warned"), [(None, False), ("token", False), ("disabled", True)])
def test_session_when_the_user_turns_authentication_off_then_says_what_that_means(
    home, monkeypatch, capsys, chosen, warned
):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: None)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    if chosen:
        monkeypatch.setenv("RAY_AUTH_MODE", chosen)
    with ray_session(1, 1, 10**8):
        pass
    assert (DISABLED in capsys.readouterr().err) is warned
    assert (home / ".ray" / "auth_token").exists() is not warned


def test_session_when_a_client_has_no_token_or_another_then_is_refused_and_the_dashboard_is_off():
    import ray

    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with ray_session(1, 1, 10**8):
        address = ray.get_runtime_context().gcs_address
        clients = [
            subprocess.Popen(
                [sys.executable, "-c", CLIENT, address],
                env=kept | env,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for env in (
                {"RAY_AUTH_MODE": "token"},
                {"RAY_AUTH_MODE": "disabled"},
                {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
            )
        ]
        said = [(*client.communicate(timeout=60), client.returncode) for client in clients]
        assert not ray._private.worker.global_worker.node.address_info.get("webui_url")
    assert said[0][2] == 0, said[0][1]
    for out, error, code in said[1:]:
        assert (out, code) == ("", 1)
        assert "token" in error
