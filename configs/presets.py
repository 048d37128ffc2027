"""Presets of an experiment: `configs/dyncot.py:model=qwen2_5_vl_3b,data=mmkp_v2,mesh=v5e_16`; without any, pocket."""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from mmkp_jax.errors import InputError, all_of, nearest

Preset = Callable[[ConfigDict], None]


def pocket_model(c: ConfigDict) -> None:
    """The pocket model: a pretrained Qwen2.5-VL of a few million parameters, all of which train, in float32."""
    small_model(c)
    c.model.path = "runs/pocket/model"
    c.make = "mmkp_jax.pocket.make"
    c.learning_rate, c.num_epochs = 1.5e-4, 2  # it is pretrained, and should remember that
    c.row.images = {"patches": 208, "windows": 6}
    c.data.images = {"min_pixels": 3_136, "max_pixels": 12_544}


def pocket_variant(maker: str, **fields: Mapping[str, int]) -> Preset:
    """A small model of another family for pocket's posts.

    Args:
        maker: its module in `mmkp_jax.pocket`; the model is in `runs/pocket_{maker}`.
        fields: `row_images` and `data_images` (the config's `row.images` and `data.images`) in a family with images.
    """

    def preset(c: ConfigDict) -> None:
        small_model(c)
        c.model.path = f"runs/pocket_{maker}/model"
        c.make = f"mmkp_jax.pocket.{maker}"
        c.row.images, c.data.images = (dict(fields.get(f"{part}_images", {})) for part in ("row", "data"))

    preset.__doc__ = f"A model for pocket's posts, with random parameters, made by `mmkp_jax.pocket.{maker}`."
    return preset


def small_model(c: ConfigDict) -> None:
    """What all models of pocket's posts share."""
    c.freeze = ()
    c.compute_dtype = c.frozen_dtype = "float32"
    c.remat = False
    c.learning_rate, c.warmup_steps, c.num_epochs = 6e-4, 50, 4
    c.global_batch_size = 1  # it learns more from many small steps than from few large ones
    c.row.update(tokens=384, labels=224, examples=8)
    c.data.max_text_tokens = 96
    c.eval_batch_size, c.answer_tokens, c.ablations = 64, 96, True
    c.checkpoint_every = 500
    one_device(c)


def pocket_data(c: ConfigDict) -> None:
    """The pocket dataset: two thousand generated posts."""
    c.data.path = "runs/pocket/dataset"
    c.data.kinds = "runs/pocket/needs.jsonl"
    c.data.workers = 0  # leaves both of two cores to the model


def qwen2_5_vl_3b(c: ConfigDict) -> None:
    """Qwen2.5-VL-3B, as the paper trains it."""
    c.model.path = "Qwen/Qwen2.5-VL-3B-Instruct"


def qwen2_5_vl_7b(c: ConfigDict) -> None:
    """Qwen2.5-VL-7B, as the paper trains it."""
    c.model.path = "Qwen/Qwen2.5-VL-7B-Instruct"
    c.num_epochs = 3


def text_model(hub_id: str, num_epochs: int) -> Preset:
    """A model that takes no images, whose rows hold more posts.

    Args:
        num_epochs: the paper's for models of this size.
    """

    def preset(c: ConfigDict) -> None:
        c.model.path, c.num_epochs = hub_id, num_epochs
        c.row.update(labels=3072, examples=48)

    preset.__doc__ = f"{hub_id}: posts without their images."
    return preset


def internvl3_2b(c: ConfigDict) -> None:
    """InternVL3-2B, as the paper trains it, with the published limit of 12 tiles an image.

    A 4:3 image is 13 tiles there, 3,328 tokens: rows are long, so that several such posts share one. A smaller limit,
    `config.data.images.max_tiles`, makes a run shorter in proportion.
    """
    c.model.path = "OpenGVLab/InternVL3-2B-hf"
    c.row.update(tokens=8192, labels=1024)


def internvl3_8b(c: ConfigDict) -> None:
    """InternVL3-8B, as the paper trains it, with the rows of the 2B."""
    internvl3_2b(c)
    c.model.path = "OpenGVLab/InternVL3-8B-hf"
    c.num_epochs = 3


def llama3_2_11b_vision(c: ConfigDict) -> None:
    """Llama-3.2-11B-Vision-Instruct, with the paper's epochs for larger models.

    An image is one token, but the vision tower computes four tiles of it whatever its size, and a row's cross-attention
    reads the keys of all its images: rows are short, with about as many images as posts fit.
    """
    c.model.path = "meta-llama/Llama-3.2-11B-Vision-Instruct"
    c.num_epochs = 3
    c.row.update(tokens=1024, labels=768, examples=6, images={"images": 5})


def mmkp(c: ConfigDict) -> None:
    """CMKP's own split, prepared in data/mmkp."""
    c.data.path = "data/mmkp"


def mmkp_v2(c: ConfigDict) -> None:
    """The resampled split, prepared in data/mmkp_v2."""
    c.data.path = "data/mmkp_v2"


def mmkp_360k(c: ConfigDict) -> None:
    """MMKP-360k, prepared in data/mmkp_360k, as the paper trains on it; scores are F1@M."""
    c.data.path = "data/mmkp_360k"
    c.learning_rate, c.num_epochs = 3e-5, 3
    c.best_metric = "valid/all/f1@M"


def one_device(c: ConfigDict) -> None:
    """Everything on the first device."""
    c.mesh.update(data=1, fsdp=1, tensor=1)


def all_fsdp(c: ConfigDict) -> None:
    """Parameters and rows sharded over all devices."""
    c.mesh.update(data=1, fsdp=-1, tensor=1)


