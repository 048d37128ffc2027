"""The body of `serve`: models are loaded and compiled, then requests are answered until Ctrl-C."""

import contextlib
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import uvicorn

from mmkp_jax.errors import InputError
from mmkp_jax.models.compilation_cache import keep_compiled, user_cache
from mmkp_jax.runtime.escape import for_terminal
from mmkp_jax.serving.app import make_app
from mmkp_jax.serving.decoder import Decoder
from mmkp_jax.serving.posts import shown_posts
from mmkp_jax.serving.served import POST, Options, Served, load_all, warm_up
from mmkp_jax.serving.service import Service

MOST_CONNECTIONS = 1000
"""Connections at a time; further ones get the status 503."""

GRACE = 5
"""Seconds that open requests have after Ctrl-C."""


class Address(NamedTuple):
    """Where the server answers, and to whom."""

    host: str
    port: int
    """0 for any free one."""
    token: str
    """What requests must carry; empty on loopback."""


def serve(models: Sequence[str], address: Address, options: Options, data: Path | None) -> None:
    """Answers until it is stopped.

    Raises:
        InputError: a model or the dataset cannot be used, or the port is taken.
    """
    with _listening(address) as listener:  # before the minutes of loading
        keep_compiled(user_cache())
        began = time.perf_counter()
        posts = shown_posts(data, models)
        served = load_all(models, options)
        for each in served:
            warm_up(each)
        decoder = Decoder(served)
        service = Service(served, decoder, options.batch_size)
        app = make_app(service, posts, address.token)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=GRACE,
            ws="none",
            lifespan="off",
        )
        if isinstance(posts, str):
            print(for_terminal(f"the page has no examples and no training posts: {posts}"))
        _print_addresses(served, address, listener.getsockname()[1], time.perf_counter() - began)
        decoder.start()
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            decoder.stop()
            service.close()


@contextlib.contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    where = f"--host={address.host} --port={address.port}"
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise InputError(f"there is no such address ({error.strerror or error})", where, "give another") from None
    with listener:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(place)
            listener.listen(2048)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(f"the port cannot be used ({reason})", where, "give another --port") from None
        yield listener


def _print_addresses(served: Sequence[Served], address: Address, port: int, seconds: float) -> None:
    host = address.host if address.host not in ("0.0.0.0", "::", "") else socket.gethostname()
    host = f"[{host}]" if ":" in host else host
    page = f"http://{host}:{port}/" + (f"#token={address.token}" if address.token else "")
    names = ", ".join(each.name + end for each in served for end in ("", POST))
    lines = [
        f"ready after {seconds:.0f} s",
        f"  page  {page}",
        f"  API   http://{host}:{port}/v1, models {names}",
    ]
    if address.token:
        lines.append(f"  key   {address.token}")
    print(for_terminal("\n".join([*lines, "Ctrl-C stops it"]), lines=True))
    sys.stdout.flush()


def new_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(24)
