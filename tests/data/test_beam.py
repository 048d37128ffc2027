"""Apache Beam, on several processes, writes the very dataset that one process writes."""

import os

import pytest

pytest.importorskip("apache_beam", reason="the extra `beam` is not installed")

from mmkp_jax import prepare
from mmkp_jax.data import shards
from tests.support.raw_posts import read_rows, write_cmkp, write_images

TWO_PROCESSES = "--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2"


@pytest.fixture
def flags(tmp_path, monkeypatch) -> list[str]:
    monkeypatch.setattr(shards, "POSTS_A_BLOCK", 8)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]))  # workers'
    raw = write_cmkp(tmp_path / "raw", train=[f"k{i};all" if i % 9 else "" for i in range(60)], test=["a", "b"])
    images = write_images(tmp_path / "images")
    (images / "7.jpg").write_bytes(b"no image")
    return ["--dataset=mmkp", f"--raw={raw}", f"--images={images}"]


def test_beam_writes_the_same_files(flags, tmp_path, monkeypatch):
    counts = prepare.run([*flags, f"--out={tmp_path / 'plain'}"])
    monkeypatch.setattr(shards, "upright_size", None)  # this process has nothing to decode
    assert prepare.run([*flags, f"--out={tmp_path / 'beam'}", f"--beam={TWO_PROCESSES}"]) == counts
    assert (counts["train"].records, counts["train"].rejects) == (51, 7 + 2)
    for file in (tmp_path / "plain").rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "beam" / file.relative_to(tmp_path / "plain")).read_bytes(), file
    lines = [row["line"] for row in read_rows(tmp_path / "beam/rejects.jsonl")]
    assert lines == sorted(lines)


def test_the_first_bad_row_is_reported_under_beam_too(flags, tmp_path, capsys):
    raw = tmp_path / "raw"
    (raw / "train_src.txt").write_text((raw / "train_src.txt").read_text().replace("<sep><sep>", "<sep>k<sep>"))
    assert prepare.main([*flags, f"--out={tmp_path / 'out'}", f"--beam={TWO_PROCESSES}", "--on_bad_row=error"]) == 2
    assert "train_src.txt:8: the file is no image" in capsys.readouterr().err.splitlines()[-1]
