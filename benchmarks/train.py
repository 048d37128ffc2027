"""Our train step against a plain trainer in PyTorch and transformers, on the same posts, weights and machine.

    python -m benchmarks.train [--size=tiny|small|3b] [--dtype=float32|bfloat16] [--rounds=N] [--posts=N]
                               [--strategies=sft,cot,dyncot] [--json=FILE]

The job is the paper's: its model's shapes (`small`: 30 M parameters for a CPU; `3b`: the 3B's own for a GPU of 80 GB),
posts of MMKP's lengths, a frozen vision tower, AdamW. Each side is a process of its own, and they run in turns, never
at the same time. Ours is the compiled step that `main` runs (`trainers/ours.py`); the other is written as a user would
(`trainers/theirs.py`): a step for each post as in the paper, or one step for all posts in padded or packed batches.
Both sides try several sizes; the best of each is timed, next to a step for each post.

Before that every post's loss is compared, in every way to run, and all tensors' gradients: each of our ways in rows
with the trainer's first. Dynamic CoT takes the γ that splits the posts in half. A figure is the median over rounds,
a ratio the median of the ratio within a round; FLOPs are those that the job needs (`models/flops.py`), the same for
both sides. On a CPU memory is the most that the process held; on a GPU what its allocator or program holds at most.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.trainers.equal import TOLERANCE, GradientError, gradient_error, loss_error
from benchmarks.trainers.job import ABOUT, SIZES, STRATEGIES, Job
from benchmarks.trainers.report import report
from benchmarks.trainers.worker import SIDES, Workers

OURS, THEIRS = SIDES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--dtype", choices=TOLERANCE, default="float32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--posts", type=int, help="posts of the job; by default as many as fit the size")
    parser.add_argument("--strategies", default=",".join(STRATEGIES), help="some of sft, cot, dyncot")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    args = parser.parse_args()
    job = Job(args.size, args.dtype, args.posts or SIZES[args.size].posts)
    with tempfile.TemporaryDirectory() as folder, Workers(Path(folder) / "model", job) as workers:
        figures = compare(workers, job, args.strategies.split(","), args.rounds, Path(folder))
    print(report(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


def compare(workers: Workers, job: Job, strategies: list[str], rounds: int, folder: Path) -> dict[str, Any]:
    """All figures: equality first, then `rounds` rounds of both sides in turn.

    Raises:
        SystemExit: losses or gradients are not equal.
    """
    figures: dict[str, Any] = {"job": f"{job.posts} posts, size {job.size}, {job.dtype}; {ABOUT}"}
    gamma, first = 0.0, {}
    for side in SIDES:
        for strategy in strategies:
            if side == OURS and strategy == "dyncot":
                gamma = splitting(workers.call(OURS, "run", "sft", workers.call(OURS, "variants", "sft")[-1])["losses"])
            workers.call(side, "set_gamma", gamma)
            first[side, strategy] = try_all(workers, side, strategy, folder)
        figures[side] = workers.call(side, "about") | {"product_peak": workers.call(side, "product_peak")}
        if side == OURS:
            needs = {s: workers.call(OURS, "needed_flops", s, any_of(first[OURS, s])["on_cot"]) for s in strategies}
            tokens = {s: workers.call(OURS, "tokens", s) for s in strategies}
    figures["gamma"] = gamma
    figures["strategies"] = {
        strategy: {
            "needed_flops": needs[strategy],
            "tokens": tokens[strategy],
            "posts": job.posts,
            "on_cot": sum(any_of(first[OURS, strategy])["on_cot"]),
            "equal": check(first[OURS, strategy], first[THEIRS, strategy], folder, strategy, job.dtype),
            "tried": {side: {way: of.get("seconds") for way, of in first[side, strategy].items()} for side in SIDES},
            "runs": {side: {way: [] for way in timed(first[side, strategy])} for side in SIDES},
        }
        for strategy in strategies
    }
    for number in range(rounds):
        for side in SIDES[:: -1 if number % 2 == 0 else 1]:  # the side that ran last runs first
            workers.call(side, "set_gamma", gamma)
            for of in figures["strategies"].items():
                time_once(workers, side, *of)
    for strategy, of in figures["strategies"].items():
        of["profile"] = workers.call(OURS, "profile", strategy, list(of["runs"][OURS])[-1])
    return figures


def try_all(workers: Workers, side: str, strategy: str, folder: Path) -> dict[str, dict[str, Any]]:
    """A run of each way of a side, after the gradients are written: of our ways in rows, and of their first."""
    variants = workers.call(side, "variants", strategy)
    for number, way in enumerate(variants):
        if (number > 0) == (side == OURS):
            workers.call(side, "gradients", strategy, way, str(gradient_folder(folder, side, strategy, way)))
        elif side == OURS:
            workers.call(side, "run", strategy, way)
    found = {way: workers.call(side, "run", strategy, way) for way in variants}
    return found


def gradient_folder(folder: Path, side: str, strategy: str, way: str) -> Path:
    """The folder of a way's gradient."""
    return folder / f"{side} {strategy} {way}".replace(" ", "_")


def check(ours: dict[str, dict], theirs: dict[str, dict], folder: Path, strategy: str, dtype: str) -> dict[str, Any]:
    """The largest errors of losses and gradients.

    Raises:
        SystemExit: they are too large.
    """
    reference_way, reference = next(iter(theirs.items()))
    runs = {way: of for way, of in {**ours, **theirs}.items() if "failed" not in of}
    for way, of in runs.items():
        if list(of["on_cot"]) != list(reference["on_cot"]):
            raise SystemExit(f"{strategy}, {way}: other posts are on their CoT targets than in {reference_way}")
    losses = {way: loss_error(of["losses"], reference["losses"]) for way, of in runs.items()}
    where = gradient_folder(folder, THEIRS, strategy, reference_way)
    gradients: dict[str, GradientError] = {
        way: gradient_error(gradient_folder(folder, OURS, strategy, way), where) for way in list(ours)[1:]
    }
    worst = max(gradients.values(), key=lambda error: error.worst)
    of_losses, of_gradients = TOLERANCE[dtype]
    if max(losses.values()) > of_losses:
        raise SystemExit(f"{strategy}: losses are not equal: {losses}")
    if worst.worst > of_gradients:
        raise SystemExit(f"{strategy}: gradients are not equal: {worst}")
    return {"losses": max(losses.values()), "gradient": worst._asdict(), "ways": len(losses)}


def timed(tried: dict[str, dict[str, Any]]) -> list[str]:
    """The ways to time: the first, which is a step for each post, and the best."""
    done = {way: of["seconds"] for way, of in tried.items() if "failed" not in of}
    return list(dict.fromkeys([next(iter(tried)), min(done, key=done.__getitem__)]))


def any_of(tried: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The last run of some."""
    return list(tried.values())[-1]


def time_once(workers: Workers, side: str, strategy: str, of: dict[str, Any]) -> None:
    """Adds a run of each way of a side that is timed."""
    for way, runs in of["runs"][side].items():
        run = workers.call(side, "run", strategy, way)
        runs.append({name: run[name] for name in ("seconds", "memory")})


def splitting(losses: list[float]) -> float:
    """A threshold that splits the losses about in half: in the widest gap near their median."""
    losses, n = sorted(losses), len(losses)
    widest = max(range(3 * n // 8, max(3 * n // 8 + 1, 5 * n // 8)), key=lambda i: losses[i + 1] - losses[i])
    return (losses[widest] + losses[widest + 1]) / 2


if __name__ == "__main__":
    main()
