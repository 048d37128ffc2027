"""Every field of an experiment in one table: default, range, unit, source, and whether a resumed run may change it.

`configs/base.py`, the checks of a config, what may differ on resume, the notes on settings without effect,
`main --help` and `docs/config.md` come from it (`python -m mmkp_jax.runtime.fields > docs/config.md`). Plain data with
no heavy imports; `choices` name what other modules implement, and a test compares the two.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmkp_jax.runtime.baseline_fields import BASELINE_FIELDS
from mmkp_jax.runtime.field_types import (
    CONTENT,
    LENGTH,
    MAY_DIFFER,
    OURS,
    PAPER,
    Field,
    Section,
)
from mmkp_jax.runtime.lora_fields import LORA
from mmkp_jax.runtime.needs import TRAINS, UNADAPTED, VALIDATED
from mmkp_jax.runtime.strategy_fields import STRATEGY

MESH_AXES = ("data", "fsdp", "tensor")
"""Mesh axes: copies of the model; shards that see different rows; shards that see the same rows."""

DEFAULT_RULES: Mapping[str, str | None] = {
    "layers": None,
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "vision_embed": "fsdp",
    "vision_heads": None,  # q, k and v are one tensor there: sharded, each device would get different parts of each
    "vision_mlp": "tensor",
}
"""Mesh axes by parameter axes."""

DTYPE_NAMES = ("float32", "bfloat16")


MODEL_AND_DATA = (
    Field(
        "task",
        "vlm",
        "which list of fields the config has: this one, or that of baselines",
        choices=("vlm",),
        before="vlm",
    ),
    Field("model.path", "Qwen/Qwen2.5-VL-3B-Instruct", "a Hugging Face folder or hub id", resume=CONTENT),
    Field(
        *("make", ""),
        "a module whose `make()` creates model and data where they do not exist yet",
        resume=MAY_DIFFER,  # what it makes is compared by content
    ),
    Field(
        *("data.path", ""),
        "a prepared dataset, or FOLDER:WEIGHT,… (how often an epoch holds its posts; the first is evaluated on)",
        resume=CONTENT,
    ),
    Field(
        *("data.images", {}),
        "settings of the images of the model's family, such as max_pixels; else the folder's, or the family's own",
        low=0,
        source=OURS,
    ),
    Field(
        *("data.features", ""),
        "a folder for the frozen tower's features of images, computed once and read in every epoch; empty: none",
        resume=MAY_DIFFER,
        needs=(TRAINS,),
        before="",
    ),
    Field("data.max_text_tokens", 512, "most tokens of a post's text; longer ones are cut off", low=1, source=OURS),
    Field(
        *("data.workers", -1),
        "processes that load data; 0 loads in threads; -1: 2 where the machine has four cores or more, else 0",
        low=-1,
        resume=MAY_DIFFER,
    ),
    Field(
        *("data.train_keyphrases", ""),
        "a file of the keyphrases that count as seen, one a line; empty for those of the train split",
        resume=CONTENT,
        before="",
    ),
    Field(
        *("data.kinds", ""),
        'JSON Lines of {"needs": {keyphrase: kind}}: scores by kind too',
        resume=CONTENT,
        before="",
    ),
    Field(
        *("pack_for", "own"),
        "rows hold the strategy's own branches, or both (to compare strategies on the same rows)",
        choices=("own", "both"),
    ),
    Field("seed", 0, "seed of the order of posts", low=0),
)

OPTIMIZER = (
    Field(
        *("freeze", ("tower",)),
        "parts of the model, or parameter paths, that do not train: the vision tower",
        source=PAPER,
        needs=(UNADAPTED,),
    ),
    Field("learning_rate", 5e-5, "peak learning rate", low=0, source=PAPER),
    Field(
        *("warmup_steps", 100),
        "optimizer steps of linear warm-up before the cosine; a tenth of a run that is no longer",
        low=0,
        source=OURS,
    ),
    Field("num_epochs", 5, "passes over the training posts", low=0, source=PAPER, resume=LENGTH),
    Field(
        *("total_steps", 0),
        "optimizer steps; replaces num_epochs where it is given",
        low=0,
        resume=LENGTH,
        needs=(TRAINS,),
    ),
    Field("b1", 0.9, "AdamW's β1", low=0, high=1, source=OURS),
    Field("b2", 0.95, "AdamW's β2", low=0, high=1, source=OURS),
    Field("eps", 1e-8, "AdamW's ε", low=0, source=OURS),
    Field("weight_decay", 0.01, "decay a step, times the learning rate; matrices only", low=0, source=OURS),
    Field("clip_norm", 1.0, "largest global norm of the gradient", low=1e-12, source=OURS),
)

ROWS = (
    Field("global_batch_size", 8, "packed rows an optimizer step, over all devices", low=1, source=OURS),
    Field(*("accumulation_steps", 1), "micro-batches that an optimizer step is split into", low=1, resume=MAY_DIFFER),
    Field(
        *("posts_per_step", 0),
        "posts of an optimizer step, over all hosts; 0: as many as its rows hold; the paper's is 1",
        low=0,
        source=OURS,
        needs=(TRAINS,),
        before=0,
    ),
    Field("row.tokens", 4096, "token slots of a row", low=1),
    Field(
        *("row.images", {}),
        "slots of a row by the kinds of the model's family, such as patches; the family's own where they are not given",
        low=0,
    ),
    Field(
        *("row.tree_tokens", 0),
        "most tokens of a post with its targets, which attention may assume; 0: from the limits on text, image, answer",
        low=0,
        source=OURS,
    ),
    Field("row.labels", 1536, "label slots of a row, over both targets", low=1),
    Field("row.examples", 16, "posts of a row, at most", low=1),
)

EVALUATION = (
    Field(
        *("eval_every", 0),
        "steps between evaluations on valid, whose best is then tested; 0 tests the last step",
        low=0,
        resume=MAY_DIFFER,
        needs=(TRAINS,),
    ),
    Field(
        *("valid_posts", 512),
        "posts of the valid split, from its top, that are decoded then",
        low=0,
        needs=(TRAINS, VALIDATED),
        before=512,
    ),
    Field(
        *("export_every", 0),
        "evaluations between exports into export/; the best step is exported at the end anyway",
        low=0,
        resume=MAY_DIFFER,
        needs=(TRAINS, VALIDATED),
    ),
    Field(
        *("best_metric", "valid/all/f1@1"),
        "metric that selects the best step, by its name in metrics.jsonl",
        needs=(TRAINS, VALIDATED),
        before="valid/all/f1@1",
    ),
    Field("eval_posts", 0, "posts of the test split that are decoded at the end; 0 is all", low=0),
    Field("eval_batch_size", 32, "posts decoded at a time", low=1, resume=MAY_DIFFER),
    Field("answer_tokens", 384, "most tokens of an answer", low=1, source=OURS),
    Field("ablations", False, "also evaluate with images permuted between posts, and with texts blanked"),
)

KEEPING = (
    Field("log_every", 10, "steps between updates of the progress line", low=1, resume=MAY_DIFFER),
    Field(
        *("report_to", ()),
        "experiment trackers that get the metrics too, next to TensorBoard; each is an extra to install",
        choices=("wandb", "mlflow", "trackio"),
        resume=MAY_DIFFER,
        before=(),
    ),
    Field("checkpoint_every", 500, "steps between checkpoints", low=1, resume=MAY_DIFFER),
    Field("keep_checkpoints", 2, "number of latest checkpoints kept", low=1, resume=MAY_DIFFER),
    Field("keep_hours", 0.0, "hours between checkpoints that are kept for good; 0 for none", low=0, resume=MAY_DIFFER),
    Field(
        *("max_nonfinite", 5),
        "steps in a row whose loss or gradient is not finite, each skipped, that end the run; 0 never",
        low=0,
        resume=MAY_DIFFER,
    ),
    Field(
        *("hang_seconds", 1800.0),
        "seconds without a finished step or answer after which the run ends, to be started again; 0 never",
        low=0,
        resume=MAY_DIFFER,
    ),
)

PRECISION = (
    Field(
        "compute_dtype",
        "bfloat16",
        "dtype of activations and matrix products; softmax and losses are float32",
        choices=DTYPE_NAMES,
    ),
    Field("frozen_dtype", "bfloat16", "dtype of frozen parameters; trained ones are float32", choices=DTYPE_NAMES),
    Field(
        *("moments_dtype", "float32"),
        "storage dtype of AdamW's two moments; bfloat16 halves them",
        choices=DTYPE_NAMES,
        before="float32",
    ),
    Field(
        *("moments_memory", "device"),
        "memory of the moments between steps; host costs two transfers a step",
        choices=("device", "host"),
        resume=MAY_DIFFER,
    ),
    Field(
        *("attention", "auto"),
        "a backend of mmkp_jax.ops.backends, or auto: the best for the platform",
        choices=("auto", "dense", "sliced", "splash", "tokamax"),
        resume=MAY_DIFFER,
    ),
    Field(
        "remat",
        True,
        "keep only a layer's input and what its attention saves, for the backward pass",
        resume=MAY_DIFFER,
    ),
)

DEVICES = (
    Field("mesh.data", 1, "copies of the model; one axis may be -1: all remaining devices", low=-1, resume=MAY_DIFFER),
    Field("mesh.fsdp", -1, "shards of the model that see different rows", low=-1, resume=MAY_DIFFER),
    Field("mesh.tensor", 1, "shards of the model that see the same rows", low=-1, resume=MAY_DIFFER),
    *(
        Field(f"sharding_rules.{name}", axis, f"mesh axis of {name}", choices=(None, *MESH_AXES), resume=MAY_DIFFER)
        for name, axis in DEFAULT_RULES.items()
    ),
)

SECTIONS = (
    Section("Model and data", MODEL_AND_DATA),
    Section("Strategy", STRATEGY),
    Section("Optimizer and length", OPTIMIZER),
    Section("LoRA", LORA),
    Section("Steps and rows", ROWS),
    Section("Evaluation", EVALUATION),
    Section("Progress, checkpoints and ends", KEEPING),
    Section("Precision and memory", PRECISION),
    Section("Devices", DEVICES),
)

FIELDS: tuple[Field, ...] = tuple(field for section in SECTIONS for field in section.fields)


def field_named(name: str, fields: Sequence[Field] = FIELDS) -> Field | None:
    """The field of a dotted name; a name inside a mapping gives the mapping's field."""
    above = name.rpartition(".")[0]
    for field in fields:
        if field.name == name or (field.name == above and isinstance(field.default, dict)):
            return field
    return None


def table_of(content: Mapping[str, Any], fields: Sequence[Field] = FIELDS) -> Sequence[Field]:
    """The table of a config's fields: that of its `task`, or else `fields`."""
    return BASELINE_FIELDS if content.get("task") == "baseline" else fields


def may_differ(name: str, *, extend: bool = False) -> bool:
    """Whether a resumed run may have another value of a field, whatever its content."""
    field = field_named(name) or field_named(name, BASELINE_FIELDS)
    return field is not None and field.resume in ((MAY_DIFFER, LENGTH) if extend else (MAY_DIFFER,))


def names_by_resume(kind: str) -> tuple[str, ...]:
    """Names of the fields of one kind on resume, such as `CONTENT`."""
    return tuple(field.name for field in FIELDS if field.resume == kind)


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a config as plain values, each with its dotted key; an empty mapping is a value."""
    if isinstance(tree, Mapping) and tree:
        for name, value in tree.items():
            yield from leaves(value, f"{path}.{name}" if path else str(name))
    else:
        yield path, tree


if __name__ == "__main__":
    from mmkp_jax.runtime.field_text import markdown

    print(markdown(), end="")
