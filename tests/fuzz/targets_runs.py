"""Readers of what a run left in its work directory, and of who writes there."""

import json
from pathlib import Path

from configs.dyncot import get_config
from mmkp_jax.hf.prompt_limits import PROMPT_LIMITS, read_prompt_limits
from mmkp_jax.inference.run_config import run_config
from mmkp_jax.runtime import checksums, lock
from mmkp_jax.runtime.config import default_config, override, parse_overrides
from mmkp_jax.runtime.field_checks import check_settings
from mmkp_jax.runtime.json_files import Fields, read_object
from mmkp_jax.runtime.old_configs import upgrade
from mmkp_jax.training.contents import same_content
from mmkp_jax.training.workdir import truncate_log
from tests.fuzz.harness import Target
from tests.fuzz.targets_posts import lines_of

CONTENTS = {"data.path": "ab" * 32, "model.path": "cd" * 32}
FED = {"max_text_tokens": 512, "answer_tokens": 384, "prompt_version": 1}
FLAGS = "gamma=0.4\nfreeze=('tower',)\nrow.images.patches=64\nremat=True\nseed=3\nsharding_rules.embed=None"
OLD = {"strategy": "dyncot", "row": {"tokens": 8, "patches": 9, "windows": 1}, "data": {"min_pixels": 1}, "freeze": []}
STEPS = [{"step": n, "loss": 1.5, "posts": ["a", "b"]} for n in range(1, 6)]


def _as_json(content: dict) -> bytes:
    return json.dumps(content).encode()


def _cut_back(data: bytes, root: Path) -> None:
    (root / "metrics.jsonl").write_bytes(data)
    truncate_log(root / "metrics.jsonl", 3)
    for line in (root / "metrics.jsonl").read_bytes().split(b"\n")[:-1]:
        assert Fields(json.loads(line), "metrics.jsonl").number("step") <= 3


def _same_content(data: bytes, root: Path) -> None:
    (root / "contents.json").write_bytes(data)
    for field in ("data.path", "model.path"):
        same_content(root, CONTENTS, field, "a", "b")


def _feeding(data: bytes, root: Path) -> None:
    (root / PROMPT_LIMITS).write_bytes(data)
    read_prompt_limits(root)


def _run_config(data: bytes, root: Path) -> None:
    (root / "config.json").write_bytes(data)
    run_config(root)


def _old_config(data: bytes, root: Path) -> None:
    (root / "config.json").write_bytes(data)
    content = read_object(root / "config.json").content
    assert upgrade(upgrade(content)) == upgrade(content)


def _overrides(data: bytes, root: Path) -> None:
    flags = [f"--config.{line}" for line in data.decode("utf-8", "surrogateescape").splitlines()]
    values, faults = parse_overrides(flags)
    for fault in faults:
        assert "\n" not in str(fault.error())
    config = default_config()
    override(config, values)
    check_settings(config)


def _sealed(root: Path) -> list[bytes]:
    folder = root / "step"
    folder.mkdir()
    (folder / "a").write_bytes(b"x" * 100)
    checksums.write_checksums(folder)
    return [(folder / checksums.CHECKSUMS_FILE).read_bytes()]


def _damage(data: bytes, root: Path) -> None:
    (root / "step" / checksums.CHECKSUMS_FILE).write_bytes(data)
    what = checksums.find_damage(root / "step")
    assert what is None or what.isprintable()


def _owner(data: bytes, root: Path) -> None:
    (root / lock.LOCK).write_bytes(data)
    owner = lock._try_owner(root)
    assert owner is None or lock.is_alive(owner) in (True, False)


TARGETS = [
    Target("run: metrics and skipped steps", lambda _: [lines_of(STEPS)], _cut_back),
    Target("run: contents.json", lambda _: [_as_json(CONTENTS)], _same_content),
    Target("run: config.json", lambda _: [get_config().to_json().encode()], _run_config, share=0.5),
    Target("run: config.json of earlier revisions", lambda _: [_as_json(OLD)], _old_config, share=0.5),
    Target("main: --config.key=value", lambda _: [FLAGS.encode()], _overrides),
    Target("run: checksums.json", _sealed, _damage, refusals=()),
    Target("run: run.lock", lambda _: [_as_json(lock.this_process()._asdict())], _owner, refusals=()),
    Target("export: mmkp_jax.json", lambda _: [_as_json(FED)], _feeding),
]
