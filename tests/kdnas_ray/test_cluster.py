"""Specification of `kdnas_ray.cluster`: which address a search takes, and how soon it knows that none answers."""

import os
import socket
import sys

import pytest
import ray

from kdnas_ray import cli, cluster
from search_spaces import KdnasError


@pytest.fixture(autouse=True)
def _no_address(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "")  # put back as it was, whatever a test sets
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.parametrize("address", ["auto", "10.0.0.5:6379", "head.internal:6379", "[::1]:6379"])
def test_address_when_given_then_stands_for_the_variable(address):
    cluster.use(address)
    assert os.environ["RAY_ADDRESS"] == address


def test_address_when_not_given_then_the_variable_stays(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
    cluster.use(None)
    assert os.environ["RAY_ADDRESS"] == "10.0.0.5:6379"


MALFORMED = ("", "local", "head", "head:", ":6379", "head:0", "head:65536", "head:ray", "http://head:8265", "::1:6379")


@pytest.mark.parametrize("address", MALFORMED)
@pytest.mark.parametrize("command", [["search", "--out", "run"], ["resume", "run"], ["retrain", "run"]])
def test_address_when_malformed_then_is_refused_before_any_work(monkeypatch, capsys, tmp_path, command, address):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kdnas", *command, "--address", address])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr()
    assert (ended.value.code, shown.out, list(tmp_path.iterdir())) == (2, "", [])
    assert shown.err.startswith(
        f"Error: --address = {address!r}: is neither `auto` nor host:port\n  the head's address"
    )


def test_address_when_of_ray_client_then_is_refused_with_what_to_do_instead():
    with pytest.raises(KdnasError, match=r"Ray Client\n  run it on a machine of the cluster with host:port"):
        cluster.use("ray://head:10001")


@pytest.mark.parametrize("address", ["", "local"])
def test_knocking_when_no_cluster_is_named_then_nothing_is_done(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(cluster, "_knock", lambda _: pytest.fail("it knocked"))
    assert cluster.answering() is None


def test_knocking_when_this_process_is_in_a_cluster_then_only_says_what_that_has(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 3.0})
    monkeypatch.setattr(cluster, "_knock", lambda _: pytest.fail("it knocked"))
    assert cluster.answering() == {"CPU": 3.0}


def test_knocking_when_let_in_then_says_what_the_cluster_has(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(cluster, "_knock", lambda _: 'welcome {"CPU": 8.0, "node:10.0.0.5": 1.0}')
    assert cluster.answering() == {"CPU": 8.0, "node:10.0.0.5": 1.0}


def test_variable_when_malformed_then_is_refused_too(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head")
    with pytest.raises(KdnasError, match=r"RAY_ADDRESS = 'head': is neither"):
        cluster.answering()


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("[…] Unauthenticated: RPC error: InvalidAuthToken", "asks for a token and does not know ours"),
        ("refused AuthenticationError ['no authentication token was found']", "asks for a token and does not know"),
        ("refused RuntimeError ['Version mismatch']", r"no Ray answers there \(RuntimeError \['Version mismatch'\]\)"),
        ("", r"no Ray answers there \(nothing within 30 s\)"),
    ],
)
def test_knocking_when_it_goes_wrong_then_says_how(monkeypatch, said, problem):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(cluster, "_knock", lambda _: said)
    with pytest.raises(KdnasError, match=problem):
        cluster.answering()


def test_knocking_when_somebody_listens_who_says_nothing_then_ends_in_time(monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(KdnasError, match="no Ray answers there"):
            cluster.answering()


def test_knocking_when_nobody_listens_then_says_so_at_once(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(cluster, "_knock", lambda _: pytest.fail("it knocked"))
    with pytest.raises(KdnasError, match=f"{address}': nothing listens there"):
        cluster.answering()
