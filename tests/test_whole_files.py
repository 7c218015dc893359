"""Files that are written whole, strict JSON, and names that may hold anything."""

import json
import math
import os

import numpy as np
import pytest

from calibrax._files import from_json, printable, to_json, write_text


def refuse(name):
    raise AssertionError(f"{name} is not JSON")


def test_json_holds_null_for_numbers_that_are_not_finite():
    record = {"a": math.nan, "b": [1.5, -math.inf, (np.float64("inf"), 2)], "c": {"0.5": {"d": np.float64("nan")}}}
    expected = {"a": None, "b": [1.5, None, [None, 2]], "c": {"0.5": {"d": None}}}
    for indent in (None, 2):
        text = to_json(record, indent=indent)
        assert json.loads(text, parse_constant=refuse) == expected
        assert from_json(text) == expected
    assert record["b"][1] == -math.inf  # unchanged


def test_json_of_earlier_versions_is_read_with_none_for_what_is_not_finite():
    assert from_json('{"a": NaN, "b": [Infinity, -Infinity, 1e3], "c": "NaN"}') == {
        "a": None,
        "b": [None, None, 1000.0],
        "c": "NaN",
    }
    with pytest.raises(ValueError, match="Expecting"):
        from_json("{")


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "a" * 252 + ".py", os.fsdecode(b"b\xe4r"), "a\nb", "100%", " "])
def test_a_file_of_any_name_is_written_whole(tmp_path, name):
    for text in ("first", "second"):
        write_text(tmp_path / name, text)
        assert (tmp_path / name).read_text() == text
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("日本 é {a} 100% $x$", "日本 é {a} 100% $x$"),
        (os.fsdecode(b"b\xe4r"), "b\\udce4r"),
        ("a\nb\tc\r", "a\\nb\\tc\\r"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_text_for_titles_and_tables_is_one_line_that_any_stream_of_unicode_takes(text, expected):
    assert printable(text) == expected
    printable(text).encode()
