"""Every field of an experiment, one line each, with its unit. Experiments override these.

[P] printed in the paper, arXiv 2510.09358; [C] our choice where it is silent.
"""

import ml_collections

from mmkp_jax.models.sharding import DEFAULT_RULES


def get_config() -> ml_collections.ConfigDict:
    """The defaults: Dynamic CoT as the paper trains Qwen2.5-VL-3B."""
    c = ml_collections.ConfigDict()

    c.model = ml_collections.ConfigDict()
    c.model.path = "Qwen/Qwen2.5-VL-3B-Instruct"  # a Hugging Face folder or hub id
    c.make = ""  # a module whose `make()` makes model and data where they are not there yet

    c.data = ml_collections.ConfigDict()
    c.data.path = ""  # a prepared dataset, or FOLDER:WEIGHT,… (times its posts come an epoch; the first is tested on)
    c.data.images = ml_collections.ConfigDict()  # settings of the family's images; its defaults where there are none
    c.data.max_text_tokens = 512  # of a post's text, whose end is cut off beyond [C]
    c.data.workers = 2  # processes that load; 0 loads in threads
    c.data.train_keyphrases = ""  # a file of the keyphrases that count as seen, one a line; "" takes the train split's
    c.data.kinds = ""  # JSON Lines of {"needs": {keyphrase: kind}}: scores by kind too
    c.pack_for = "own"  # rows hold the strategy's own branches, or both (to compare strategies on the same rows)
    c.seed = 0  # of the order of posts

    c.strategy = "dyncot"  # zeroshot, sft, cot, multitask or dyncot
    c.multitask_weight = 0.5  # share of the SFT loss under multitask [C]
    c.gamma_mode = "fixed"  # fixed, mean (the paper's "avg") or ema
    c.gamma = 0.4  # nats a label; for fixed [P]
    c.gamma_ema_decay = 0.99  # a step; for ema [C]

    c.freeze = ("tower",)  # parts of the model, or parameter paths, that do not train: the vision tower [P]
    c.learning_rate = 5e-5  # peak [P]
    c.warmup_steps = 100  # optimizer steps of linear warm-up before the cosine; a tenth of a run that is no longer [C]
    c.num_epochs = 5  # passes over the training posts [P]
    c.total_steps = 0  # optimizer steps; where it is given, num_epochs does not count
    c.b1, c.b2, c.eps = 0.9, 0.95, 1e-8  # AdamW [C]
    c.weight_decay = 0.01  # a step, times the learning rate; matrices only [C]
    c.clip_norm = 1.0  # global norm of the gradient [C]

    c.global_batch_size = 8  # packed rows an optimizer step, over all devices [C]
    c.accumulation_steps = 1  # micro-batches that an optimizer step is split into
    c.posts_per_step = (
        0  # posts of an optimizer step, over all hosts; 0: as many as its rows hold; the paper's is 1 [P]
    )
    c.row = ml_collections.ConfigDict()
    c.row.tokens = 4096  # token slots of a row
    c.row.images = (
        ml_collections.ConfigDict()
    )  # slots of a row by the family's kinds; its defaults where there are none
    c.row.labels = 1536  # label slots of a row, over both targets
    c.row.examples = 16  # posts of a row, at most

    c.eval_every = 0  # steps between evaluations on valid, whose best is then tested; 0 tests the last step
    c.valid_posts = 512  # posts of the valid split, from its top, that are decoded then
    c.export_every = 0  # evaluations between exports on the way, into export/; the best is exported at the end anyway
    c.best_metric = "valid/all/f1@1"  # what the best step is best by, of the names in metrics.jsonl
    c.eval_posts = 0  # posts of the test split that are decoded at the end; 0 is all
    c.eval_batch_size = 32  # posts decoded at a time
    c.answer_tokens = 384  # most tokens of an answer [C]
    c.ablations = False  # also evaluate with pictures permuted between posts, and with texts blanked
    c.log_every = 10  # steps between updates of the progress line
    c.checkpoint_every = 500  # steps
    c.keep_checkpoints = 2  # the last so many
    c.keep_hours = 0.0  # hours; also one checkpoint of each so many; 0 for none
    c.max_nonfinite = 5  # steps in a row whose loss or gradient is not finite, each skipped, that end the run; 0 never
    c.hang_seconds = 1800.0  # no step or evaluated answer ends for so long: the run ends, to be started again; 0 never

    c.compute_dtype = "bfloat16"  # of activations and products; softmax and losses are float32
    c.frozen_dtype = "bfloat16"  # in which frozen parameters are kept; trained ones are float32
    c.moments_dtype = "float32"  # in which AdamW's two moments are kept; bfloat16 halves them
    c.moments_memory = "device"  # where they are kept between steps; host costs their way there and back each step
    c.attention = "auto"  # a backend of mmkp_jax.ops.backends, or auto: the best for the platform
    c.remat = True  # keep only each layer's input for the backward pass

    c.mesh = ml_collections.ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})  # devices; -1 is what is left
    c.sharding_rules = ml_collections.ConfigDict(dict(DEFAULT_RULES))  # parameter axis to mesh axis
    c.lock()
    for open_mapping in (c.data.images, c.row.images):  # whose names are the family's
        open_mapping.unlock()
    return c
