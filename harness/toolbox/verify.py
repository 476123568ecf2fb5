r"""The answer in a text, in one form whichever way it was written, so that votes count what is the same as the same.

The last marker counts (`A:`, `####`, `\boxed{}`, "answer is"), and without any marker the last number. What follows a
marker but cannot be read is no answer, even if an earlier one could be read: fail closed.
"""

from __future__ import annotations

import re

MARKER = re.compile(r"(?<![A-Za-z0-9])A(?:nswer)?:|####|\\boxed\s*\{|\banswer\s+is\b:?", re.IGNORECASE)
NUMBER = re.compile(
    r"(?:(?<![0-9A-Za-z)\]}])[-+])?\$?"  # after a digit or a word the sign is an operation or a hyphen
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:/[0-9]+)?"
)
MINUSES = str.maketrans("\u2212\ufe63\uff0d", "---")
LONGEST = 200
"""Characters of an answer that is not a number; longer ones are no answer but a text."""


def _matching_brace(text: str) -> str | None:
    """What stands before the brace that closes an open one; None where nothing closes it."""
    depth = 1
    for place, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return text[:place]
    return None


def canonical_number(text: str) -> str:
    """A number as matched by `NUMBER`, without signs that mean nothing: '+1,000.50' is '1000.5'."""
    plain = re.sub(r"[\s,$+]", "", text)
    sign, plain = ("-", plain[1:]) if plain.startswith("-") else ("", plain)
    number, slash, below = plain.partition("/")
    whole, _, fraction = number.partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    value = f"{whole}.{fraction}" if fraction else whole
    if slash and (below := below.lstrip("0") or "0") != "1":
        value = f"{value}/{below}"
    return value if value == "0" else sign + value


def _canonical(said: str) -> str | None:
    """The canonical form of what follows a marker; of `3+4=7` the last side counts."""
    said = said.rsplit("=", 1)[-1].strip().strip("$*`\"' ").rstrip(".!,;: ")
    numbers = NUMBER.findall(said)
    if numbers and "\\" not in said:
        return canonical_number(numbers[0])
    plain = re.sub(r"[\s$%,]", "", said).strip(".*()")
    return plain if 0 < len(plain) <= LONGEST else None


def final_answer(text: str) -> str | None:
    """The last answer in `text` in canonical form, None where there is none. Never raises.

    '1,000' is '1000', '37.0' and '$37.' are '37', a Unicode minus is '-'.
    """
    text = text.translate(MINUSES)
    marker = None
    for marker in MARKER.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    if marker is None:
        numbers = NUMBER.findall(text)
        return canonical_number(numbers[-1]) if numbers else None
    rest = text[marker.end() :]
    if marker.group().startswith("\\"):
        inside = _matching_brace(rest)
        return None if inside is None else _canonical(inside)
    first = rest.lstrip(" \t").split("\n", 1)[0]
    return _canonical(first)
