"""A run's parameters out again: the base's files but for what trained, whole or not at all; transformers agrees."""

import dataclasses
import http.server
import json
import os
import resource
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from benchmarks.soak_bitflip import flip_bit
from mmkp_jax.errors import InputError
from mmkp_jax.export import difference, main
from mmkp_jax.families.qwen2_5_vl.names import NAMES
from mmkp_jax.families.registry import define
from mmkp_jax.hf.export import export_folder
from mmkp_jax.hf.folder import open_folder
from mmkp_jax.hf.load import load_params
from mmkp_jax.hf.names import published_tensors
from mmkp_jax.hf.prompt_limits import PROMPT_LIMITS, PromptLimits
from mmkp_jax.hf.verify import BOUND
from mmkp_jax.inference.export_run import open_step
from mmkp_jax.inference.load_model import checkpoint_of, load_model
from mmkp_jax.inference.verify_export import verify
from mmkp_jax.models.definition import flatten
from mmkp_jax.models.digest import digests_of
from mmkp_jax.models.freezing import split_params
from mmkp_jax.training.checkpoint import Best
from tests.support.devices import fake_devices
from tests.support.needs_torch import needs_torch
from tests.support.published import QWEN2_5_VL_3B, QWEN2_5_VL_7B
from tests.support.run_on_disk import FROZEN, STEP, write_base, write_run
from tests.support.small_pocket import NO_CACHE, ROOT, SIZES
from tests.support.tiny import hf_config_dict, tiny_config

LIMITS = {"images": {"min_pixels": 3136, "max_pixels": 12544}, "limits": PromptLimits(96, 24), "card": "# card\n"}
INSIDE = {"visual.": "model.visual.", "model.": "model.language_model."}


def narrow(published):
    """A published model's layers and heads, at reduced width."""
    tower = dataclasses.replace(
        published.vision, hidden_size=64, intermediate_size=24, out_hidden_size=16 * published.num_heads
    )
    sizes = {"vocab_size": 320, "hidden_size": 16 * published.num_heads, "intermediate_size": 40}
    tokens = {"mrope_section": (2, 3, 3), "image_token_id": tiny_config().image_token_id}
    return dataclasses.replace(published, vision=tower, **sizes, **tokens)


def load_float32(path):
    folder = open_folder(str(path))
    return folder, load_params(folder, define(folder.config).shapes())


def tensors_of(path) -> dict[str, np.ndarray]:
    return {name: array for file in sorted(path.glob("*.safetensors")) for name, array in load_file(file).items()}


def weights_of(path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(path.glob("*.safetensors*"))}


def rename(path, change) -> None:
    """Writes the tensors of a folder anew, under other names."""
    tensors = tensors_of(path)
    save_file({name: array for name, array in change(tensors).items()}, path / "model.safetensors", {"format": "pt"})


def inner_names(tensors):
    def inside(name):
        prefix = next((prefix for prefix in INSIDE if name.startswith(prefix)), "")
        return INSIDE.get(prefix, "") + name.removeprefix(prefix)

    return {inside(name): array for name, array in tensors.items()}


@pytest.mark.parametrize(
    "published, nested", [(QWEN2_5_VL_3B, False), (QWEN2_5_VL_7B, True)], ids=["3b", "7b, config as transformers 5's"]
)
def test_import_then_export_gives_the_same_bytes_and_transformers_names(tmp_path, published, nested):
    needs_torch()
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    base = write_base(tmp_path / "base", narrow(published), max_shard_bytes=3 * 10**6, nested=nested)
    assert len(list(base.glob("model-*.safetensors"))) > 1
    folder, params = load_float32(base)
    counts = export_folder(*split_params(params, FROZEN), folder, tmp_path / "out", **LIMITS)
    assert weights_of(tmp_path / "out") == weights_of(base)
    assert counts.trained + counts.copied == len(folder.tensors) and counts.copied == 1 + 12 * 32
    theirs = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(folder.config))
    theirs.save_pretrained(tmp_path / "theirs")
    names = set(tensors_of(tmp_path / "out"))
    assert names == set(tensors_of(tmp_path / "theirs"))
    assert ("lm_head.weight" in names) == (published is QWEN2_5_VL_7B)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """Base, work directory, trained parameters, exported folder, by how the base names its tensors."""
    root, made = tmp_path_factory.mktemp("run"), {}

    def make(scheme: str):
        if scheme not in made:
            base = write_base(root / f"base-{scheme}", tiny_config())
            if scheme == "inner":
                rename(base, inner_names)
            trained = write_run(root / f"run-{scheme}", base)
            out = root / f"out-{scheme}"
            assert main([f"--workdir={root / f'run-{scheme}'}", f"--out={out}"]) == 0
            made[scheme] = base, root / f"run-{scheme}", trained, out
        return made[scheme]

    return make


