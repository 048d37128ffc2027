"""The train step that is measured: a config, its model's `config.json`, and rows of posts of MMKP's lengths."""

from typing import Any, NamedTuple

from ml_collections import ConfigDict

from benchmarks.trainers.job import SIZES, STILL, Job, share_out, smallest
from configs import dyncot
from mmkp_jax.data.forest import Forest, RowSize, Tree, map_arrays, pack_rows, tree_size
from mmkp_jax.families.registry import define
from mmkp_jax.models.definition import Definition
from mmkp_jax.models.family import Work
from mmkp_jax.models.flops import work_of
from mmkp_jax.runtime.config import default_config
from mmkp_jax.training.batches import complete_config, image_processor

POSTS = {"tiny": 4, "3b": 90}
"""Posts that are made; of the 3B's, as many as its rows hold are packed."""


class StepJob(NamedTuple):
    """All that a step is compiled and run from."""

    config: ConfigDict
    published: dict[str, Any]
    definition: Definition
    row: RowSize
    batch: Forest
    """Rows [A, B, ...] of a step, numpy arrays."""
    posts: int
    work: Work
    """What the step must compute."""


def step_job(size: str, attention: str) -> StepJob:
    """The job by size: `3b` is the preset `model=qwen2_5_vl_3b,mesh=h100_1` with Dynamic CoT, `tiny` runs anywhere."""
    published = SIZES[size].published
    definition = define(published)
    trees = Job(size, "bfloat16", POSTS[size]).trees()
    if size == "tiny":
        config = default_config()
        rows = [[trees[i] for i in row] for row in share_out(trees, 2)]
        row = smallest(rows, Job(size, "bfloat16", 1).processor)
        config.update(global_batch_size=2, accumulation_steps=2, strategy="dyncot", total_steps=1000)
        config.row.update(tokens=row.tokens, labels=row.labels, examples=row.examples)
        config.row.images.update(row.images)
        config = complete_config(config, definition, {})
    else:
        config = complete_config(dyncot.get_config(f"model=qwen2_5_vl_{size},mesh=h100_1"), definition, {})
        row = RowSize(config.row.tokens, config.row.labels, config.row.examples, dict(config.row.images))
        rows = first_fit(trees, row, config.global_batch_size, image_processor(config, definition), config)
    config.update(learning_rate=STILL, attention=attention, total_steps=1_000_000)
    processor = image_processor(config, definition)
    forest = pack_rows(rows, row, processor)
    batch = map_arrays(lambda a: a.reshape(config.accumulation_steps, -1, *a.shape[1:]), forest)
    return StepJob(config, published, definition, row, batch, sum(map(len, rows)), work_of(forest, processor))


def first_fit(trees: list[Tree], row: RowSize, rows: int, processor: Any, config: ConfigDict) -> list[list[Tree]]:
    """Each tree in the first of so many rows that has room for it; trees that fit none are left out."""
    room = [dict(row.slots()) for _ in range(rows)]
    packed: list[list[Tree]] = [[] for _ in range(rows)]
    for tree in trees:
        needs = tree_size(tree, processor).slots()
        if needs["tokens"] > config.row.tree_tokens:
            continue
        for left, into in zip(room, packed, strict=True):
            if all(left[name] >= needs[name] for name in left):
                into.append(tree)
                left |= {name: left[name] - needs[name] for name in left}
                break
    return packed
