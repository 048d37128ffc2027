"""Hostile text is harmless where it is displayed."""

import json

import pytest

from mmkp_jax.runtime.escape import for_file_name, for_markdown, for_script, for_terminal

HOSTILE = "a\x1b[2J\x9b\r\n\u202eb\u2028\ud800 <script>alert(1)</script> [x](javascript:alert(1)) `c` |"


def test_control_characters_are_escaped_for_terminals_and_letters_and_emoji_kept():
    shown = for_terminal(HOSTILE)
    assert shown.isprintable() and shown.startswith("a\\x1b[2J\\x9b\\r\\n\\u202eb\\u2028\\ud800 <script>")
    assert for_terminal("γ é 👩‍👩‍👧 日本") == "γ é 👩‍👩‍👧 日本"
    assert for_terminal("a\nb\x1b", lines=True) == "a\nb\\x1b"


def test_markdown_is_one_line_without_markup():
    shown = for_markdown(HOSTILE)
    assert (
        "\n" not in shown and "\\<script\\>" in shown and "\\[x\\]\\(javascript\\:alert" in shown and "\\`c\\`" in shown
    )


def test_json_for_a_script_cannot_end_its_tag():
    shown = for_script({"a": "</script><!--\u2028&"})
    assert not set("<>&\u2028") & set(shown) and json.loads(shown) == {"a": "</script><!--\u2028&"}


@pytest.mark.parametrize("text", ["", "..", "../../etc/passwd", "a/b", "-rf", "é\x00", "x" * 500, ".hidden"])
def test_a_file_name_stays_in_its_folder(text):
    name = for_file_name(text)
    assert name and "/" not in name and not name.startswith((".", "-")) and len(name) <= 80 and name.isascii()
