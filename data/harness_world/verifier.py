"""The verifier reads the last answer in a text and says whether it is the right number.

One extractor serves reward and evaluation. It fails closed: what cannot be read is wrong, and a
text that ends in an unreadable answer is not saved by an earlier one.
"""

from __future__ import annotations

import re

MARK = re.compile(r"(?<![A-Za-z0-9])A:")
NUMBER = re.compile(r"-?(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,18})")
"""A lone whole number, with or without commas between thousands; 18 digits at most."""


def extract(text: str) -> str | None:
    """The number after the last `A:`, as plain digits; None where no lone number is there."""
    marks = [mark.end() for mark in MARK.finditer(text)]
    if not marks:
        return None
    said = text[marks[-1] :].split("\n", 1)[0].strip().removesuffix(".").strip()
    return str(int(said.replace(",", ""))) if NUMBER.fullmatch(said) else None


def verify(answer: str, text: str) -> tuple[bool, str | None]:
    """(right or not, what was read). The answer key goes through the same reader."""
    said = extract(text)
    return said is not None and said == extract(f"A: {answer}"), said
