"""Where and with what does a search run? Versions, git commit, quiet Ray sessions."""

import contextlib
import logging
import os
import platform
import secrets
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("kdnas_ray", "torch", "ray", "optuna", "mlflow", "numpy", "scikit-learn", "datasets", "onnxruntime")
LOGGERS = ("kdnas_ray", "ray", "optuna", "datasets", "alembic", "py.warnings")

# Ray Tune is told not to do what the run folder does already: its own logs, snapshots and signal handling
# cost more than a short training (design: decisions 4 and 9).
TUNE_SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1000000000",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
DISABLED = (
    "Warning: RAY_AUTH_MODE turns token authentication off: while this runs, whoever reaches this machine over the "
    "network can run code as you. Unset it."
)


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def git_commit() -> str | None:
    """Commit of the working folder, with `+changes` when it is not clean; None outside a repository."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if status.stdout.strip() else "")


def cache_folder(configured: Path | None) -> Path:
    """Folder for trained teachers and banks, shared by all runs."""
    return Path(configured or os.environ.get("KDNAS_CACHE") or "~/.cache/kdnas_ray").expanduser()


@contextlib.contextmanager
def logs_to(path: Path) -> Iterator[None]:
    """Send the chatter of the libraries to a file instead of the terminal."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    # Which metrics Tune's own files lack says nothing: none are asked for, see `driver`.
    logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)
    kept = {name: (list(logging.getLogger(name).handlers), logging.getLogger(name).propagate) for name in LOGGERS}
    logging.captureWarnings(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            quiet(handler)
            yield
    finally:
        logging.captureWarnings(False)
        for name, (handlers, propagate) in kept.items():
            logging.getLogger(name).handlers[:] = handlers
            logging.getLogger(name).propagate = propagate
        handler.close()


def quiet(handler: logging.Handler | None = None) -> None:
    """Leave only file handlers on the libraries' loggers; `ray.init` puts its own on them."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        files = [known for known in logger.handlers if isinstance(known, logging.FileHandler)]
        logger.handlers[:] = [*files, handler] if handler is not None else files
        logger.propagate = False


@contextlib.contextmanager
def ray_session(workers: int | None, cpus_each: float, object_store_bytes: int) -> Iterator[None]:
    """A local Ray with room for the bank, ended afterwards; one that this process or RAY_ADDRESS names is used.

    Ray listens on all networks of the machine, whatever address it is given (2.60): who may connect is decided by its
    token alone.
    """
    os.environ.update(TUNE_SETTINGS)
    import ray  # reads the settings above when it is imported

    if ray.is_initialized():
        yield
        return
    quietly: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if os.environ.get("RAY_ADDRESS"):  # a cluster has its own sizes, and Ray refuses to be told others
        ray.init(**quietly)
    else:
        if os.environ.get("RAY_AUTH_MODE", "token").lower() == "token":
            keep_token_private()
        else:  # the user's own decision, but one that is easily forgotten
            print(DISABLED, file=sys.stderr)
        # Named, or Ray would join another one that runs on this machine.
        ray.init(
            address="local",
            num_cpus=max(1, round(workers * cpus_each)) if workers else os.cpu_count() or 1,
            include_dashboard=False,
            object_store_memory=object_store_bytes,
            **quietly,
        )
    quiet()
    try:
        with _raylets_to_log():
            yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _raylets_to_log() -> Iterator[None]:
    """Send what raylets report to the log: Ray prints it on the terminal, where each worker that ends blames memory."""
    from ray._private import worker

    def log(data: Mapping[str, Any], **_: Any) -> None:
        for text in data["lines"]:
            logging.getLogger("ray").warning("%s: %s", data["pid"], text)

    before = worker.print_to_stdstream  # Ray (2.60) offers no setting for it
    worker.print_to_stdstream = log
    try:
        yield
    finally:
        worker.print_to_stdstream = before


def keep_token_private() -> None:
    """See to it that the token in `~/.ray` is the user's alone: with it anybody runs code in the user's sessions.

    Ray makes it readable for everybody on the machine (2.60). One that is given in another way is left as it is.
    """
    path = Path.home() / ".ray" / "auth_token"
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    with contextlib.suppress(OSError):  # then Ray says what is wrong with it
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            with tempfile.NamedTemporaryFile("w", dir=path.parent) as draft:  # readable by its owner alone
                draft.write(secrets.token_hex(32))
                draft.flush()
                with contextlib.suppress(FileExistsError):  # another process was faster
                    os.link(draft.name, path)
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
