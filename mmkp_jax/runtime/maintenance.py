"""Google Cloud's maintenance and preemption notices, turned into SIGTERM."""

import contextlib
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator

import jax

SERVER = "GCE_METADATA_HOST"
"""The environment variable that names the metadata server, as in Google's own libraries."""

IDLE = {"instance/maintenance-event": "NONE", "instance/preempted": "FALSE"}
"""The server's answer for each key while nothing is planned."""

EVERY_SECONDS = 10


@contextlib.contextmanager
def watch_maintenance(every: float = EVERY_SECONDS) -> Iterator[None]:
    """Sends this process SIGTERM, once, when a maintenance event or a preemption is announced.

    It polls on TPUs, and where the environment names a metadata server.
    """
    over = threading.Event()
    if jax.default_backend() == "tpu" or SERVER in os.environ:
        threading.Thread(target=_watch, args=(over, every), daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(over: threading.Event, every: float) -> None:
    before = {
        key: _ask(key, idle) for key, idle in IDLE.items()
    }  # a notice from before the start does not stop the run
    while not over.wait(every):
        if any(_ask(key, idle) not in ("", idle, before[key]) for key, idle in IDLE.items()):
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _ask(key: str, otherwise: str) -> str:
    """The server's answer; `otherwise` where it cannot be reached."""
    url = f"http://{os.environ.get(SERVER, 'metadata.google.internal')}/computeMetadata/v1/{key}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read().decode().strip()
    except OSError:
        return otherwise
