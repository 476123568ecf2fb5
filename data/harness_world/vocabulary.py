"""The vocabulary, read off the tables of `wordings`: specials, digits, signs and words."""

from __future__ import annotations

import re

from harness_world import wordings

SPECIALS = ("<pad>", "<bos>", "<eos>", "<unk>")
SIGNS = "+-*/=.,?:!"
SPACE = "\u2581"
"""What stands for the space before a word."""


def words() -> list[str]:
    """Every word of the tables, sorted."""
    tables = [*wordings.NAMES, *wordings.THINGS.texts, *wordings.MONEY.texts, wordings.FOLLOW_UP_ASK]
    tables += [*wordings.FACT_WORDS, wordings.ABOUT, wordings.TASK_FORM, *wordings.INSTRUCTIONS]
    tables += [key for keys in wordings.TASK_KEYS.values() for key in keys]
    tables += [wordings.THINK, wordings.JUDGE, wordings.GOOD, wordings.BAD]
    tables += [wordings.DRAFT, wordings.FIX, wordings.RIGHT, "Q T A is Then"]
    bare = (re.sub(r"\{\w+\}", "", text) for text in tables)
    return sorted({word for text in bare for word in re.findall(r"[A-Za-z']+", text)})


def vocabulary() -> dict[str, int]:
    """Token to id: specials, newline, space, then digits, signs and words in both forms."""
    stems = [*"0123456789", *SIGNS, *words()]
    tokens = [*SPECIALS, "\n", SPACE]
    tokens += [form for stem in stems for form in (stem, SPACE + stem)]
    return {token: index for index, token in enumerate(tokens)}
