"""Decoding against `generate`: makes a pocket, and a model of the 3B's shapes for it, then runs `benchmarks.decoding`.

    python -m benchmarks.accelerator.decode --size=tiny|3b --notes=FILE

The 3B's weights are random and bfloat16: no answer means anything, so the two sides' tokens part where two nearly tie,
and the figure of answers that differ is only reported. Each answer's number of tokens is given, the same on both sides.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

from benchmarks import decoding
from benchmarks.trainers.job import SIZES, random_weights
from mmkp_jax.families.registry import define
from mmkp_jax.hf.folder import CONFIG
from mmkp_jax.hf.save import save_params
from mmkp_jax.models.definition import flatten, unflatten
from mmkp_jax.pocket.make import make_pocket

FLAGS = {
    "tiny": ["--posts=4", "--slots=2", "--max_tokens=6", "--transformers=4"],
    "3b": ["--posts=128", "--slots=64", "--max_tokens=256", "--transformers=64,128"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=FLAGS, required=True)
    parser.add_argument("--notes", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pocket, flags = Path(folder) / "pocket", [*FLAGS[args.size], "--rounds=1", "--mixes=1", "--one_process"]
        make_pocket(pocket, sizes={"train": int(flags[0].partition("=")[2]), "valid": 4, "test": 4})
        if args.size != "tiny":
            write_model(pocket / "model", args.size, Path(folder) / "model")
            flags += [f"--model={folder}/model", "--differ=1"]
        decoding.main([*flags, f"--pocket={pocket}", f"--json={args.notes}"])


def write_model(pocket: Path, size: str, out: Path) -> None:
    """Writes a model of a size's shapes, with random bfloat16 weights, and the tokenizer of pocket's."""
    ours, theirs = json.loads((pocket / CONFIG).read_text(encoding="utf-8")), SIZES[size].published
    shapes = {name: value for name, value in theirs.items() if not name.endswith("token_id")}
    tower = ours["vision_config"] | theirs["vision_config"]
    published = ours | shapes | {"vision_config": tower, "torch_dtype": "bfloat16"}
    sizes = {path: leaf.shape for path, leaf in flatten(define(published).shapes()).items()}
    save_params(unflatten(random_weights(sizes, 0)), published, out, np.dtype(ml_dtypes.bfloat16))
    for file in pocket.iterdir():
        if not (out / file.name).exists() and file.suffix != ".safetensors":
            shutil.copy(file, out)


if __name__ == "__main__":
    main()
