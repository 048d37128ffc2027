"""One process of two: plans for itself, loads its part, and tells which posts it saw, in which order.

python -m tests.support.one_of_two PORT NUMBER FOLDER DATASETS
"""

import json
import sys
from pathlib import Path

import jax

from mmkp_jax.data.examples import Recipe, measured_tree
from mmkp_jax.data.forest import TRUNK, Forest
from mmkp_jax.data.pipeline import batches
from mmkp_jax.data.size_index import Records
from mmkp_jax.training.batches import plan_posts
from tests.data.test_mixing import config_of
from tests.support.posts_on_disk import tiny_recipe


def posts_in(forest: Forest, number_of: dict[tuple[int, ...], int]) -> list[int]:
    """The numbers of the posts in a batch, identified by their prompts."""
    found = []
    for token_T, segment_T, branch_T in zip(forest.token_BT, forest.segment_BT, forest.branch_BT, strict=True):
        for segment in range(1, segment_T.max() + 1):
            trunk_T = (segment_T == segment) & (branch_T == TRUNK)
            found.append(number_of[tuple(token_T[trunk_T].tolist())])
    return found


def by_prompt(records: Records, recipe: Recipe) -> dict[tuple[int, ...], int]:
    """Each post's number by its prompt but the last token; no two are alike."""
    numbers = {tuple(measured_tree(records[n], recipe).prompt[:-1].tolist()): n for n in range(len(records))}
    assert len(numbers) == len(records)
    return numbers


def main() -> None:
    port, process, folder, datasets = sys.argv[1:]
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(process))
    mine = {"host": jax.process_index(), "hosts": jax.process_count(), "workers": 1}
    recipe = tiny_recipe(Path(folder) / f"tokenizer-{process}")
    training = plan_posts(config_of(datasets), recipe)
    records = training.feed.records
    number_of = by_prompt(records, recipe)
    trained = [posts_in(forest, number_of) for _, forest in batches(training.feed, training.plans, **mine)]
    reported = {
        "hosts": mine["hosts"],
        "steps": list(map(len, training.plans)),
        "plan": [list(plan) for plan in training.plans],
        "trained": trained,
    }
    (Path(folder) / f"{process}.json").write_text(json.dumps(reported))


if __name__ == "__main__":
    main()
