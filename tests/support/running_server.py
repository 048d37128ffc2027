"""The application of `serve` on a port of this machine, in threads of the test's process."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import uvicorn

from mmkp_jax.serving.app import make_app
from mmkp_jax.serving.decoder import Decoder
from mmkp_jax.serving.posts import ShownPosts
from mmkp_jax.serving.served import Served
from mmkp_jax.serving.service import Service


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Running(NamedTuple):
    """A server that answers."""

    port: int
    decoder: Decoder

    def ask(self, path: str, body: Any = None, **headers: str) -> Answer:
        """The response to a body, as JSON unless it is bytes already; to a GET without one."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is None:
            connection.request("GET", path, headers=given)
        else:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            connection.request("POST", path, data, {"Content-Type": "application/json", **given})
        response = connection.getresponse()
        found = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read().decode())
        connection.close()
        return found

    def chat(self, model: str, content: Any, **fields: Any) -> Answer:
        """The response to one message of a user."""
        messages = [{"role": "user", "content": content}]
        return self.ask("/v1/chat/completions", {"model": model, "messages": messages, **fields})


@contextlib.contextmanager
def running_server(
    models: Sequence[Served], slots: int, posts: ShownPosts | str = "no posts", token: str = ""
) -> Iterator[Running]:
    """Serves the models while the block runs."""
    decoder = Decoder(models)
    service = Service(models, decoder, slots)
    config = uvicorn.Config(
        make_app(service, posts, token), log_level="error", access_log=False, lifespan="off", ws="none"
    )
    server = uvicorn.Server(config)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        decoder.start()
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield Running(listener.getsockname()[1], decoder)
        finally:
            server.should_exit = True
            thread.join()
            decoder.stop()
            service.close()
