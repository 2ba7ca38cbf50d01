"""Which Ray does a search run on, and does it let this machine in?

Ray itself waits 20 seconds for a cluster that refuses it and more than a minute for one that is not there, writing to
the terminal all the while. So another process knocks first, and is ended when it is clear how that goes.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading

from search_spaces.errors import KdnasError

OPTION, VARIABLE = "--address", "RAY_ADDRESS"
EITHER = f"{OPTION} or {VARIABLE}"
FORM = re.compile(r"([^\s:/@\[\]]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")
LISTENS_S = 5.0  # for a connection to a machine
PATIENCE_S = 30.0  # for Ray to answer; a busy machine takes some seconds to import it

# Its first word is what `answering` looks for.
KNOCK = """
import sys, ray
try:
    ray.init(address=sys.argv[1], log_to_driver=False)
except BaseException as error:
    print("refused", type(error).__name__, str(error).strip().splitlines()[:1])
else:
    import json
    print("welcome", json.dumps(ray.cluster_resources()))
"""


def use(address: str | None, field: str = OPTION) -> None:
    """Let this process's searches run on the Ray at `address`, as RAY_ADDRESS does; None changes nothing.

    Args:
        address: `auto`, or host and port of a head.
        field: what the user wrote it as.

    Raises:
        KdnasError: it is neither.
    """
    if address is None:
        return
    if address.startswith("ray://"):
        # Through Ray Client, Tune runs a copy of the searcher elsewhere: the study and run folder here learn nothing.
        raise KdnasError(
            "a search is not run through Ray Client",
            field=field,
            value=address,
            remedy="run it on a machine of the cluster with host:port of the head, or there by `ray job submit`",
        )
    if address != "auto" and _parts(address) is None:
        raise KdnasError(
            "is neither `auto` nor host:port",
            field=field,
            value=address,
            remedy="the head's address is in what `ray start --head` prints, such as 10.0.0.5:6379",
        )
    os.environ[VARIABLE] = address


def answering() -> dict[str, float] | None:
    """Knock at the Ray that RAY_ADDRESS names; what it has is returned (`CPU`, `GPU`, …).

    So is what the Ray has that this process is in. None where there is neither: a search starts its own.

    Raises:
        KdnasError: no Ray answers there within half a minute, or it does not let this process in.
    """
    import ray

    address = os.environ.get(VARIABLE)
    if ray.is_initialized():
        return dict(ray.cluster_resources())
    if not address or address == "local":
        return None
    use(address, EITHER)
    if (parts := _parts(address)) is not None:
        try:
            socket.create_connection(parts, timeout=LISTENS_S).close()
        except OSError as error:
            raise KdnasError(
                f"nothing listens there ({error.strerror or error})",
                field=EITHER,
                value=address,
                remedy="is the head running (`ray start --head`), and is this its address?",
            ) from error
    said = _knock(address)
    if said.startswith("welcome"):
        return dict(json.loads(said.removeprefix("welcome")))
    if "uthenticat" in said:
        raise KdnasError(
            "that Ray asks for a token and does not know ours",
            field=EITHER,
            value=address,
            remedy="set RAY_AUTH_MODE=token, and put the cluster's token into ~/.ray/auth_token or RAY_AUTH_TOKEN_PATH",
        )
    raise KdnasError(
        f"no Ray answers there ({said.removeprefix('refused ') or f'nothing within {PATIENCE_S:.0f} s'})",
        field=EITHER,
        value=address,
        remedy="name the head's address, on a machine that `ray start` made part of that cluster",
    )


def _parts(address: str) -> tuple[str, int] | None:
    found = FORM.fullmatch(address)
    if found is None or not 0 < int(found[2]) < 2**16:
        return None
    return found[1].strip("[]"), int(found[2])


def _knock(address: str) -> str:
    """What came of it: a line that begins with `welcome` or `refused`, one about authentication, or nothing."""
    # -P: a file of the working folder must not stand for a module of Ray.
    words = [sys.executable, "-P", "-c", KNOCK, address]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as knocking:
        patience = threading.Timer(PATIENCE_S, knocking.kill)
        patience.start()
        try:
            for line in knocking.stdout or ():
                if line.startswith(("welcome", "refused")) or "Unauthenticated" in line:
                    return line.strip()
        finally:
            patience.cancel()
            knocking.kill()
    return ""
