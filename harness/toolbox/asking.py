"""What methods ask a model beside the question itself."""

from __future__ import annotations

import re

from harness.contracts import Prompt


def asked_to_fix(ask: str, prompt: Prompt, draft: str) -> Prompt:
    """`ask` in place of the question, or of the conversation's last turn, with the draft on one line.

    ask: a text with {question} and {draft}; other braces, in it or in the texts, mean nothing.
    """
    *earlier, last = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    parts = {"{question}": last["content"], "{draft}": " ".join(draft.split())}
    said = re.sub(r"\{question\}|\{draft\}", lambda found: parts[found[0]], ask)
    return (*earlier, {**last, "content": said})
