"""Pocket with few posts, prepared once for a test run, and the main command on it in a process of its own."""

import contextlib
import fcntl
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmkp_jax.data.posts import read_jsonl
from mmkp_jax.experiment.afterwards import FINISHED
from mmkp_jax.pocket.make import make_pocket, prepare_posts
from mmkp_jax.pocket.model import write_model
from mmkp_jax.pocket.posts import REPLAYED
from mmkp_jax.pocket.tokenizer import train_tokenizer
from mmkp_jax.pocket.variants import texts_of
from tests.support.devices import fake_devices
from tests.support.paths import ONCE, ROOT

SIZES = {"train": 40, "valid": 4, "test": 6}
TRAINED_ON = SIZES["train"] + sum(round(share * SIZES["train"]) for share in REPLAYED.values())
"""Number of training posts, with the replayed ones."""
UNFED = f"test-{SIZES['test']}"


def small_pocket(root: Path) -> Path:
    """Dataset of a pocket of `SIZES`, and a model of random parameters, in `root/pocket`.

    The last test post's image is cut short.

    A test run makes it once: each caller gets a copy.
    """
    pocket = root / "pocket"
    if ONCE not in os.environ:
        return _make(pocket)
    made = Path(os.environ[ONCE]) / "pocket"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _make(made.with_suffix(".unfinished")).rename(made)
    return shutil.copytree(made, pocket)


def _make(pocket: Path) -> Path:
    make_pocket(pocket, sizes=SIZES)
    shutil.rmtree(pocket / "model")
    texts = texts_of(read_jsonl(pocket / "posts" / "train.jsonl"))
    write_model(train_tokenizer(texts), 0, pocket / "model")
    (image,) = (pocket / "images").glob(f"{UNFED}.*")
    image.write_bytes(image.read_bytes()[:200])
    prepare_posts(pocket, SIZES)
    return pocket


def command(
    pocket: Path, *flags: str, config: str = "configs/dyncot.py", fields: Mapping[str, object] | None = None
) -> list[str]:
    """The main command on a small pocket, with twelve short steps of it, or with `fields` of its config."""
    twelve_steps = {
        "make": "",
        "model.path": pocket / "model",
        "data.path": pocket / "dataset",
        "data.kinds": pocket / "needs.jsonl",
        "row.tokens": 320,
        "row.images.patches": 256,
        "row.images.windows": 8,
        "row.labels": 224,
        "row.examples": 4,
        "global_batch_size": 1,
        "num_epochs": 0,
        "total_steps": 12,
        "warmup_steps": 2,
        "gamma": 6.5,
        "eps": 1e-3,  # at 1e-8 AdamW makes whole steps out of the rounding of a gradient that is nearly 0
        "checkpoint_every": 3,
        "eval_batch_size": 6,
        "answer_tokens": 4,
        "ablations": False,
    }
    fields = twelve_steps if fields is None else fields
    overrides = [f"--config.{name}={value}" for name, value in fields.items()]
    return [sys.executable, "-m", "mmkp_jax.main", f"--config={config}", *overrides, *flags]


def environment(devices: int = 1) -> dict[str, str]:
    """Variables of a run on fake CPU devices."""
    return {**fake_devices(devices), "PYTHONUNBUFFERED": "1"}


NO_CACHE = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
"""For a run whose files are limited: it would leave a cut entry in the cache that all runs share."""


def run(
    pocket: Path, *flags: str, devices: int = 1, file_bytes: int = 0, **options: str
) -> subprocess.CompletedProcess:
    """Runs the command to its end; no file may grow beyond `file_bytes`, where that is given."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

    done = command(pocket, *flags, **options)
    pipes = {"capture_output": True, "text": True, "timeout": 300}
    env = environment(devices)
    if file_bytes:
        env |= NO_CACHE
    return subprocess.run(done, cwd=ROOT, env=env, preexec_fn=limit if file_bytes else None, **pipes)


class Done(NamedTuple):
    """A command that ran in this process."""

    returncode: int
    stdout: str
    stderr: str


def run_here(pocket: Path, *flags: str, **options: Any) -> Done:
    """The same as `run` in this process, which saves the seconds of importing everything again."""
    from mmkp_jax.main import main

    out, error = io.StringIO(), io.StringIO()
    before = {kind: signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)}
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            status = main(command(pocket, *flags, **options)[3:])
        except SystemExit as ended:
            status = ended.code
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)
    return Done(status, out.getvalue(), error.getvalue())


def metrics(workdir: Path) -> list[dict]:
    """The lines of a run's metrics file."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def unfinished(workdir: Path, folder: Path) -> Path:
    """A copy of a run in `folder`, as if it had been killed right before its end."""
    return shutil.copytree(workdir, folder, ignore=shutil.ignore_patterns(FINISHED))