@pytest.mark.parametrize("scheme", ["published", "inner"])
def test_what_trained_is_rounded_and_the_rest_is_the_bases_bytes(run_of, scheme):
    base, _, trained, out = run_of(scheme)
    before, after = tensors_of(base), tensors_of(out)
    assert list(before) == list(after)
    renamed = (lambda name: name) if scheme == "published" else (lambda name: next(iter(inner_names({name: 0}))))
    arrays = flatten(trained)
    parts = published_tensors({path: array.shape for path, array in arrays.items()}, NAMES)
    expected = {
        renamed(part.name): np.asarray(arrays[path] if part.layer is None else arrays[path][part.layer])
        for path, of_path in parts.items()
        for part in of_path
    }
    assert 0 < len(expected) < len(after)
    for name, array in after.items():
        wanted = expected[name].astype(jnp.bfloat16) if name in expected else before[name]
        assert array.dtype == before[name].dtype and array.tobytes() == wanted.tobytes(), name
        assert (array.tobytes() == before[name].tobytes()) == (name not in expected), name


def test_other_files_are_the_bases_but_for_card_and_pixels(run_of):
    base, _, _, out = run_of("published")
    assert {file.name for file in out.iterdir()} == {file.name for file in base.iterdir()} | {PROMPT_LIMITS}
    for name in ("config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json", "LICENSE"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    before, after = (json.loads((path / "preprocessor_config.json").read_text()) for path in (base, out))
    assert after == before | {"min_pixels": 3136, "max_pixels": 12544}
    assert "The base's own card" not in (out / "README.md").read_text()
    assert not list(out.parent.glob(".*"))


def test_a_tied_bases_own_head_is_the_new_embedding(tmp_path):
    base = write_base(tmp_path / "base", tiny_config())
    rename(base, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]})
    trained = write_run(tmp_path / "run", base)
    assert main([f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"]) == 0
    after = tensors_of(tmp_path / "out")
    expected = np.asarray(trained["decoder"]["embedding"]).astype(jnp.bfloat16)
    assert after["lm_head.weight"].tobytes() == after["model.embed_tokens.weight"].tobytes() == expected.tobytes()


def test_an_export_is_a_model_like_any_other(run_of):
    _, workdir, trained, out = run_of("published")
    opened = load_model(str(out))
    limits = {"min_pixels": 3136, "max_pixels": 12544}
    assert opened.recipe.processor.settings == limits and opened.dtype == jnp.float32
    params = flatten(load_float32(out)[1])
    for path, array in flatten(trained).items():
        np.testing.assert_array_equal(params[path], array.astype(jnp.bfloat16).astype(jnp.float32), err_msg=path)
    again = out.parent / "again"
    write_run(again, out)
    assert main([f"--workdir={again}", f"--out={out.parent / 'out-again'}"]) == 0
    assert main([f"--workdir={workdir}", f"--step={STEP}", f"--out={out.parent / 'out-seven'}"]) == 0
    assert weights_of(out.parent / "out-seven") == weights_of(out) != weights_of(out.parent / "out-again")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
from mmkp_jax.errors import InputError
from mmkp_jax.export import difference, main
sys.exit(main(sys.argv[2:]))
"""


def command(*flags: str, devices: int = 1, file_bytes: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess:
    """The command in a process of its own; no file may grow beyond `file_bytes`."""
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(file_bytes), *flags],
        cwd=ROOT,
        env=fake_devices(devices) | ({} if file_bytes == resource.RLIM_INFINITY else NO_CACHE),
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_sharded_over_eight_devices_gives_the_same_bytes(run_of, tmp_path):
    _, workdir, _, out = run_of("published")
    done = command(f"--workdir={workdir}", f"--out={tmp_path / 'out'}", devices=8)
    assert done.returncode == 0, done.stderr[-3000:]
    assert weights_of(tmp_path / "out") == weights_of(out)


def test_no_space_on_disk_is_one_line_and_leaves_nothing(run_of, tmp_path):
    _, workdir, _, _ = run_of("published")
    out = tmp_path / "new" / "out"
    done = command(f"--workdir={workdir}", f"--out={out}", file_bytes=100_000)
    assert done.returncode == 2
    assert done.stderr == f"{out}: the export cannot be written (File too large); check free space and permissions\n"
    assert list((tmp_path / "new").iterdir()) == []


KILLED = """
import os, sys
from mmkp_jax import export
from mmkp_jax.hf import export as writer

def kill(*_):
    os.kill(os.getpid(), 9)

if sys.argv[1] == "among tensors":
    fetch, left = writer.fetch, iter(range(60))  # of which 49 are compared with the base
    writer.fetch = lambda *arguments: kill() if next(left, None) is None else fetch(*arguments)
else:
    writer.os.replace = kill
sys.exit(export.main(sys.argv[2:]))
"""


@pytest.mark.parametrize("moment", [pytest.param("among tensors", marks=pytest.mark.nightly), "before the name"])
def test_an_export_that_was_killed_is_no_folder_and_is_replaced(run_of, tmp_path, moment):
    _, workdir, _, out = run_of("published")
    flags = [f"--workdir={workdir}", f"--out={tmp_path / 'out'}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    killed = subprocess.run([sys.executable, "-c", KILLED, moment, *flags], cwd=ROOT, env=environment)
    assert killed.returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name == ".out.unfinished" and (left / "model.safetensors").stat().st_size > 0
    assert (left / "config.json").exists() == (moment == "before the name")  # then it is whole
    assert main(flags) == 0
    assert weights_of(tmp_path / "out") == weights_of(out) and not left.exists()


def reported(capsys, *flags) -> str:
    """The one line of the error."""
    capsys.readouterr()
    assert main(list(flags)) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def test_mistakes_are_reported_in_one_line(run_of, tmp_path, capsys):
    base, workdir, _, out = run_of("published")
    run, new = f"--workdir={workdir}", f"--out={tmp_path / 'out'}"
    assert "--out=DIR is not given" in reported(capsys, run)
    assert "did you mean '--step'?" in reported(capsys, run, new, "--stepp=1")
    assert "there is no run here" in reported(capsys, f"--workdir={tmp_path}", new)
    assert "not a run's" in reported(capsys, f"--workdir={base}", new)
    assert f"no checkpoint '8'; give one of the steps {STEP}, latest or best" in reported(capsys, run, new, "--step=8")
    assert "the run has no best step" in reported(capsys, run, new, "--step=best")
    assert f"{out}: this exists, and is not an empty folder" in reported(capsys, run, f"--out={out}")
    assert "confirm it with --yes" in reported(capsys, run, new, "--push_to_hub=me/mine")
    assert list(tmp_path.iterdir()) == []


def test_the_best_checkpoint_is_in_a_folder_of_its_own(run_of, tmp_path):
    _, workdir, trained, _ = run_of("published")
    run = shutil.copytree(workdir, tmp_path / "run")
    with Best(run / "best", "valid/all/f1@1", step=0) as best:
        halved = jax.tree.map(lambda leaf: leaf / 2, trained)
        frozen = split_params(load_model(str(workdir)).params, FROZEN)[1]
        best.offer(3, {"trainable": halved}, {"valid/all/f1@1": 0.5}, digests_of(frozen))
    assert checkpoint_of(run, "best") == run / "best" / "3"
    assert checkpoint_of(run, "latest") == checkpoint_of(run, str(STEP)) == run / "checkpoints" / str(STEP)
    assert main([f"--workdir={run}", "--step=best", f"--out={tmp_path / 'out'}"]) == 0
    norm = tensors_of(tmp_path / "out")["model.norm.weight"]
    assert norm.tobytes() == np.asarray(halved["decoder"]["norm"]["scale"]).astype(jnp.bfloat16).tobytes()


def test_a_damaged_checkpoint_is_not_exported_or_predicted_with(run_of, tmp_path, capsys):
    run = shutil.copytree(run_of("published")[1], tmp_path / "run")
    files = [file for file in (run / "checkpoints" / str(STEP)).rglob("*") if file.is_file()]
    flip_bit(max(files, key=lambda file: file.stat().st_size), 12_345)
    line = reported(capsys, f"--workdir={run}", f"--out={tmp_path / 'out'}")
    assert f"checkpoints/{STEP}: the checkpoint is damaged (the content of state/" in line
    with pytest.raises(InputError, match="the checkpoint is damaged"):
        load_model(str(run))
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_gone_or_another_one_is_refused(tmp_path, capsys):
    base = write_base(tmp_path / "base", tiny_config())
    write_run(tmp_path / "run", base)
    flags = f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"

    tensors = tensors_of(base)
    changed = "visual.blocks.2.attn.proj.bias"
    save_file(tensors | {changed: tensors[changed] + 1}, base / "model.safetensors", {"format": "pt"})
    assert "not those that the run started from: visual.blocks.proj.bias;" in reported(capsys, *flags)

    save_file(
        {name: array for name, array in tensors.items() if name != "model.norm.weight"}, base / "model.safetensors"
    )
    assert "missing: model.norm.weight" in reported(capsys, *flags)

    wider = hf_config_dict(tiny_config(intermediate_size=100))
    (base / "config.json").write_text(json.dumps(wider))
    line = reported(capsys, *flags)
    assert "not the base that the run started from" in line and "decoder.layers.mlp.down.weight" in line

    base.rename(tmp_path / "elsewhere")
    assert "the model that this run started from" in reported(capsys, *flags)
    assert not (tmp_path / "out").exists()


def test_transformers_says_what_our_model_says(exported_pocket):
    """On every post that can be fed; the run's own float32 numbers differ by what bf16 rounds away."""
    needs_torch()
    workdir, out = exported_pocket
    verdict = verify(*open_step(workdir, "latest"), out)
    assert verdict.posts == SIZES["test"] - 1
    assert verdict.logits <= BOUND and verdict.other_answers == []
    assert 1e-4 < verdict.rounding / verdict.largest < 0.1


def test_an_export_that_is_not_the_models_is_found_out(exported_pocket, tmp_path):
    needs_torch()
    workdir, out = exported_pocket
    spoilt = shutil.copytree(out, tmp_path / "out")
    config = json.loads((spoilt / "config.json").read_text())
    (spoilt / "config.json").write_text(json.dumps(config | {"rope_theta": 500.0}))
    verdict = verify(*open_step(workdir, "latest"), spoilt, posts=2)
    assert verdict.logits > BOUND


def test_other_answers_fail_the_export_though_logits_agree(exported_pocket, tmp_path, capsys):
    """As where the base's generation_config.json has transformers choose other tokens."""
    needs_torch()
    workdir, _ = exported_pocket
    run = shutil.copytree(workdir, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    base = shutil.copytree(config["model"]["path"], tmp_path / "base")
    (base / "generation_config.json").write_text('{"no_repeat_ngram_size": 1}')
    config["model"]["path"] = str(base)
    (run / "config.json").write_text(json.dumps(config))
    line = reported(capsys, f"--workdir={run}", f"--out={tmp_path / 'out'}", "--verify")
    assert "out: transformers answers 5 of 5 posts differently: test-1, test-2, test-3, test-4, test-5; do not" in line


def test_numbers_that_are_none_are_found_out(exported_pocket, tmp_path):
    needs_torch()
    workdir, out = exported_pocket
    spoilt = shutil.copytree(out, tmp_path / "out")
    tensors = tensors_of(out)
    name = "model.norm.weight"
    save_file(tensors | {name: tensors[name] * np.nan}, spoilt / "model.safetensors", {"format": "pt"})
    verdict = verify(*open_step(workdir, "latest"), spoilt, posts=1)
    assert np.isnan(verdict.logits) and np.isnan(verdict.rounding)
    assert "differ from ours by nan" in difference(verdict)


def test_without_torch_a_line_says_that_nothing_was_verified(exported_pocket, tmp_path, monkeypatch, capsys):
    workdir, _ = exported_pocket
    monkeypatch.setattr("mmkp_jax.hf.verify.has_torch", lambda: False)
    assert main([f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--verify"]) == 0
    assert "not verified: torch is not installed" in capsys.readouterr().out


class Hub(http.server.BaseHTTPRequestHandler):
    """The part of the hub that an upload needs; records what it is sent."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked[self.path] = body
        files = json.loads(body).get("files", []) if "preupload" in self.path else []
        uploads = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in files]
        answers = {
            "/api/repos/create": {"url": "https://huggingface.co/me/mine"},
            "/api/validate-yaml": {"errors": [], "warnings": []},
            "/api/models/me/mine/preupload/main": {"files": uploads},
            "/api/models/me/mine/commit/main": {
                "commitUrl": "https://huggingface.co/me/mine/commit/0",
                "commitOid": "0",
            },
        }
        found = self.server.authorised in (None, self.headers["Authorization"]) and answers.get(self.path)
        said = json.dumps(found or {"error": "no"}).encode()
        self.send_response(200 if found else 401)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.authorised = {}, "Bearer hf_secret"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield server
    server.shutdown()


def test_an_upload_is_private_and_complete_and_keeps_the_token_to_itself(run_of, tmp_path, hub, capfd):
    _, workdir, _, _ = run_of("published")
    out = tmp_path / "out"
    assert main([f"--workdir={workdir}", f"--out={out}", "--push_to_hub=me/mine", "--yes"]) == 0
    created = json.loads(hub.asked["/api/repos/create"])
    assert created["visibility"] == "private" and (created["organization"], created["name"]) == ("me", "mine")
    lines = [json.loads(line) for line in hub.asked["/api/models/me/mine/commit/main"].splitlines()]
    sent = {line["value"]["path"] for line in lines if line["key"] == "file"}
    assert sent == {file.name for file in out.iterdir()}
    assert 'FOLDER = "me/mine"' in (out / "README.md").read_text()
    said = "".join(capfd.readouterr())
    assert "uploaded: http" in said and "hf_secret" not in said
    assert not any(b"hf_secret" in file.read_bytes() for file in out.iterdir())


def test_a_hub_that_cannot_be_reached_is_reported_in_one_line(run_of, tmp_path, hub, capsys):
    hub.server_close()
    _, workdir, _, _ = run_of("published")
    out = tmp_path / "out"
    line = reported(capsys, f"--workdir={workdir}", f"--out={out}", "--push_to_hub=me/mine", "--yes")
    assert line.startswith("me/mine: the hub does not accept it (") and "hf_secret" not in line
    assert line.endswith(f"; then: hf upload --private me/mine {out}\n")


def test_a_hub_that_refuses_is_reported_in_one_line(run_of, tmp_path, hub, capsys):
    hub.authorised = "Bearer another"
    _, workdir, _, _ = run_of("published")
    line = reported(capsys, f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--push_to_hub=me/mine", "--yes")
    assert line.startswith("me/mine: the hub does not accept it (") and "hf_secret" not in line
    assert (tmp_path / "out" / "config.json").exists()
