"""What the teacher's client costs, on a server on loopback that runs in a process of its own.

    python -m benchmarks.teacher [--rate=4000] [--overhead=1000] [--posts=50000]

- rate: calls a second of 1 s each, 256 at a time, against the 256 a second that no client can pass;
- overhead: processor time of this process for a call that is answered at once, against the bare SDK's;
- memory: of this process along so many posts, and what it keeps of each.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import openai

from benchmarks.machine import describe_machine
from mmkp_jax.data.numbered import records_of
from mmkp_jax.data.posts import Post
from mmkp_jax.teacher.asking import ask_all
from mmkp_jax.teacher.client import CHAT
from mmkp_jax.teacher.endpoint import Endpoint, Limits
from mmkp_jax.teacher.progress import AskState
from mmkp_jax.teacher.store import Store
from mmkp_jax.teacher.teaching import Job
from mmkp_jax.teacher.templates import EXPLAIN
from tests.support.fake_endpoint import MODEL, FakeEndpoint

WIDTH = 256
PAGE = os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def server(delay: float, fault: Callable[[str, int], str | None] | None = None) -> Iterator[tuple[str, Connection]]:
    """Its address, and a pipe over which it sends its count when it is sent anything.

    Args:
        fault: as of `FakeEndpoint`; a function of a module.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, delay, fault), daemon=True)
    process.start()
    try:
        yield ours.recv(), ours
    finally:
        process.kill()


def serve(pipe: Connection, delay: float, fault: Callable[[str, int], str | None] | None) -> None:
    with FakeEndpoint(delay=delay, **({"fault": fault} if fault else {})) as endpoint:
        pipe.send(endpoint.base_url)
        while True:
            pipe.recv()
            calls = endpoint.calls
            pipe.send(
                (len(calls), sum(call.fault is not None for call in calls), endpoint.tokens(), endpoint.max_in_flight)
            )


def ask(
    base_url: str, posts: int, width: int, store_file: Path, progress: Callable[[AskState], None] = lambda run: None
) -> AskState:
    job = Job(Endpoint(base_url, MODEL, {"max_tokens": 100}), EXPLAIN)
    records = records_of([Post(f"p{n}", f"text {n}", None, ("snow",)) for n in range(posts)], None)
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
        f"rate      {found:6.0f} calls/s at {WIDTH} calls of 1 s, {found / WIDTH:.1%} of the most there can be; "
        f"{times[4 * WIDTH]:.0f} s until the first {4 * WIDTH:,} answers"
    )


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
    resident: dict[int, float] = {}  # MB, by answers

    def record(run: AskState) -> None:
        if run.done % (posts // 10) == 0:
            resident[run.done] = int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6

    with server(0.0) as (base_url, _):
        ask(base_url, posts, 64, folder / "memory", record)
    first, last = resident[posts // 10], resident[posts]
    each = (last - first) * 1e6 / (posts - posts // 10)
    print(f"memory    {first:6.0f} MB at {posts // 10:,} answers, {last:.0f} MB at {posts:,}: {each:.0f} bytes a post")


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rate", type=int, default=4_000, help="calls; 0 for none, as for the others")
    flags.add_argument("--overhead", type=int, default=1_000)
    flags.add_argument("--posts", type=int, default=50_000)
    chosen = flags.parse_args()
    os.environ |= {"OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1"}
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        for work, size in ((rate, chosen.rate), (overhead, chosen.overhead), (memory, chosen.posts)):
            if size:
                work(size, Path(folder))


if __name__ == "__main__":
    main()
