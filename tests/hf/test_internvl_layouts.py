"""InternVL3's two layouts on disk: read, exported with the same bytes, and checked; code of a folder never runs."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmkp_jax.data.forest import Tree
from mmkp_jax.data.prompts import keyphrase_target
from mmkp_jax.errors import InputError
from mmkp_jax.families.registry import define
from mmkp_jax.hf.export import export_folder
from mmkp_jax.hf.folder import digests, load_tokenizer, open_folder, stop_tokens
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.prompt_limits import PROMPT_LIMITS, PromptLimits
from mmkp_jax.hf.verify import our_logits, reference_outputs
from mmkp_jax.inference.load_model import load_model
from mmkp_jax.models.definition import flatten
from mmkp_jax.models.freezing import split_params
from tests.support.needs_torch import needs_torch
from tests.support.parity import BOUND
from tests.support.tiny_internvl import (
    CODE,
    LAYOUTS,
    PLAIN,
    internvl_tree,
    tiny_internvl,
    write_internvl,
)

CONFIG = tiny_internvl()
LIMITS = {"limits": PromptLimits(96, 24), "card": "# card\n"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each layout, in bfloat16 and of several files."""
    root = tmp_path_factory.mktemp("layouts")
    for layout in LAYOUTS:
        write_internvl(root / layout, layout=layout, dtype=jnp.bfloat16, max_shard_bytes=200_000)
        assert len(list((root / layout).glob("model-*.safetensors"))) > 1
    return {layout: root / layout for layout in LAYOUTS}


def exported(base, out, *, max_tiles: int = 12, change=None):
    """An export of a folder's own parameters, of which everything but the tower trained."""
    folder = open_folder(str(base))
    definition = define(folder.config)
    trained, frozen = split_params(load_params(folder, definition.shapes()), definition.family.paths(["tower"]))
    if change:
        trained = jax.tree.map(change, trained)
    export_folder(trained, frozen, folder, out, images={"max_tiles": max_tiles}, **LIMITS)
    return out


@pytest.mark.parametrize("layout", LAYOUTS)
def test_import_then_export_gives_the_same_bytes_in_every_file(folders, tmp_path, layout):
    base = folders[layout]
    out = exported(base, tmp_path / "out")
    assert {file.name for file in out.iterdir()} == {file.name for file in base.iterdir()} | {
        PROMPT_LIMITS,
        "README.md",
    }
    for file in base.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes(), file.name
    assert set(CODE) <= {file.name for file in out.iterdir()} or layout == "internvl"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_trained_is_written_under_the_bases_names(folders, tmp_path, layout):
    base, out = folders[layout], exported(folders[layout], tmp_path / "out", change=lambda leaf: leaf + 1)

    def tensors(folder):
        return {name: array for file in folder.glob("*.safetensors") for name, array in load_file(file).items()}

    before, after = tensors(base), tensors(out)
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed == {name for name in before if not name.startswith("vision_")}


def test_the_limit_of_tiles_is_read_and_written_where_each_layouts_readers_look(folders, tmp_path):
    """`max_patches` of the preprocessor, or `max_dynamic_patch` of the config; all else in the file stays."""
    for layout, name, key in (
        ("internvl", "preprocessor_config.json", "max_patches"),
        ("internvl_chat", "config.json", "max_dynamic_patch"),
    ):
        out = exported(folders[layout], tmp_path / layout, max_tiles=6)
        before, after = (json.loads((path / name).read_text()) for path in (folders[layout], out))
        assert after == before | {key: 6} and list(after) == list(before)
        assert load_model(str(folders[layout])).recipe.processor.max_tiles == 12
        assert load_model(str(out)).recipe.processor.max_tiles == 6


def test_code_of_a_folder_is_hashed_and_never_runs(folders):
    """Its files raise when they are run (`tiny_internvl.CODE`)."""
    folder = open_folder(str(folders["internvl_chat"]))
    assert set(CODE) <= digests(folder).keys()
    assert load_tokenizer(folder).convert_tokens_to_ids("<img>") == CONFIG.image_token_id - 2


def test_a_token_without_an_embedding_is_known_by_name_alone(folders, tmp_path):
    """`<video>` of the -hf folders is beyond the embedding; any other such token is refused."""
    folder = open_folder(str(folders["internvl"]))
    tokenizer = load_tokenizer(folder)
    assert tokenizer.convert_tokens_to_ids("<video>") == folder.model_config.vocab_size
    shutil.copytree(folders["internvl"], tmp_path / "more")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<audio>"]})
    tokenizer.save_pretrained(tmp_path / "more")
    with pytest.raises(InputError, match="the tokenizer has a token 324, and vocab_size is 323"):
        load_tokenizer(open_folder(str(tmp_path / "more")))


