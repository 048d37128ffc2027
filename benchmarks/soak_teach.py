"""`teach` killed with SIGKILL at random moments, on an endpoint that fails in a fifth of the calls.

    python -m benchmarks.soak_teach [--kills=20]

It prints whether the file is the same as an unbroken run's, how many calls were made twice, and the money against the
server's own count; the exit status is 1 where the file is another, or more calls were made twice than were out at the
kills. The server runs in a process of its own.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.machine import describe_machine
from benchmarks.teacher import server
from tests.support.fake_endpoint import FAULTS, MODEL

POSTS, WIDTH = 2_000, 32


def one_in_five(said: str, attempt: int) -> str | None:
    """What goes wrong at a post's first attempt."""
    drawn = random.Random(said)
    kinds = [each for each in FAULTS if each != "hang"]
    return drawn.choice(kinds) if attempt == 1 and drawn.random() < 0.2 else None


def kills(times: int, folder: Path) -> bool:
    """Whether the file is the same, and no call was made twice but those that were out at a kill."""
    posts = folder / "posts.jsonl"
    rows = [{"id": f"p{n}", "text": f"text {n}", "image": None, "keyphrases": ["snow"]} for n in range(POSTS)]
    posts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def start(base_url: str, out: str) -> subprocess.Popen:
        flags = [f"--posts={posts}", f"--out={folder / out}", f"--base_url={base_url}", f"--model={MODEL}"]
        flags += [f"--concurrency={WIDTH}", "--price_in=2.5", "--price_out=10"]
        command = [sys.executable, "-m", "mmkp_jax.teach", *flags]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def count(pipe: Connection) -> tuple:
        pipe.send(None)
        return pipe.recv()

    with server(0.2) as (base_url, _):
        assert start(base_url, "unbroken.jsonl").wait() == 0
    draw = random.Random(0)
    with server(0.2, one_in_five) as (base_url, pipe):
        for kill in range(times):
            process = start(base_url, "killed.jsonl")
            until = (kill + draw.random()) * POSTS / times
            while count(pipe)[0] < until and process.poll() is None:
                time.sleep(0.005)
            time.sleep(draw.random() / 5)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert start(base_url, "killed.jsonl").wait() == 0
        calls, wrong, (prompt, completion), max_in_flight = count(pipe)
    same = (folder / "killed.jsonl").read_bytes() == (folder / "unbroken.jsonl").read_bytes()
    answers = [json.loads(line) for line in (folder / "killed.answers.jsonl").read_text().splitlines()]
    spent, counted = sum(row["cost"] for row in answers if "key" in row), (prompt * 2.5 + completion * 10) / 1e6
    twice = calls - wrong - POSTS
    print(
        f"kills     {times} of them: the file is {'the same' if same else 'ANOTHER'}; {twice} of {calls:,} calls made "
        f"twice, {times * WIDTH} were out at most; {max_in_flight} at a time; spent {spent:.4f}, by the server's "
        f"count {counted:.4f}, of which {counted - spent:.4f} for answers to the killed"
    )
    return same and twice <= times * WIDTH


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--kills", type=int, default=20)
    chosen = flags.parse_args()
    os.environ |= {"OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1"}
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        good = kills(chosen.kills, Path(folder))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
