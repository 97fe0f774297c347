"""Read the JSON of a request, and refuse what different readers understand differently.

RFC 8259 leaves open what a name that occurs twice means, and what NaN, Infinity and lone surrogates
are. They are refused, and so are numbers and nesting that exceed what Python reads.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

__all__ = ["MAX_NAMES", "parse"]

MAX_NAMES = 512
"""The most names in one object; a request has about ten, and its `logit_bias` up to 300."""


def parse(data: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises:
        ValueError: it is not JSON, or it is refused; the message says why.
    """
    try:
        value = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_refused, parse_float=_finite
        )
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from error
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair is no character") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MAX_NAMES:
        raise ValueError(f"an object has more than {MAX_NAMES} names")
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice in an object")
    return found


def _refused(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value
