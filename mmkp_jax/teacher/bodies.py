"""Parses the JSON of an answer, whatever the endpoint sent, to an object that can be written and read again."""

import json
import math
from typing import Any

from mmkp_jax.runtime.json_files import is_deep

DIGITS = 400
"""Most digits of an integer; a longer one is kept as text."""


class NotJson(ValueError):
    """Raised for bytes that are not a readable JSON object; the message says why."""


def read_body(content: bytes) -> dict[str, Any]:
    """Parses a body in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Numbers that JSON or Python cannot represent (NaN, 1e999, a million digits) are kept as text.

    Raises:
        NotJson: it is not an object, or nested too deep.
    """
    try:
        body = json.loads(content, parse_int=_integer, parse_float=_real, parse_constant=str)
    except RecursionError:
        raise NotJson("the answer's JSON is nested too deep") from None
    except ValueError:
        raise NotJson("the answer is not JSON") from None
    if not isinstance(body, dict):
        raise NotJson("the answer is not a JSON object")
    if is_deep(body):
        raise NotJson("the answer's JSON is nested too deep")
    return body


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= DIGITS else digits


def _real(digits: str) -> float | str:
    value = float(digits)
    return value if math.isfinite(value) else digits
