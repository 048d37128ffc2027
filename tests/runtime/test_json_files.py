"""JSON of unknown origin: every fault is one line with file, place and field."""

import json

import pytest

from mmkp_jax.errors import InputError
from mmkp_jax.runtime.json_files import Fields, parse, parse_object, read_object, read_rows

DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "text, reason",
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        (DEEP, "nested too deep"),
        ('{"a": ' + "1" * 5000 + "}", "a number with too many digits"),
        (b"\xff\xfe\xfd", "is not UTF-8"),
    ],
)
def test_what_is_no_json_is_one_line(text, reason):
    with pytest.raises(InputError, match=reason) as raised:
        parse(text, "f.json")
    assert str(raised.value).startswith("f.json: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["[]", "1", "null", '"x"'])
def test_another_value_is_no_object(text):
    with pytest.raises(InputError, match="not a JSON object"):
        parse_object(text, "f.json")


OTHER = [None, True, "x", 1.5, -1, [], {}, ["a", 1], [1, "a"], [{}, 1], 10**400, float("inf"), float("nan")]


@pytest.mark.parametrize("value", OTHER)
@pytest.mark.parametrize(
    "take, holds",
    [
        (Fields.text, lambda v: isinstance(v, str)),
        (Fields.flag, lambda v: v is True),
        (Fields.integer, lambda v: False),
        (Fields.number, lambda v: type(v) in (int, float) and v in (1.5, -1)),
        (Fields.texts, lambda v: v == []),
        (Fields.numbers, lambda v: v == []),
        (Fields.rows, lambda v: v == []),
        (Fields.object, lambda v: v == {}),
    ],
)
def test_a_field_of_another_type_is_named_with_its_place(take, holds, value):
    fields = Fields({"a": value}, "f.json:3", path="data")
    if holds(value):
        take(fields, "a")
        return
    with pytest.raises(InputError, match=r"^f\.json:3: 'data\.a' is .*, not "):
        take(fields, "a")


def test_an_absent_field_gives_its_default_or_is_named():
    fields = Fields({}, "f.json")
    assert fields.text("a", "x") == "x" and fields.texts("a", []) == []
    with pytest.raises(InputError, match="has no 'a'"):
        fields.text("a")


def test_fields_inside_say_the_whole_path():
    fields = Fields({"rows": [{"a": {"b": 1}}]}, "f.json")
    with pytest.raises(InputError, match=r"'rows\[0\]\.a\.b' is 1, not text"):
        fields.rows("rows")[0].object("a").text("b")


def test_json_lines_are_read_with_their_places(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": 2}\n')
    assert [(row.where, row.integer("a")) for row in read_rows(file)] == [(f"{file}:1", 1), (f"{file}:3", 2)]


def test_a_line_that_a_kill_cut_off_is_passed_over_only_at_the_end_and_only_if_asked(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": 1}\n{"a": ')
    assert [row.integer("a") for row in read_rows(file, cut_off=True)] == [1]
    with pytest.raises(InputError, match=f"{file}:2: is not JSON"):
        list(read_rows(file))
    file.write_text('{"a": 1}\n{"a": \n')  # a line that was written to its end is damaged, not cut off
    with pytest.raises(InputError, match=f"{file}:2: is not JSON"):
        list(read_rows(file, cut_off=True))
    file.write_text('{"a": \n{"a": 1}\n')
    with pytest.raises(InputError, match=f"{file}:1: is not JSON"):
        list(read_rows(file, cut_off=True))


def test_a_file_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"a": "x" * 100}))
    monkeypatch.setenv("MMKP_MAX_FILE_BYTES", "50")
    with pytest.raises(InputError, match=r"more than 50 bytes.*MMKP_MAX_FILE_BYTES"):
        read_object(file)
    monkeypatch.setenv("MMKP_MAX_FILE_BYTES", "many")
    with pytest.raises(InputError, match="MMKP_MAX_FILE_BYTES: 'many' is not a number of bytes"):
        read_object(file)