def test_a_completion_ends_at_the_turns_end_in_both_layouts(folders):
    """The original layout's config names another token, which its own code ignores."""
    for layout in LAYOUTS:
        folder = open_folder(str(folders[layout]))
        end = define(folder.config).processor.template(load_tokenizer(folder)).end_token
        assert stop_tokens(folder, end) == {PLAIN + 2}


def test_the_head_is_what_the_files_hold(folders, tmp_path):
    """No head in the files: tied. A head next to a config that says tied: refused unless it is the embedding."""
    alone = tmp_path / "alone"
    write_internvl(alone)
    tensors, config = load_file(alone / "model.safetensors"), json.loads((alone / "config.json").read_text())
    assert "tie_word_embeddings" not in config and open_folder(str(alone)).config["tie_word_embeddings"] is False

    text = config["text_config"] | {"tie_word_embeddings": True}  # which vLLM reads
    for change in ({"tie_word_embeddings": True}, {"text_config": text}):  # the first as transformers re-saves
        (alone / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=r"says tie_word_embeddings, and language_model\.lm_head\.weight is not "):
            open_folder(str(alone))

    (alone / "config.json").write_text(json.dumps(config))
    del tensors["language_model.lm_head.weight"]
    save_file(tensors, alone / "model.safetensors", {"format": "pt"})
    folder = open_folder(str(alone))
    definition = define(folder.config)
    assert definition.config.tie_embeddings and "lm_head" not in load_params(folder, definition.shapes())


def test_transformers_own_names_are_read_too(folders, tmp_path):
    """`model.vision_tower.…` and `lm_head.weight`, which folders of newer releases have."""
    write_internvl(tmp_path / "inner")
    file, inner = tmp_path / "inner" / "model.safetensors", {}
    before = flatten(_params(tmp_path / "inner"))
    for name, array in load_file(file).items():
        name = name.replace("language_model.lm_head.", "lm_head.").replace("language_model.model.", "language_model.")
        inner[name if name.startswith("lm_head.") else f"model.{name}"] = array
    save_file(inner, file, {"format": "pt"})
    for path, array in flatten(_params(tmp_path / "inner")).items():
        np.testing.assert_array_equal(array, before[path], err_msg=path)


def _params(path):
    folder = open_folder(str(path))
    return load_params(folder, define(folder.config).shapes())


@pytest.mark.parametrize(
    "layout, name, change, what",
    [
        ("internvl", "preprocessor_config.json", {"size": {"height": 28, "width": 28}}, "'size' is an object, not {"),
        ("internvl", "preprocessor_config.json", {"size": None}, "has no 'size'"),
        ("internvl", "preprocessor_config.json", {"image_mean": [0.5] * 3}, r"'image_mean' is a list, not \[0\.485"),
        ("internvl", "preprocessor_config.json", {"image_std": None}, "has no 'image_std'"),
        ("internvl", "preprocessor_config.json", {"min_patches": 2}, "'min_patches' is 2, not 1"),
        ("internvl", "preprocessor_config.json", {"max_patches": 0}, "'max_patches' is 0, not a whole number from 1"),
        ("internvl", "preprocessor_config.json", {"resample": 2}, "'resample' is 2, not 3"),
        ("internvl", "preprocessor_config.json", {"image_processor_type": "X"}, "not 'GotOcr2ImageProcessorFast'"),
        ("internvl_chat", "preprocessor_config.json", {"image_mean": [0.5] * 3}, r"'image_mean' is a list, not \["),
        ("internvl_chat", "preprocessor_config.json", {"size": 28}, "'size' is 28, not 56"),
    ],
)
def test_a_preprocessor_that_asks_for_something_else_is_one_line(folders, tmp_path, layout, name, change, what):
    shutil.copytree(folders[layout], tmp_path / "other")
    file = tmp_path / "other" / name
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=what) as caught:
        open_folder(str(tmp_path / "other"))
        load_model(str(tmp_path / "other"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_verify_compares_with_transformers_in_either_layout(tmp_path, layout):
    """`export --verify` feeds the folder's own image processor; the original layout by way of the other's names."""
    needs_torch()
    import io

    from PIL import Image

    write_internvl(tmp_path / "model", layout=layout)
    folder = open_folder(str(tmp_path / "model"))
    definition = define(folder.config)
    template, processor = definition.processor.template(load_tokenizer(folder)), definition.processor
    pixels = np.random.default_rng(0).integers(0, 256, (90, 130, 3), np.uint8)
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.save(file, "png")
    seen = processor.layout(90, 130)
    prompt = internvl_tree(0, CONFIG, grids=[seen.shape]).prompt
    target = keyphrase_target(["post", "image"], template)
    tree = Tree(prompt, target, target[:0], (seen,), (processor.pixels(image, seen),))
    (found,) = reference_outputs(definition.family, folder.path, [tree], [file.getvalue()], 3)
    (ours,) = our_logits(definition, load_params(folder, definition.shapes()), [tree])
    assert np.abs(found.logits_MV - ours).max() <= BOUND * np.abs(ours).max()
