"""Bad images among real posts: exactly the unusable ones are rejects."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults import KINDS, as_they_must_be, read_faults, read_rejects
from mmkp_jax import prepare
from tests.support.paths import SHARED
from tests.support.shared_folder import cmkp

DRAW = SHARED / "tools" / "standin_images.py"
POSTS = 250
"""Posts taken from each split, from the top."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """A raw folder of the first real posts, and `images/` in it: images drawn for them, some bad on purpose."""
    folder = tmp_path_factory.mktemp("faults")
    for split in ("valid", "test"):
        lines = cmkp(f"tw_mm_s1/{split}_src.txt").read_text(encoding="utf-8").split("\n")[:POSTS]
        (folder / f"{split}_src.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    subprocess.run([sys.executable, str(DRAW), folder, folder / "images", "--faults"], check=True, capture_output=True)
    return folder


def flags(raw: Path, out: Path) -> list[str]:
    return ["--dataset=mmkp", f"--raw={raw}", f"--images={raw / 'images'}", f"--out={out}"]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest sets aside our own
def test_rejects_are_the_faults_that_cannot_be_fed(raw, tmp_path):
    counts = prepare.run(flags(raw, tmp_path / "out"))
    faults = read_faults(raw / "images")
    assert sum(map(bool, map(KINDS.get, faults.values()))) == sum(count.rejects for count in counts.values()) > 0
    assert as_they_must_be(faults, read_rejects(tmp_path / "out"))
    assert {split: count.posts for split, count in counts.items()} == {"valid": POSTS, "test": POSTS}
    assert all(count.records + count.rejects == count.posts for count in counts.values())


@pytest.mark.nightly
def test_the_first_fault_stops_where_none_may_be(raw, tmp_path, capsys):
    faults = read_faults(raw / "images")
    split, line = next(post for post, kind in faults.items() if KINDS[kind]).split("-")
    assert prepare.main([*flags(raw, tmp_path / "out"), "--on_bad_row=error"]) == 2
    assert f"{raw / f'{split}_src.txt'}:{line}: " in capsys.readouterr().err.splitlines()[-1]
