"""Runs of `benchmarks.strategies` as their files leave them, where every answer is known."""

import json

from benchmarks.systems import STAGED
from mmkp_jax.data.posts import Post
from mmkp_jax.evaluation.metric import PROTOCOL
from mmkp_jax.runtime.baseline_fields import TASKS
from mmkp_jax.runtime.config import read_config

POSTS = [
    Post(f"test-{number}", f"post {number} of a dog", None, (keyphrase,), None, "f", number)
    for number, keyphrase in enumerate(["a dog", "a cat"] * 4, start=1)
]


def config_of(job):
    """The run's config, as its command gives it; of a staged one, that of its second half."""
    if job.system == STAGED:
        job = job._replace(system="cot")
    _, _, _, config, *overrides, _ = job.command()
    return read_config(config.removeprefix("--config="), overrides, tasks=TASKS).to_dict()


def complete(job, right):
    """Leaves a run's folder, with all or none of the posts answered right."""
    (job.workdir / "predictions").mkdir(parents=True)
    said = {"output": "one two three", "form": "direct"} if right else {"output": "one", "form": "broken"}
    rows = [
        {"id": post.id, "keyphrases": post.keyphrases, "predicted": post.keyphrases if right else [], **said}
        for post in POSTS
    ]
    steps = [{"step": n, "posts": 2, "labels": 500, "cot_share": 0.25} for n in range(1, 8)]
    write_lines(job.workdir / "predictions" / "test-7.jsonl", rows)
    write_lines(job.workdir / "metrics.jsonl", [] if job.system == "zeroshot" else steps)
    (job.workdir / "config.json").write_text(json.dumps(config_of(job)))
    (job.workdir / "contents.json").write_text(json.dumps({"model.path": "the student", "data.path": "the posts"}))
    (job.workdir / "results.json").write_text("{}")


def write_modes(job, direct_right):
    """Leaves predictions with each mode: direct answers right on that many of the first posts, chains on the others."""
    for mode, file in job.files.items():
        first = mode == "direct"
        rows = [
            {"id": post.id, "keyphrases": post.keyphrases, "form": "direct", "mode": mode}
            | {"output": "a" if first else "<think>why not"}
            | {"predicted": post.keyphrases if (n < direct_right) == first else ["no"]}
            for n, post in enumerate(POSTS)
        ]
        write_lines(file, rows)


def write_kinds(job, f1_of):
    """Leaves F1@1 by kind of keyphrase, of the run's model and of a baseline that is nothing to it."""

    def scores(f1):
        return {"n": 3} | dict.fromkeys(PROTOCOL, 0.0) | {"f1@1": f1}

    by_kind = {"nearest neighbour": dict.fromkeys(f1_of, scores(1.0)), "a model, step 7": {}}
    by_kind["a model, step 7"] = {kind: scores(f1) for kind, f1 in f1_of.items()}
    (job.workdir / "comparisons.json").write_text(json.dumps({"by_kind": by_kind}))


def write_lines(file, rows):
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def row_of(shown, table, name):
    """What stands behind the name in a table's row."""
    rows = shown.split(table)[1].split("\n\n")[0].split("\n")
    return next(row for row in map(str.strip, rows) if row.startswith(name)).removeprefix(name).split()
