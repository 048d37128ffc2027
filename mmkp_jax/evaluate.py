"""A model's answers to a split, and what they are worth: predictions, scores, baselines, and what the input is for."""

import dataclasses
import json
import random
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from mmkp_jax.assembly import DTYPES
from mmkp_jax.data.examples import Recipe
from mmkp_jax.data.posts import Record
from mmkp_jax.data.records import open_split
from mmkp_jax.evaluation.baselines import most_frequent, nearest_neighbour
from mmkp_jax.evaluation.metric import Scores, score
from mmkp_jax.evaluation.table import table
from mmkp_jax.models.definition import Definition, Params
from mmkp_jax.predicting import Prediction, predict, write_predictions

SHOWN = 5
"""Sample posts on the terminal."""

BASELINE_K = 5
"""Keyphrases that the most-frequent baseline predicts for every post."""


def evaluate(
    config: ConfigDict,
    definition: Definition,
    params: Params,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    workdir: Path,
    step: int,
) -> Scores:
    """Decodes the test split; writes `predictions/test-{step}.jsonl` and `results.json`, prints table and samples."""
    train, test = (_all_records(config.data.path, split) for split in ("train", "test"))
    test = test[: config.eval_posts or None]
    seen = {phrase for record in train for phrase in record.keyphrases}

    def answers(name: str, records: Sequence[Record]) -> list[Prediction]:
        with tqdm(total=len(records), unit="post", desc=name, dynamic_ncols=True) as bar:
            return list(
                predict(
                    definition,
                    params,
                    records,
                    recipe,
                    tokenizer,
                    batch_size=config.eval_batch_size,
                    answer_tokens=config.answer_tokens,
                    dtype=DTYPES[config.compute_dtype],
                    progress=lambda done, _: bar.update(done - bar.n),
                )
            )

    def scores_of(predicted: Sequence[Sequence[str]]) -> Scores:
        return score(test, [list(each) or [""] for each in predicted], seen)

    predictions = answers("test", test)
    write_predictions(workdir / "predictions" / f"test-{step}.jsonl", predictions)
    scores = scores_of([prediction.predicted for prediction in predictions])
    others = {
        "most frequent": scores_of([most_frequent([r.keyphrases for r in train], BASELINE_K)] * len(test)),
        "nearest neighbour": scores_of(nearest_neighbour(train, [record.text for record in test])),
    }
    changed = (
        {"pictures permuted": permute_pictures(test), "texts blanked": blank_texts(test)} if config.ablations else {}
    )
    by_input = {name: answers(name, records) for name, records in changed.items()}
    others |= {name: scores_of([each.predicted for each in found]) for name, found in by_input.items()}
    (workdir / "results.json").write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    print(table(scores, others, name=f"{config.strategy}, step {step:,}"))
    print(_forms(predictions))
    _print_samples(test, predictions)
    return scores


def permute_pictures(records: Sequence[Record], seed: int = 0) -> list[Record]:
    """Each post with another one's picture."""
    order = list(range(len(records)))
    random.Random(seed).shuffle(order)
    taken = dict(zip(order, order[1:] + order[:1], strict=True))  # a cycle: nobody keeps its own
    return [
        dataclasses.replace(
            record, image=records[taken[i]].image, width=records[taken[i]].width, height=records[taken[i]].height
        )
        for i, record in enumerate(records)
    ]


def blank_texts(records: Sequence[Record]) -> list[Record]:
    """Each post without its text."""
    return [dataclasses.replace(record, text="") for record in records]


def _all_records(path: str, split: str) -> list[Record]:
    records = open_split(path, split)
    return [records[number] for number in range(len(records))]


def _forms(predictions: Sequence[Prediction]) -> str:
    forms: dict[str, int] = {}
    for prediction in predictions:
        forms[prediction.form] = forms.get(prediction.form, 0) + 1
    shares = ", ".join(f"{100 * n / len(predictions):.1f}% {form}" for form, n in sorted(forms.items()))
    words = sum(len(prediction.output.split()) for prediction in predictions) / len(predictions)
    return f"outputs: {shares}; {words:.1f} words each"


def _print_samples(records: Sequence[Record], predictions: Sequence[Prediction]) -> None:
    for record, prediction in list(zip(records, predictions, strict=True))[:SHOWN]:
        print(f"\n{record.id}: {record.text}")
        print(f"  gold       {'; '.join(record.keyphrases)}")
        print(f"  predicted  {'; '.join(prediction.predicted) or '–'}  ({prediction.form})")
        if prediction.form != "direct":
            print(f"  output     {prediction.output}")
