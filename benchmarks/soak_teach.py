"""What the teacher's client costs, and whether it holds: rate, overhead, memory, and kills, on a server on loopback.

    python -m benchmarks.soak_teach [--rate=4000] [--posts=50000] [--kills=20]

- rate: calls a second of 1 s each, 256 at a time, against the 256 a second that no client can pass;
- overhead: processor time of this process for a call that is answered at once, against the bare SDK's;
- memory: of this process after so many posts, against after a tenth of them;
- kills: `teach` killed with SIGKILL at random moments, a fifth of its calls going wrong; then the file against an
  unbroken run's, calls that were made twice, and money against the server's own count.

The server runs in a process of its own.
"""

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import openai

from benchmarks.machine import describe_machine
from mmkp_jax.data.posts import Post
from mmkp_jax.teacher.asking import Run, ask_all
from mmkp_jax.teacher.client import CHAT, Endpoint, Limits
from mmkp_jax.teacher.questions import PostRecords
from mmkp_jax.teacher.store import Store
from mmkp_jax.teacher.teaching import Job
from mmkp_jax.teacher.templates import EXPLAIN
from tests.fake_endpoint import FAULTS, MODEL, FakeEndpoint

WIDTH = 256
KILLED_POSTS, KILLED_WIDTH = 2_000, 32


def one_in_five(said: str, attempt: int) -> str | None:
    """What goes wrong at a post's first attempt."""
    drawn = random.Random(said)
    kinds = [each for each in FAULTS if each != "hang"]
    return drawn.choice(kinds) if attempt == 1 and drawn.random() < 0.2 else None


@contextlib.contextmanager
def server(delay: float, *, faulty: bool = False) -> Iterator[tuple[str, Connection]]:
    """Its address, and a pipe over which it sends its count when it is sent anything."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, delay, faulty), daemon=True)
    process.start()
    try:
        yield ours.recv(), ours
    finally:
        process.kill()


def serve(pipe: Connection, delay: float, faulty: bool) -> None:
    with FakeEndpoint(delay=delay, **({"fault": one_in_five} if faulty else {})) as endpoint:
        pipe.send(endpoint.base_url)
        while True:
            pipe.recv()
            calls = endpoint.calls
            pipe.send((len(calls), sum(call.fault is not None for call in calls), endpoint.tokens(), endpoint.most_out))


def ask(
    base_url: str, posts: int, width: int, store_file: Path, progress: Callable[[Run], None] = lambda run: None
) -> Run:
    job = Job(Endpoint(base_url, MODEL, {"max_tokens": 100}), EXPLAIN)
    records = PostRecords([Post(f"p{n}", f"text {n}", None, ("snow",)) for n in range(posts)], None)
    with Store(store_file) as store:
        return ask_all(posts, job.question_of(records), job.endpoint, store, limits=Limits(width), progress=progress)


def bare(base_url: str, posts: int) -> None:
    """The same calls, one by one at a time, by the SDK alone."""

    async def run() -> None:
        async with openai.AsyncOpenAI(base_url=base_url, max_retries=0) as sdk:
            for n in range(posts):
                body = {"model": MODEL, "messages": EXPLAIN.messages({"keyphrases": "snow", "text": f"text {n}"}, None)}
                await sdk.post(CHAT, cast_to=str, body=body)

    asyncio.run(run())


def rate(calls: int, folder: Path) -> None:
    times: list[float] = []
    with server(1.0) as (base_url, _):
        start = time.perf_counter()
        ask(base_url, calls, WIDTH, folder / "rate", lambda run: times.append(time.perf_counter() - start))
    steady = times[4 * WIDTH : -WIDTH]  # without the first calls, which go out by ones and twos, and the last
    found = (len(steady) - 1) / (steady[-1] - steady[0])
    print(
        f"rate      {found:6.0f} calls/s at {WIDTH} calls of 1 s, {found / WIDTH:.1%} of the most there can be; ",
        end="",
    )
    print(f"{times[4 * WIDTH]:.0f} s until the first {4 * WIDTH:,} answers")


def overhead(calls: int, folder: Path) -> None:
    with server(0.0) as (base_url, _):
        bare(base_url, 100)
        times = []
        for work in (lambda: ask(base_url, calls, 1, folder / "overhead"), lambda: bare(base_url, calls)):
            start = time.process_time()
            work()
            times.append((time.process_time() - start) / calls * 1e3)
    print(f"overhead  {times[0]:6.2f} ms of processor time a call, the answer on disk; the bare SDK {times[1]:.2f} ms")


def memory(posts: int, folder: Path) -> None:
    found = []
    with server(0.0) as (base_url, _):
        for count in (posts // 10, posts):
            ask(base_url, count, 64, folder / "memory")
            found.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print(f"memory    {found[1]:6.0f} MB at most for {posts:,} posts, {found[0]:.0f} MB for {posts // 10:,}")


def kills(times: int, folder: Path) -> None:
    posts = folder / "posts.jsonl"
    rows = [{"id": f"p{n}", "text": f"text {n}", "image": None, "keyphrases": ["snow"]} for n in range(KILLED_POSTS)]
    posts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def start(base_url: str, out: str) -> subprocess.Popen:
        flags = [f"--posts={posts}", f"--out={folder / out}", f"--base_url={base_url}", f"--model={MODEL}"]
        flags += [f"--concurrency={KILLED_WIDTH}", "--price_in=2.5", "--price_out=10"]
        command = [sys.executable, "-m", "mmkp_jax.teach", *flags]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def count(pipe: Connection) -> tuple:
        pipe.send(None)
        return pipe.recv()

    with server(0.2) as (base_url, _):
        assert start(base_url, "unbroken.jsonl").wait() == 0
    draw = random.Random(0)
    with server(0.2, faulty=True) as (base_url, pipe):
        for kill in range(times):
            process = start(base_url, "killed.jsonl")
            until = (kill + draw.random()) * KILLED_POSTS / times
            while count(pipe)[0] < until and process.poll() is None:
                time.sleep(0.005)
            time.sleep(draw.random() / 5)
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert start(base_url, "killed.jsonl").wait() == 0
        calls, wrong, (prompt, completion), most_out = count(pipe)
    same = (folder / "killed.jsonl").read_bytes() == (folder / "unbroken.jsonl").read_bytes()
    answers = [json.loads(line) for line in (folder / "killed.answers.jsonl").read_text().splitlines()]
    spent, counted = sum(row["cost"] for row in answers), (prompt * 2.5 + completion * 10) / 1e6
    twice = calls - wrong - KILLED_POSTS
    print(
        f"kills     {times} of them: the file is {'the same' if same else 'ANOTHER'}; {twice} of {calls:,} calls made "
        f"twice, {times * KILLED_WIDTH} were out at most; {most_out} at a time; spent {spent:.4f}, by the server's "
        f"count {counted:.4f}, of which {counted - spent:.4f} for answers to the killed"
    )


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rate", type=int, default=4_000, help="calls; 0 for none, as for the others")
    flags.add_argument("--overhead", type=int, default=1_000)
    flags.add_argument("--posts", type=int, default=50_000)
    flags.add_argument("--kills", type=int, default=20)
    chosen = flags.parse_args()
    os.environ |= {"OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1"}
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        for work, size in (
            (rate, chosen.rate),
            (overhead, chosen.overhead),
            (memory, chosen.posts),
            (kills, chosen.kills),
        ):
            if size:
                work(size, Path(folder))


if __name__ == "__main__":
    main()
