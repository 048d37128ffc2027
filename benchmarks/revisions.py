"""Two revisions' train steps on the same posts, weights and machine, in one interleaved run.

    python -m benchmarks.revisions BEFORE [AFTER] [--size=tiny|small|3b] [--dtype=float32|bfloat16] [--rounds=N]
                                   [--posts=N] [--strategies=sft,cot,dyncot] [--json=FILE]

`AFTER` is the working tree if it is left out. The package is each revision's own, from git; the job and its clock are
this checkout's (`trainers/ours.py`), so a revision whose config or setup they do not know ends with its error. Each is
a process, and they run in turns. Losses of every post are compared first, and gradients of the ways in rows. A figure
is the median over rounds, a ratio the median of the ratio within a round, with its least and its largest.
"""

import argparse
import io
import json
import statistics
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.train import gradient_folder, splitting
from benchmarks.trainers.equal import TOLERANCE, gradient_error, loss_error
from benchmarks.trainers.job import SIZES, STRATEGIES, Job
from benchmarks.trainers.worker import Worker

ROOT = Path(__file__).parents[1]
PACKAGES = ("mmkp_jax", "configs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before")
    parser.add_argument("after", nargs="?")
    parser.add_argument("--size", choices=[name for name, size in SIZES.items() if size.together], default="small")
    parser.add_argument("--dtype", choices=TOLERANCE, default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--posts", type=int)
    parser.add_argument("--strategies", default=",".join(STRATEGIES))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    job = Job(args.size, args.dtype, args.posts or SIZES[args.size].posts)
    with tempfile.TemporaryDirectory() as folder:
        figures = compare(args.before, args.after, job, args.strategies.split(","), args.rounds, Path(folder))
    print(report(figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


def compare(
    before: str, after: str | None, job: Job, strategies: list[str], rounds: int, folder: Path
) -> dict[str, Any]:
    """Seconds of all ways of both revisions, interleaved, after their losses and gradients are found equal.

    Raises:
        SystemExit: git does not know a revision, or losses or gradients are not equal.
    """
    roots = {"before": lay_out(before, folder / "before"), "after": lay_out(after, folder / "after")}
    workers: dict[str, Worker] = {}
    try:
        for name, root in roots.items():
            workers[name] = Worker("ours", folder / "model", job, name, root)
            sft = workers[name].call(
                "run", "sft", workers[name].call("variants", "sft")[-1]
            )  # the first writes the model
        for worker in workers.values():
            worker.call("set_gamma", splitting(sft["losses"]))
        return {
            "names": {"before": name_of(before), "after": name_of(after)},
            "machine": workers["after"].call("about")["machine"],
            "job": f"{job.posts} posts, size {job.size}, {job.dtype}",
            "strategies": {strategy: _compare(workers, job, strategy, rounds, folder) for strategy in strategies},
        }
    finally:
        for worker in workers.values():
            worker.close()


def lay_out(revision: str | None, folder: Path) -> Path:
    """A folder with a revision's package, or the working tree's, and this checkout's benchmarks.

    Raises:
        SystemExit: git does not know the revision.
    """
    folder.mkdir()
    own = ["benchmarks"] if revision else ["benchmarks", *PACKAGES]
    for name in own:
        (folder / name).symlink_to(ROOT / name)
    if revision is None:
        return folder
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", revision, *PACKAGES], capture_output=True)
    if archive.returncode:
        raise SystemExit(archive.stderr.decode().strip())
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


def name_of(revision: str | None) -> str:
    """A revision's short name; the working tree's says whether it is changed."""
    asked = (
        ["describe", "--always", "--dirty"] if revision is None else ["rev-parse", "--short", f"{revision}^{{commit}}"]
    )
    shown = subprocess.run(["git", "-C", str(ROOT), *asked], capture_output=True, text=True)
    return shown.stdout.strip() or (revision or "the working tree")


def _compare(workers: dict[str, Worker], job: Job, strategy: str, rounds: int, folder: Path) -> dict[str, Any]:
    variants = workers["after"].call("variants", strategy)
    of_losses, of_gradients = TOLERANCE[job.dtype]
    errors: dict[str, dict[str, float]] = {}
    for number, way in enumerate(variants):
        folders = {name: gradient_folder(folder, name, strategy, way) for name in workers}
        if number:  # in rows
            runs = [worker.call("gradients", strategy, way, str(folders[name])) for name, worker in workers.items()]
        else:
            runs = [worker.call("run", strategy, way) for worker in workers.values()]
        errors[way] = {"losses": loss_error(runs[1]["losses"], runs[0]["losses"])}
        if errors[way]["losses"] > of_losses or runs[0]["on_cot"] != runs[1]["on_cot"]:
            raise SystemExit(f"{strategy}, {way}: losses are not equal: {errors[way]}")
        if number:
            error = gradient_error(folders["after"], folders["before"])
            errors[way]["gradients"] = error.worst
            if error.worst > of_gradients:
                raise SystemExit(f"{strategy}, {way}: gradients are not equal: {error}")
    runs = {way: {name: [] for name in workers} for way in variants}
    for number in range(rounds):
        for way in variants:
            for name in list(workers)[:: -1 if number % 2 else 1]:
                run = workers[name].call("run", strategy, way)
                runs[way][name].append({key: run[key] for key in ("seconds", "memory")})
    return {"posts": job.posts, "errors": errors, "runs": runs}


def report(figures: dict[str, Any]) -> str:
    """The figures as Markdown."""
    before, after = figures["names"].values()
    lines = [figures["machine"], figures["job"], ""]
    lines.append(f"| posts/s | {before} | {after} | {after} over {before} | losses equal to | gradients | GB |")
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for strategy, of in figures["strategies"].items():
        for way, runs in of["runs"].items():
            seconds = {name: [run["seconds"] for run in each] for name, each in runs.items()}
            ratios = sorted(a / b for a, b in zip(*seconds.values(), strict=True))
            speeds = [f"{of['posts'] / statistics.median(each):.2f}" for each in seconds.values()]
            memory = [max(run["memory"] or 0 for run in each) / 1e9 for each in runs.values()]
            error = of["errors"][way]
            gradients = f"{error['gradients']:.0e}" if "gradients" in error else ""
            lines.append(
                f"| {STRATEGIES[strategy]}, {way} | {' | '.join(speeds)} | {statistics.median(ratios):.3f} "
                f"({ratios[0]:.3f} to {ratios[-1]:.3f}) | {error['losses']:.0e} | {gradients} | "
                f"{memory[0]:.2f}, {memory[1]:.2f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
