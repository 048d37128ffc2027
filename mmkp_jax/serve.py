"""Serves a trained model: a local page, and an OpenAI-compatible endpoint: `python -m mmkp_jax.serve --model=MODEL …`.

The page takes a post and shows what each model predicts for it, in both modes. The endpoint has each model under two
names: NAME takes conversations as they are, and NAME:post wraps the user's last message in the training prompt and
answers with the keyphrases. Nothing is fetched, and no file of this machine is read for a request.
"""

import argparse
import ipaddress
import sys
from collections.abc import Sequence
from pathlib import Path

from mmkp_jax.runtime.cli import Parser, status_of
from mmkp_jax.runtime.installed import check_installed
from mmkp_jax.runtime.interrupts import while_loading

HOST, PORT = "127.0.0.1", 8765
SLOTS = 8
"""Default of --batch_size: each token takes time for all slots, used or not."""
MIN_TOKEN = 16
"""Fewest characters of a token."""


def parser() -> Parser:
    """The command's flags."""
    flags = Parser("serve", __doc__)
    add = flags.add_argument
    about = "required: a Hugging Face folder, a hub id, or a work directory: DIR[@STEP|@best]; several: A,B,…"
    add("--model", metavar="MODEL[,MODEL …]", help=about)
    add("--data", type=Path, metavar="DIR", help="the dataset of examples and nearest posts (the first run's)")
    add("--host", default=HOST, metavar="HOST", help="where to listen (%(default)s); others than loopback have a token")
    add("--port", type=int, default=PORT, metavar="N", help="the port; 0 for any free one (%(default)s)")
    add("--token", metavar="TOKEN", help="what requests must carry; by default a new one where --host is not loopback")
    add("--zero_shot", action="store_true", help="describe the output's format, for a model that has not learnt it")
    add("--batch_size", type=int, default=SLOTS, metavar="N", help="answers decoded at a time (%(default)s)")
    add("--max_tokens", type=int, metavar="N", help="most tokens of an answer (default: the run's)")
    about = "most tokens of a conversation (default: as many as the longest post takes)"
    add("--max_prompt_tokens", type=int, metavar="N", help=about)
    add("--temperature", type=float, default=0.0, metavar="F", help="of sampling; 0 takes the likeliest token (0)")
    add("--top_p", type=float, default=1.0, metavar="F", help="sample from the likeliest tokens of this share (1)")
    add("--seed", type=int, default=0, metavar="N", help="seed of sampling (0)")
    return flags


def run(arguments: Sequence[str] | None = None) -> None:
    """Serves the models that the flags name, until Ctrl-C."""
    parsed = _parse(arguments)
    check_installed(("starlette", "uvicorn"), "serve", ("serve", "serve"))
    with while_loading():  # imports that a wrong flag does not need
        from mmkp_jax.decoding.sampling import Sampling
        from mmkp_jax.serving.served import Options
        from mmkp_jax.serving.server import Address, new_token, serve

    token = parsed.token or ("" if _is_loopback(parsed.host) else new_token())
    sampling = Sampling(parsed.temperature, parsed.top_p, parsed.seed)
    options = Options(parsed.batch_size, parsed.max_tokens, parsed.max_prompt_tokens or 0, parsed.zero_shot, sampling)
    serve(parsed.model.split(","), Address(parsed.host, parsed.port, token), options, parsed.data)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 2 after a one-line error, 130 after Ctrl-C."""
    return status_of(run, arguments, interrupted="stopped")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    flags = parser()
    parsed = flags.parse(arguments)
    if not parsed.model:
        flags.error("--model=FOLDER or WORKDIR is not given")
    if "" in parsed.model.split(","):
        flags.error(f"--model={parsed.model} has an empty name")
    for name, low, high in (("temperature", 0, 100), ("top_p", 1e-6, 1), ("port", 0, 65535)):
        if not low <= getattr(parsed, name) <= high:
            flags.error(f"--{name}={getattr(parsed, name)} is not from {low} to {high}")
    for name in ("batch_size", "max_tokens", "max_prompt_tokens"):
        if (value := getattr(parsed, name)) is not None and value < 1:
            flags.error(f"--{name}={value} is less than 1")
    if not parsed.temperature:
        for name in ("top_p", "seed"):
            if getattr(parsed, name) != flags.get_default(name):
                flags.error(f"--{name} needs --temperature above 0")
    if parsed.token is not None and (len(parsed.token) < MIN_TOKEN or not parsed.token.isascii()):
        flags.error(f"--token has fewer than {MIN_TOKEN} characters, or others than ASCII")
    return parsed


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main())
