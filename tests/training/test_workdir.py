"""A run's work directory: only its own run resumes in it, wherever its data are; damage in its files is one line."""

import functools
import json
import shutil

import pytest

from configs import dyncot
from mmkp_jax.errors import InputError
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.runtime.lock import Lock
from mmkp_jax.training.contents import contents_of, same_content, write_contents
from mmkp_jax.training.workdir import check_claim, claim, truncate_log
from tests.support.small_pocket import small_pocket


@pytest.fixture(scope="module")
def pocket(tmp_path_factory):
    return small_pocket(tmp_path_factory.mktemp("pocket"))


def named(pocket, *, data=None, model=None, **fields):
    config = dyncot.get_config()
    config.update(make="", **fields)
    config.model.path, config.data.path = str(model or pocket / "model"), str(data or pocket / "dataset")
    config.data.kinds = str(pocket / "needs.jsonl")
    return config


def claimed(workdir, config):
    """Claims a work directory as the main command does."""
    contents = contents_of(config, open_folder(config.model.path))
    resumed = claim(workdir, config.to_dict(), same=functools.partial(same_content, workdir, contents))
    write_contents(workdir, contents)
    return resumed


def test_a_run_resumes_under_other_paths_of_the_same_data_and_model(pocket, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    assert not claimed(workdir, named(pocket))
    before = (workdir / "config.json").read_bytes()
    assert claimed(workdir, named(pocket)) and (workdir / "config.json").read_bytes() == before
    monkeypatch.chdir(pocket)
    assert claimed(workdir, named(pocket, data="dataset", model="./model"))
    saved = json.loads((workdir / "config.json").read_text())
    assert (saved["data"]["path"], saved["model"]["path"]) == ("dataset", "./model")  # where report and predict look
    moved = shutil.copytree(pocket / "dataset", tmp_path / "moved")
    model = shutil.copytree(pocket / "model", tmp_path / "model")
    assert claimed(workdir, named(pocket, data=moved, model=model))


def test_other_data_another_weight_or_another_model_of_the_same_shapes_is_another_config(pocket, tmp_path):
    workdir = tmp_path / "run"
    claimed(workdir, named(pocket))
    model = shutil.copytree(pocket / "model", tmp_path / "model")
    file = model / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 1000] = bytes(1000)
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"another config: model\.path \(was '.*', now '.*'\); give"):
        claimed(workdir, named(pocket, model=model))
    with pytest.raises(InputError, match=r"another config: data\.path"):
        claimed(workdir, named(pocket, data=f"{pocket / 'dataset'}:0.5"))
    with pytest.raises(InputError, match=r"another config: gamma \("):
        claimed(workdir, named(pocket, gamma=0.3))


def test_without_saved_digests_the_same_folder_counts_as_the_same_data(pocket, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    claimed(workdir, named(pocket))
    (workdir / "contents.json").unlink()
    monkeypatch.chdir(pocket)
    assert claimed(workdir, named(pocket, data="dataset"))
    (workdir / "contents.json").unlink()
    with pytest.raises(InputError, match="another config"):
        claimed(workdir, named(pocket, data=shutil.copytree(pocket / "dataset", tmp_path / "moved")))


def test_a_run_of_an_earlier_version_resumes_where_a_new_field_has_its_old_value(pocket, tmp_path):
    workdir = tmp_path / "run"
    claimed(workdir, named(pocket))
    older = json.loads((workdir / "config.json").read_text())
    del older["posts_per_step"]
    (workdir / "config.json").write_text(json.dumps(older))
    assert claimed(workdir, named(pocket))
    (workdir / "config.json").write_text(json.dumps(older))
    with pytest.raises(InputError, match=r"another config: posts_per_step \(was 0, now 2\)"):
        claimed(workdir, named(pocket, posts_per_step=2))


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"strategy": 3}', "[" * 100_000, "\xff", '{"strategy": "x"}'])
def test_a_damaged_config_is_one_line_that_names_the_file(tmp_path, content):
    (tmp_path / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError) as caught:
        check_claim(tmp_path, named(tmp_path).to_dict())
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_with_only_a_lock_may_be_claimed(tmp_path):
    with Lock(tmp_path, 1) as lock:
        lock.acquire()
        assert not check_claim(tmp_path, {})
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="something other than a run"):
        check_claim(tmp_path, {})


LINES = ['{"step": 1, "loss": 2.5}', '{"step": 2, "loss": null}', '{"step": 3, "loss": 1.5}']


@pytest.mark.parametrize("torn", ["", '{"step": 4, "lo'])
def test_lines_of_later_steps_and_one_that_a_kill_cut_off_are_removed(tmp_path, torn):
    file = tmp_path / "metrics.jsonl"
    file.write_text("\n".join(LINES) + "\n" + torn)
    truncate_log(file, 2)
    assert file.read_text() == "\n".join(LINES[:2]) + "\n"
    truncate_log(tmp_path / "absent", 2)
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        ("nonsense", "is not JSON"),
        ("[1]", "is a list, not a JSON object"),
        ('{"loss": 1}', "has no 'step'"),
        ('{"step": "2"}', "'step' is \"2\", not a whole number"),
        ('{"step": 1e999}', "'step' is Infinity, not a whole number"),
        ("[" * 100_000, "its JSON is nested too deep"),
        ("\udcff", "is not UTF-8"),
    ],
)
def test_any_other_damaged_line_stops_the_run_in_one_line_and_is_kept(tmp_path, damaged, message):
    file = tmp_path / "metrics.jsonl"
    for lines in ([LINES[0], damaged, LINES[2]], [LINES[0], damaged]):
        file.write_text("\n".join(lines) + "\n", errors="surrogateescape")
        before = file.read_bytes()
        with pytest.raises(InputError) as caught:
            truncate_log(file, 2)
        assert str(caught.value).startswith(f"{file}:2: {message}"), caught.value
        assert file.read_bytes() == before
