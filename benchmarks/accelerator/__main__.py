"""What one short visit to a machine with a GPU shows, in one JSON file and a table for benchmarks/README.md.

    python -m benchmarks.accelerator --out=FILE.json [--size=3b] [--minutes=9] [--parts=NAME,NAME] [--revision=NAME]
    python -m benchmarks.accelerator --out=FILE.json --size=tiny        # a dry run, on any machine

Parts run in turn, each in a process of its own with a time limit; one that fails, or whose time is up, is recorded and
ends no other. `plan` runs meanwhile: it needs the processor only. `accelerator.sh` installs what is missing, and starts
this.

| part | what it shows |
| --- | --- |
| `parity` | every attention backend against the dense rule on the device, outputs and gradients |
| `steps-BACKEND` | 20 steps of the 3B's shapes with a backend: seconds, MFU, memory |
| `train` | the same job by a plain PyTorch trainer, and ours (`benchmarks/train.py`) |
| `decode` | decoding against transformers' `generate` (`benchmarks/decoding.py`) |
| `plan` | what `plan` says of the steps' memory and time |
"""

import argparse
import datetime
import json
import subprocess
import tempfile
from pathlib import Path

from benchmarks.accelerator.report import table
from benchmarks.accelerator.running import Part, run_parts

BACKENDS = ("sliced", "tokamax")

LIMITS = {"parity": 60.0, "steps": 150.0, "train": 170.0, "decode": 130.0}
"""Seconds of a part at most; also no more than is left of all minutes."""

NO_PREALLOCATION = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""For parts in which PyTorch needs the device's memory too."""

PLANNED = {"H100": "h100:1", "H200": "h200:1", "A100": "a100:1"}
"""Topologies for `plan`, by a word of the device's name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", choices=("tiny", "3b"), default="3b")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--parts", default="", help="names, separated by commas; by default all")
    parser.add_argument("--revision", default="", help="of this code, where git does not say")
    args = parser.parse_args()
    gpu = gpu_name()
    chosen = [part for part in parts_of(args.size, gpu) if not args.parts or part.name in args.parts.split(",")]
    began = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory() as folder:
        in_turn = [part for part in chosen if part.name != "plan"]
        meanwhile = [part for part in chosen if part.name == "plan"]
        results = run_parts(in_turn, meanwhile, 60 * args.minutes, Path(folder))
    whole = {"began": began, "size": args.size, "gpu": gpu, "revision": args.revision, "parts": results}
    args.out.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(f"\n{table(whole)}")


def parts_of(size: str, gpu: str | None) -> list[Part]:
    """All parts, in the order in which they run; the most important first."""
    of_size = f"--size={size}"
    few = ("--steps=2",) if size == "tiny" else ()
    dtype, strategy = ("float32", "sft") if size == "tiny" else ("bfloat16", "dyncot")
    train = (of_size, f"--dtype={dtype}", "--rounds=1", f"--strategies={strategy}")
    topology = next((name for word, name in PLANNED.items() if word in (gpu or "")), "cpu:1")
    plan = (of_size, f"--topology={topology}", f"--attention={','.join(BACKENDS)}")
    here = "benchmarks.accelerator"
    return [
        Part("parity", f"{here}.parity", (of_size,), LIMITS["parity"]),
        *(
            Part(f"steps-{name}", f"{here}.steps", (of_size, f"--attention={name}", *few), LIMITS["steps"])
            for name in BACKENDS
        ),
        Part("train", "benchmarks.train", train, LIMITS["train"], "--json", NO_PREALLOCATION),
        Part("decode", f"{here}.decode", (of_size,), LIMITS["decode"], environment=NO_PREALLOCATION),
        Part("plan", f"{here}.plans", plan, 600.0, environment={"JAX_PLATFORMS": "cpu"}),
    ]


def gpu_name() -> str | None:
    """The name of the first NVIDIA GPU; None where there is none."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return shown.stdout.strip().split("\n")[0] or None if shown.returncode == 0 else None


if __name__ == "__main__":
    main()
