"""A work directory's `config.json` with a value of another type is one line, wherever a run is used."""

import json

import pytest

from configs import dyncot
from mmkp_jax.errors import InputError
from mmkp_jax.inference.export_run import open_step
from mmkp_jax.inference.load_model import load_model
from mmkp_jax.inference.run_config import holds_run, run_config

WHOLE = json.loads(json.dumps(dyncot.get_config().to_dict()))

FAULTS = [
    (("strategy",), 7, "'strategy' is 7, not one of zeroshot, sft"),
    (("strategy",), "dyncto", "'strategy' is \"dyncto\", not one of zeroshot, sft"),
    (("model",), "path", "'model' is \"path\", not an object"),
    (("model", "path"), None, "'model.path' is null, not text"),
    (("data", "max_text_tokens"), "96", "'data.max_text_tokens' is \"96\", not a whole number from 1"),
    (("row", "tokens"), [[[]]], "'row.tokens' is a list, not a whole number"),
    (("mesh", "fsdp"), "all", "'mesh.fsdp' is \"all\", not a whole number"),
    (("sharding_rules", "embed"), {}, "'sharding_rules.embed' is an object, not one of None, data"),
    (("freeze",), [1], "'freeze' is a list, not a list of texts"),
    (("frozen_dtype",), "int8", "'frozen_dtype' is \"int8\", not one of float32, bfloat16"),
    (("posts_per_step",), "1", "'posts_per_step' is \"1\", not a whole number"),
    (("gamma",), {}, "'gamma' is an object, not a number from 0"),
    (("answer_tokens",), 10**400, "'answer_tokens' is a number of many digits, not a whole number from 1"),
]


def test_an_intact_config_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(WHOLE))
    assert holds_run(tmp_path) and run_config(tmp_path).to_dict() == WHOLE


@pytest.mark.parametrize(("path", "value", "what"), FAULTS, ids=[what for *_, what in FAULTS])
def test_a_value_of_another_type_is_one_line(tmp_path, path, value, what):
    content = json.loads(json.dumps(WHOLE))
    part = content
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = value
    (tmp_path / "config.json").write_text(json.dumps(content))
    for use in (lambda: load_model(str(tmp_path)), lambda: open_step(tmp_path, "latest")):
        with pytest.raises(InputError) as caught:
            use()
        assert str(caught.value).startswith(f"{tmp_path}/config.json: {what}") and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ['{"strategy": ', '{"a":' * 100_000, "[]", "\x00"])
def test_a_config_that_is_not_json_is_one_line(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert not holds_run(tmp_path)
    for use in (lambda: load_model(str(tmp_path)), lambda: open_step(tmp_path, "latest")):
        with pytest.raises(InputError, match=r"config\.json"):
            use()
