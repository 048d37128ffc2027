"""The JSON of an answer: bytes → an object that can be written and read again, whatever the endpoint sent."""

import json
import math
from typing import Any

from mmkp_jax.runtime.json_files import is_deep

DIGITS = 400
"""Of a whole number that is kept as one; a longer one is kept as its text."""


class NotJson(ValueError):
    """Bytes that are no JSON object of a readable kind; says why."""


def read_body(content: bytes) -> dict[str, Any]:
    """The object in a body, in UTF-8, UTF-16 or UTF-32 and with or without a byte order mark, as JSON has it.

    What JSON has no word for, or Python no number (NaN, 1e999, a million digits), is kept as its text.

    Raises:
        NotJson: it is no object, or nested deeper than `DEPTH`.
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
