"""An exported folder keeps the limits of its run: texts are cut as in training, and completions are as long."""

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from mmkp_jax.data.examples import measured_tree
from mmkp_jax.data.prompts import PROMPT_VERSION, user_text
from mmkp_jax.errors import InputError
from mmkp_jax.export import main
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.prompt_limits import PROMPT_LIMITS, PromptLimits, read_prompt_limits, text_limit_warning
from mmkp_jax.inference.load_model import MAX_TEXT_TOKENS, load_model
from mmkp_jax.inference.predictor import Predictor, read_post
from tests.support.run_on_disk import write_base, write_run
from tests.support.tiny import tiny_config

SHORTER, LONGER = 40, 700
POST = "keyphrase prediction for social media posts with images " * 60
"""A text of more tokens than either limit."""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Work directories and exports of runs that cut texts earlier and later than the default, in float32."""
    root = tmp_path_factory.mktemp("feeding")
    base = write_base(root / "base", tiny_config(num_layers=1), dtype="float32")
    made = {}
    for cap in (SHORTER, LONGER):
        data = {"max_text_tokens": cap, "images": {"min_pixels": 3136, "max_pixels": 12544}}
        fields = {"compute_dtype": "float32", "frozen_dtype": "float32", "answer_tokens": 5, "eval_batch_size": 2}
        fields["row"] = {"tokens": 1024}
        write_run(root / f"run-{cap}", base, data=data, **fields)
        assert main([f"--workdir={root / f'run-{cap}'}", f"--out={root / f'out-{cap}'}"]) == 0
        made[cap] = root / f"run-{cap}", root / f"out-{cap}"
    return made


def predictor_of(opened) -> Predictor:
    sizes = {"batch_size": 2, "answer_tokens": opened.answer_tokens}
    sizes |= {"stop_tokens": opened.stop_tokens, "dtype": opened.dtype}
    return Predictor(opened.definition, opened.params, opened.recipe, opened.tokenizer, **sizes)


@pytest.mark.parametrize("cap", [SHORTER, LONGER])
def test_an_export_is_fed_as_its_run_was_and_says_the_same(exported, cap):
    run, out = (load_model(str(path)) for path in exported[cap])
    assert out.recipe.max_text_tokens == run.recipe.max_text_tokens == cap != MAX_TEXT_TOKENS
    assert out.answer_tokens == run.answer_tokens == 5 and out.dtype == run.dtype == jnp.float32
    post = read_post("0", POST, None)
    prompt = measured_tree(post, run.recipe).prompt
    np.testing.assert_array_equal(measured_tree(post, out.recipe).prompt, prompt)
    assert cap < len(prompt) < cap + 100
    ours, theirs = (predictor_of(opened)([POST, "rain"]) for opened in (run, out))
    assert ours == theirs and ours[0].tokens == 5


def test_the_card_cuts_texts_at_the_same_number(exported):
    for cap, (_, out) in exported.items():
        assert f"TEXT_TOKENS = {cap}\n" in (out / "README.md").read_text()
        assert json.loads((out / PROMPT_LIMITS).read_text()) == {
            "max_text_tokens": cap,
            "answer_tokens": 5,
            "prompt_version": PROMPT_VERSION,
        }


def test_a_run_that_began_with_an_export_exports_its_own(exported, tmp_path, capsys):
    """Its config counts, in training and in what it leaves."""
    base = exported[SHORTER][1]
    write_run(tmp_path / "run", base, data={"max_text_tokens": LONGER}, row={"tokens": 1024}, answer_tokens=6)
    assert main([f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"]) == 0
    assert read_prompt_limits(tmp_path / "out") == PromptLimits(LONGER, 6) != read_prompt_limits(base)
    assert load_model(str(tmp_path / "run")).recipe.max_text_tokens == LONGER


def test_a_run_says_where_it_feeds_otherwise_than_the_export_it_begins_with(exported):
    base = exported[SHORTER][1]
    line = text_limit_warning(base, SHORTER + 1)
    trained = f"it was trained on texts of at most {SHORTER} tokens"
    assert line == f"{base / PROMPT_LIMITS}: {trained}; config.data.max_text_tokens is 41"
    assert text_limit_warning(base, SHORTER) == text_limit_warning(base.parent, 1) == ""


def test_a_folder_that_is_no_export_is_fed_by_the_defaults(exported, tmp_path):
    folder = shutil.copytree(exported[SHORTER][1], tmp_path / "folder")
    (folder / PROMPT_LIMITS).unlink()
    assert read_prompt_limits(folder) is None
    assert load_model(str(folder)).recipe.max_text_tokens == MAX_TEXT_TOKENS


WHOLE = {"prompt_version": PROMPT_VERSION, "max_text_tokens": 96, "answer_tokens": 24}
FAULTS = [
    ("{", "is not JSON ("),
    ("[1]", "is a list, not a JSON object"),
    ('{"a":' * 100_000, "its JSON is nested too deep"),
    ({"max_text_tokens": "96"}, "'max_text_tokens' is \"96\", not a whole number from 1"),
    ({"max_text_tokens": 0}, "'max_text_tokens' is 0, not a whole number from 1"),
    ({"answer_tokens": 10**9}, "'answer_tokens' is 1000000000, not a whole number from 1 to 1,000,000"),
    ({"answer_tokens": [[]]}, "'answer_tokens' is a list, not"),
    ({"prompt_version": 2}, "'prompt_version' is 2, not 1, the prompt that this release writes; predict with the rel"),
    ({"prompt_version": None}, "'prompt_version' is null, not a whole number"),
]


@pytest.mark.parametrize(("content", "what"), FAULTS, ids=[what for _, what in FAULTS])
def test_a_damaged_file_is_one_line(exported, tmp_path, content, what):
    folder = shutil.copytree(exported[SHORTER][1], tmp_path / "folder")
    (folder / PROMPT_LIMITS).write_text(content if isinstance(content, str) else json.dumps(WHOLE | content))
    with pytest.raises(InputError) as caught:
        load_model(str(folder))
    assert str(caught.value).startswith(f"{folder / PROMPT_LIMITS}: {what}") and "\n" not in str(caught.value)
    open_folder(str(folder))  # what a run that begins with it does not need


def test_the_prompt_is_that_of_its_version():
    """With other words, `PROMPT_VERSION` is to be raised, so that older exports get no unknown prompts."""
    assert PROMPT_VERSION == 1
    assert user_text("…") == "\"Post text\": …\nPredict the keyphrases of this post, separated by ';'."
