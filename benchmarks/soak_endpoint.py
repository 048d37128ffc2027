"""`teach` on an endpoint that does everything that an endpoint can do, killed with SIGKILL at random moments.

    python -m benchmarks.soak_endpoint [--posts=600] [--kills=10]

Each post meets one kind of `tests.support.teacher_posts.HOSTILE`, in turn. It prints what became of the posts, how
often one was asked after its answer was on the disk, and what was counted as spent against the server's own count;
the exit status is 1 where a post came out otherwise than it must, one was asked again, or less was counted than was
charged.
"""

import argparse
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
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.machine import describe_machine
from mmkp_jax.teacher.cost import Usage
from mmkp_jax.teacher.store import Store
from tests.support.fake_endpoint import MODEL, FakeEndpoint
from tests.support.teacher_posts import HOSTILE, PRICES, hostile, hostile_kind, post_number

WIDTH = 16
TRIES = 20
"""Starts after the last kill: a redirect before anything is answered ends a run, as it must."""


def serve(pipe: Connection) -> None:
    """The endpoint, in a process of its own; sends (number of the post, tokens or None, whether they were reported) of
    every call that there was when it is sent anything.
    """
    with FakeEndpoint(fault=hostile, delay=0.1) as endpoint:
        pipe.send(endpoint.base_url)
        while True:
            pipe.recv()
            calls = list(endpoint.calls)
            usages = [endpoint._usage(call.body) if call.tokens else None for call in calls]
            tokens = [each and (each["prompt_tokens"], each["completion_tokens"]) for each in usages]
            pipe.send([(post_number(call.text), n, call.reported) for call, n in zip(calls, tokens, strict=True)])


def soak(posts: int, kills: int, folder: Path) -> bool:
    """Whether everything came out as it must."""
    file, store = folder / "posts.jsonl", folder / "cot.answers.jsonl"
    rows = [{"id": f"p{n}", "text": f"text {n}", "image": None, "keyphrases": ["snow"]} for n in range(posts)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    server = context.Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    base_url = pipe.recv()

    def start() -> subprocess.Popen:
        flags = [f"--posts={file}", f"--out={folder / 'cot.jsonl'}", f"--base_url={base_url}", f"--model={MODEL}"]
        flags += [f"--concurrency={WIDTH}", f"--price_in={PRICES.input}", f"--price_out={PRICES.output}"]
        flags += ["--timeout=3", "--max_tokens=100"]
        command = [sys.executable, "-m", "mmkp_jax.teach", *flags]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def calls() -> list[tuple]:
        pipe.send(None)
        return pipe.recv()

    def durable() -> set[int]:
        lines = store.read_bytes().splitlines(keepends=True) if store.exists() else []
        found = [json.loads(line) for line in lines if line.endswith(b"\n")]
        return {int(row["id"][1:]) for row in found if "key" in row}

    draw, again, statuses = random.Random(0), 0, []
    done, asked = set[int](), 0

    def check() -> None:
        nonlocal done, asked, again
        made = calls()
        again += sum(number in done for number, *_ in made[asked:])
        done, asked = durable(), len(made)

    begin = time.perf_counter()
    for kill in range(kills):
        process, until = start(), (kill + draw.random()) * posts * 1.3 / kills
        while len(calls()) < until and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.random() / 5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        check()
    while len(statuses) < TRIES and (not statuses or statuses[-1] == 2):
        statuses.append(start().wait())
        check()
    seconds = time.perf_counter() - begin
    made = calls()
    server.kill()
    return report(posts, kills, store, made, statuses, again, seconds)


def report(
    posts: int, kills: int, file: Path, made: list[tuple], statuses: list[int], again: int, seconds: float
) -> bool:
    """Prints how it went; whether it went as it must."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = {row["id"]: row["status"] for row in rows if "key" in row}
    wrong = [n for n in range(posts) if found.get(f"p{n}") != HOSTILE[hostile_kind(n)]]
    reported = Counter(number for number, tokens, reported in made if tokens and reported)
    known = Counter(int(row["id"][1:]) for row in rows if row.get("usage"))
    unread = sum((reported - known).values())

    def money(chosen: list[tuple]) -> float:
        return sum(PRICES.cost(Usage(*tokens)) for _, tokens, _ in chosen if tokens)

    charged, one = money(made), {number: PRICES.cost(Usage(*tokens)) for number, tokens, _ in made if tokens}
    missing = sum(one[number] * count for number, count in (reported - known).items())
    with Store(file) as store:
        spent, most = store.spent, PRICES.cost(store.unpriced_tokens)
        killed, implausible = store.killed, store.implausible
    exact = abs(spent + missing - money([each for each in made if each[2]])) < 1e-9
    good = not (wrong or again or known - reported) and exact and unread <= killed and spent + most >= charged
    good &= statuses[-1] == 0
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    print(
        f"posts     {posts:,}, {kills} kills, {len(made):,} calls, {seconds:.0f} s; statuses after the last kill "
        f"{statuses}; {len(HOSTILE)} kinds; peak of a process {peak:.0f} MB\n"
        f"outcomes  {dict(Counter(found.values()).most_common())}; otherwise than it must: {len(wrong)} {wrong[:5]}\n"
        f"again     {again} calls for posts whose answer was on the disk\n"
        f"money     the server charged {charged:.6f} in all, of which {money([e for e in made if e[2]]):.6f} with a "
        f"plausible usage\n"
        f"          counted {spent:.6f} as reported + at most {most:.6f} for {killed} calls in flight at kills, "
        f"{implausible} answers with an implausible usage, and failed calls\n"
        f"          reported and not on the disk: {missing:.6f} of {unread} answers sent to the killed; the rest is "
        f"{'EQUAL' if exact else 'NOT EQUAL'} to the server's count; in all "
        f"{'never below' if spent + most >= charged else 'BELOW'} it"
    )
    return good


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--posts", type=int, default=600)
    flags.add_argument("--kills", type=int, default=10)
    chosen = flags.parse_args()
    os.environ |= {"OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1"}
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        good = soak(chosen.posts, chosen.kills, Path(folder))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
