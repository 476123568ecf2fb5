"""Reading together: nobody can tell from results or ledgers who else read in the same pass."""

import pytest
import torch

from harness import Completion, Run
from harness.paying import paying
from harness.toolbox import collate, hidden_states, llama, reading, token_logprobs
from harness.toolbox.prefixes import remembered
from harness.toolbox.reading import together

pytestmark = pytest.mark.usefixtures("either_product")

TAILS = [(5, 6), (7, 8, 9, 10, 11), (12,), (*range(13, 40),)]


@pytest.fixture
def passes(monkeypatch):
    """Rows of each pass over the module."""
    counts, real = [], reading._pass
    monkeypatch.setattr(reading, "_pass", lambda m, rows, *a, **k: counts.append(len(rows)) or real(m, rows, *a, **k))
    return counts


def rows_of(model, tail):
    """Three rows of one question: prompts and completions of different lengths."""
    prompt = (1, *tail[:1], 3)
    return collate(model, [(prompt, tail), (prompt, (*tail, 2)), ((*prompt, 4), (9, *tail))])


class Question:
    """Reads for a question of its own, and pays for it."""

    def __init__(self, model, tail):
        self.model, self.tail, self.run = model, tail, Run(0)

    @torch.no_grad()
    def read(self):
        rows = rows_of(self.model, self.tail)
        with self.run.pays():
            logprobs = token_logprobs(self.model, rows)  # then, once that is known:
            return logprobs, hidden_states(self.model, rows, rows.completion_mask)


@pytest.fixture
def ask(any_model):
    watcher = Run(0)
    watcher.watch(any_model)

    def ask(how):
        questions = [Question(any_model, tail) for tail in TAILS]
        found = how(Question.read, questions)
        return found, [question.run.ledger for question in questions], watcher.ledger.model_calls

    yield ask
    watcher.close()


@pytest.mark.parametrize("kept", [False, True])
def test_what_is_read_together_is_what_each_reads_alone(ask, passes, kept):
    alone, paid, _ = ask(lambda read, questions: list(map(read, questions)))
    assert passes == [3] * 8
    passes.clear()
    if kept:
        with remembered():
            found, paid_together, unpaid = ask(together)
    else:
        found, paid_together, unpaid = ask(together)
    assert passes == [12, 12]  # one pass for the words of all, one for the states
    for ours, theirs in zip(found, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert paid_together == paid
    assert all(ledger.scored_tokens and ledger.flops and ledger.model_calls == 2 for ledger in paid)
    assert not unpaid


def test_a_pass_holds_no_more_than_suits_the_device_and_rows_of_like_length(ask, passes, monkeypatch):
    alone, *_ = ask(lambda read, questions: list(map(read, questions)))
    passes.clear()
    monkeypatch.setattr(reading, "read_tokens", lambda _: 60)
    found, *_ = ask(together)
    assert passes == [6, 3, 3] * 2  # the two shortest, and each of the longer ones by itself
    for ours, theirs in zip(found, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_weights_that_are_lent_are_read_by_who_lent_them_alone(tiny_model, make_model, passes):
    """A scorer that puts its start's weights into the model for a moment, while others wait with their own."""
    lent = [parameter.data for parameter in make_model(seed=3).module.parameters()]

    @torch.no_grad()
    def both(tail):
        rows = rows_of(tiny_model, tail)
        with paying(Run(0)):
            first = token_logprobs(tiny_model, rows)
            parameters = list(tiny_model.module.parameters())
            own = [parameter.data for parameter in parameters]
            for parameter, data in zip(parameters, lent, strict=True):
                parameter.data = data
            second = token_logprobs(tiny_model, rows)
            for parameter, data in zip(parameters, own, strict=True):
                parameter.data = data
            return first, second, token_logprobs(tiny_model, rows)

    expected = list(map(both, TAILS))
    passes.clear()
    found = together(both, TAILS)
    assert passes == [12, 3, 3, 3, 3, 12]
    for ours, alone in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-5)
    assert not torch.equal(found[0][0], found[0][1])


def test_what_wants_a_gradient_is_read_alone(tiny_model, passes):
    rows = [rows_of(tiny_model, tail) for tail in TAILS]

    def loss(of_one):
        with paying(Run(0)):
            return token_logprobs(tiny_model, of_one).sum()

    sums = together(loss, rows)
    assert passes == [3] * 4
    sum(sums).backward()
    assert all(parameter.grad is not None for parameter in tiny_model.module.parameters())


def test_two_models_meet_in_passes_of_their_own(tiny_model, make_model, passes):
    models = [tiny_model, make_model(seed=3)] * 2

    @torch.no_grad()
    def read(pair):
        model, tail = pair
        with paying(Run(0)):
            return token_logprobs(model, rows_of(model, tail))

    pairs = list(zip(models, TAILS, strict=True))
    expected = list(map(read, pairs))
    passes.clear()
    found = together(read, pairs)
    assert passes == [6, 6]
    for ours, alone in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-5)


def test_words_and_states_are_read_in_passes_of_their_own(tiny_model, passes):
    @torch.no_grad()
    def read(numbered):
        number, tail = numbered
        rows = rows_of(tiny_model, tail)
        with paying(Run(0)):
            return (
                token_logprobs(tiny_model, rows)
                if number % 2
                else hidden_states(tiny_model, rows, rows.completion_mask)
            )

    expected = list(map(read, enumerate(TAILS)))
    passes.clear()
    found = together(read, list(enumerate(TAILS)))
    assert passes == [6, 6]
    for ours, alone in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, alone, rtol=1e-5, atol=1e-5)


def test_an_error_of_a_question_or_of_a_pass_reaches_who_asked(tiny_model, monkeypatch):
    def fail(tail):
        if tail == TAILS[2]:
            msg = "no judgement"
            raise ValueError(msg)
        with torch.no_grad(), paying(Run(0)):
            return token_logprobs(tiny_model, rows_of(tiny_model, tail))

    with pytest.raises(ValueError, match="no judgement"):
        together(fail, TAILS)
    monkeypatch.setattr(llama.Llama, "read", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        together(fail, TAILS[:2])
    assert "forward" not in vars(tiny_model.module)


def test_one_question_needs_no_thread(tiny_model, monkeypatch):
    monkeypatch.setattr(reading, "Exchange", None)
    assert together(lambda item: item.text, [Completion("said", (), (), "eos")]) == ["said"]
