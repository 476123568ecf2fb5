"""Rows: where a stop string ends one, whatever pieces a tokenizer speaks in."""

import random

import pytest
import torch

from harness.toolbox.choice import Row, Rows
from harness.toolbox.pieces import Pieces

EOS = 0
BYTES = [b"", *(bytes([b]) for b in "é\n. aA:".encode())]
WORDS = [b"", b" a", b"b.", b".\n", b"\n\n", b"A:", b" ", b"c", "é".encode(), b". d"]
STOPS = [(".",), (".", "\n\n"), ("A:",), ("é",), ("a ",), (". ", "b"), ("\n\nA",)]


def spoken(pieces, tokens, *, strips):
    """As tokenizers do: half a character is a question mark, and some drop a blank where a text begins."""
    text = b"".join(pieces[token] for token in tokens).decode(errors="replace")
    return text.removeprefix(" ") if strips else text


def length_drawn(pieces, tokens, stop, *, strips):
    """Of a row that is made to speak `tokens`."""
    speech = Pieces(lambda t: spoken(pieces, t, strips=strips))
    rows = Rows([Row((1,), 0, 0.0, len(tokens), stop)], EOS, torch.device("cpu"), speech)
    for token in tokens:
        if rows.alive:
            rows.choose(torch.eye(len(pieces))[[token]])
    return len(rows.completions()[0].tokens)


@pytest.mark.parametrize("strips", [False, True])
@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.parametrize("pieces", [BYTES, WORDS], ids=["bytes", "words"])
def test_a_row_ends_with_the_token_that_completes_a_stop_string(pieces, stop, strips):
    chance, ended = random.Random(0), 0
    for _ in range(60):
        tokens = [chance.randrange(1, len(pieces)) for _ in range(12)]
        texts = [spoken(pieces, tokens[: count + 1], strips=False) for count in range(12)]
        expected = next((n for n, text in enumerate(texts, 1) if any(word in text for word in stop)), 12)
        assert length_drawn(pieces, tokens, stop, strips=strips) == expected
        ended += expected < 12
    assert ended


def test_rows_that_ended_may_stay_and_change_nothing():
    """Of four rows the first and the third end; one of them stays, in its place, and is not alive again."""
    rows = Rows([Row((1,), 0, 0.0, 5)] * 4, EOS, torch.device("cpu"), Pieces(lambda tokens: "x" * len(tokens)))
    rows.choose(torch.eye(3)[[EOS, 1, EOS, 1]])
    assert rows.compact(3).tolist() == [0, 1, 3]
    assert rows.alive == 2
    rows.choose(torch.eye(3)[[2, 2, EOS]])
    assert rows.compact(1).tolist() == [1]
    rows.choose(torch.eye(3)[[EOS]])
    assert [completion.tokens for completion in rows.completions()] == [(EOS,), (1, 2, EOS), (EOS,), (1, EOS)]
