"""Lines of any length and any compression, in bounded memory."""

import gzip
import tracemalloc

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.lines import lines_of, read_bytes, read_lines


def test_lines_end_at_line_feeds_alone(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffa\u2028b\r\n\nc\x0bd\n".encode())
    assert [(n, content.decode()) for n, content, _ in lines_of(file)] == [(1, "a\u2028b"), (2, ""), (3, "c\x0bd")]
    assert read_lines(file) == ["a\u2028b", "", "c\x0bd"]


@pytest.mark.parametrize("packed", [False, True])
def test_a_line_over_the_limit_is_skipped_and_the_next_one_read(tmp_path, monkeypatch, packed):
    monkeypatch.setenv("MMKP_MAX_LINE_BYTES", "10")
    file = tmp_path / ("a.gz" if packed else "a")
    content = b"0123456789\n" + b"x" * 1000 + b"\nlast"
    file.write_bytes(gzip.compress(content) if packed else content)
    assert list(lines_of(file)) == [(1, b"0123456789", False), (2, b"", True), (3, b"last", False)]


def test_memory_does_not_grow_with_a_compressed_line(tmp_path, monkeypatch):
    monkeypatch.setenv("MMKP_MAX_LINE_BYTES", "100000")
    file = tmp_path / "a.gz"
    with gzip.open(file, "wb", 1) as out:
        for _ in range(64):
            out.write(b"x" * (1 << 20))
    tracemalloc.start()
    assert [line.too_long for line in lines_of(file)] == [True]
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("content", [b"no gzip", gzip.compress(b"x" * 1000)[:20], b""], ids=["text", "cut", "empty"])
def test_damaged_compression_is_one_line(tmp_path, content):
    file = tmp_path / "a.gz"
    file.write_bytes(content)
    if not content:
        assert list(lines_of(file)) == []
        return
    with pytest.raises(InputError, match="not a gzip file, or is damaged"):
        list(lines_of(file))
    with pytest.raises(InputError, match="not a gzip file, or is damaged"):
        read_bytes(file)


def test_text_that_is_not_utf_8_is_reported_with_its_line(tmp_path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"a\nb\xff\n")
    with pytest.raises(InputError, match=f"{file}:2: is not UTF-8"):
        read_lines(file)