def fsdp_on(chips: int, *, slices: int = 1) -> Preset:
    """Parameters sharded over the chips of a slice, a row a chip; each of several slices holds all parameters."""

    def preset(c: ConfigDict) -> None:
        c.mesh.update(data=slices, fsdp=chips, tensor=1)
        c.global_batch_size = slices * chips

    preset.__doc__ = f"{slices} x {chips} chips, a row each."
    return preset


def h100_1(c: ConfigDict) -> None:
    """One GPU, eight rows a step, all at once: micro-batches would read weights and gradients as many times."""
    one_device(c)
    c.global_batch_size = 8


def l4_1(c: ConfigDict) -> None:
    """One GPU of 24 GB for LoRA, eight rows a step one after the other: gradients of adapters are small."""
    one_device(c)
    c.global_batch_size = c.accumulation_steps = 8


def full(c: ConfigDict) -> None:
    """Trains all that `freeze` leaves, as the paper does."""


def lora(c: ConfigDict) -> None:
    """Adapters of rank 16 on all linears of decoder and projector; every weight of the base is frozen.

    One device takes its rows one after the other: the gradients that they add up are small, and large images fit.
    """
    c.lora_rank, c.lora_alpha = 16, 32.0
    c.learning_rate = 1e-4
    if c.mesh.data == c.mesh.fsdp == 1:
        c.accumulation_steps = c.global_batch_size


def qlora(c: ConfigDict) -> None:
    """As `lora`, with the decoder's matrices in 4 bits."""
    lora(c)
    c.lora_base = "nf4"


def packed_batch(c: ConfigDict) -> None:
    """Packs as many posts into a step as its rows hold."""
    c.posts_per_step = 0


def paper_batch(c: ConfigDict) -> None:
    """Packs one post into a step, as the paper's batch size of 1 may mean, on as few rows as the mesh allows.

    On several devices all rows but one are empty. Where the mesh leaves its size to the machine (-1), also give
    config.global_batch_size: a row a device.
    """
    c.posts_per_step = c.accumulation_steps = 1
    c.global_batch_size = max(c.mesh.data, 1) * max(c.mesh.fsdp, 1)


MESHES = {
    "one": one_device,
    "fsdp": all_fsdp,
    "l4_1": l4_1,
    "h100_1": h100_1,
    "h100_8": fsdp_on(8),
    "v5e_8": fsdp_on(8),
    "v5e_16": fsdp_on(16),
    "v5e_256": fsdp_on(256),
    "v5e_16x2": fsdp_on(16, slices=2),
    "v6e_8": fsdp_on(8),
    "v6e_256": fsdp_on(256),
    "v5p_64": fsdp_on(64),
}
"""Mesh presets by chips; `plan` computes what each needs, with which model."""

PRESETS: dict[str, dict[str, Preset]] = {
    "model": {
        "pocket": pocket_model,
        "pocket_internvl3": pocket_variant("internvl3", row_images={"tiles": 20}, data_images={"max_tiles": 6}),
        "pocket_mllama": pocket_variant("mllama", row_images={"images": 8}),
        "pocket_qwen2_5": pocket_variant("qwen2_5"),
        "pocket_llama3_2": pocket_variant("llama3_2"),
        "qwen2_5_vl_3b": qwen2_5_vl_3b,
        "qwen2_5_vl_7b": qwen2_5_vl_7b,
        "internvl3_2b": internvl3_2b,
        "internvl3_8b": internvl3_8b,
        "llama3_2_11b_vision": llama3_2_11b_vision,
        "qwen2_5_3b": text_model("Qwen/Qwen2.5-3B-Instruct", num_epochs=5),
        "qwen2_5_7b": text_model("Qwen/Qwen2.5-7B-Instruct", num_epochs=3),
        "llama3_2_1b": text_model("meta-llama/Llama-3.2-1B-Instruct", num_epochs=5),
        "llama3_2_3b": text_model("meta-llama/Llama-3.2-3B-Instruct", num_epochs=5),
    },
    "data": {
        "pocket": pocket_data,
        "mmkp": mmkp,
        "mmkp_v2": mmkp_v2,
        "mmkp_360k": mmkp_360k,
    },
    "mesh": MESHES,
    "batch": {"packed": packed_batch, "paper": paper_batch},
    "tune": {"full": full, "lora": lora, "qlora": qlora},
}
"""Presets by kind, in the order in which they are applied."""


def apply(c: ConfigDict, presets: str) -> None:
    """Applies `name=preset,…`; pocket for a model that is not named; pocket's data for its models.

    Raises:
        InputError: there are no such presets.
    """
    chosen: dict[str, str] = {}
    errors = []
    for each in filter(None, presets.split(",")):
        name, _, preset = each.partition("=")
        if preset in PRESETS.get(name, ()) and chosen.setdefault(name, preset) == preset:
            continue
        known = (
            [f"{name}={preset}" for preset in PRESETS[name]] if name in PRESETS else [f"{name}=…" for name in PRESETS]
        )
        what = f"unknown preset {each!r}{nearest(each, known)}"
        if each in known:
            what = f"preset {each!r} contradicts {name}={chosen[name]}"
        errors.append(InputError(what, "--config", f"use one of {', '.join(known)}"))
    if errors:
        raise all_of(errors, "name known presets")
    chosen = {"model": "pocket"} | chosen
    if chosen["model"].startswith("pocket"):
        chosen = {"data": "pocket"} | chosen
    for name in filter(chosen.get, PRESETS):
        PRESETS[name][chosen[name]](c)
