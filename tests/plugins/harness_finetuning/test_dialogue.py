"""Dialogue: loss on every reply and its end, on nothing else; whole turns go when a conversation is too long."""

import pytest
import torch

from harness import Conversation
from harness.toolbox import collate_masked, completion_loss, encode_pairs
from harness_finetuning.dialogue import Dialogue, encode, fitted


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


TURNS = (user("1+1?"), assistant("A: 2"), user("and 3 more?"), assistant("A: 5"))


def said(model, ids, mask):
    return model.tokenizer.decode([token for token, learnt in zip(ids, mask, strict=True) if learnt])


def test_what_is_learnt_is_every_reply_with_its_end(tiny_model):
    ids, mask = encode(tiny_model, TURNS)
    assert said(tiny_model, ids, mask) == "A: 2<eos>A: 5<eos>"
    assert tiny_model.tokenizer.decode(ids) == "<bos>Q: 1+1?\nA: 2<eos>Q: and 3 more?\nA: 5<eos>"


def test_training_reads_what_answering_will_read(tiny_model):
    ids, _ = encode(tiny_model, TURNS)
    prompt = tiny_model.encode_prompt(TURNS[:3])
    assert ids[: len(prompt)] == prompt


def test_the_loss_is_that_of_the_replies_one_by_one(tiny_model):
    together = completion_loss(tiny_model, collate_masked(tiny_model, [encode(tiny_model, TURNS)]), backward=False)
    parts = [encode_pairs(tiny_model, [(TURNS[:1], "A: 2")]), encode_pairs(tiny_model, [(TURNS[:3], "A: 5")])]
    losses = [completion_loss(tiny_model, part, backward=False) * part.tokens for part in parts]
    assert together == pytest.approx(sum(losses) / sum(part.tokens for part in parts), rel=1e-5)


def test_whole_turns_are_dropped_from_the_front_and_the_system_turn_stays(tiny_model):
    long = (user("x" * 50), assistant("A: 1"), user("y" * 40), assistant("A: 2"), user("z" * 30), assistant("A: 3"))
    ids, mask = fitted(tiny_model, long)
    text = tiny_model.tokenizer.decode(ids)
    assert len(ids) <= tiny_model.context
    assert "x" not in text
    assert text.startswith("<bos>Q: yyy")
    assert said(tiny_model, ids, mask) == "A: 2<eos>A: 3<eos>"
    system = {"role": "system", "content": "#" * 10}
    ids, _ = fitted(tiny_model, (system, *long))
    assert "##########" in tiny_model.tokenizer.decode(ids)
    assert fitted(tiny_model, (user("w" * 200), assistant("A: 1"))) is None


def test_a_template_that_rewrites_earlier_turns_is_refused(tiny_model):
    tiny_model.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' or loop.last %}"
        "{{ m['content'] + '\\n' }}{% else %}{{ '...' }}{% endif %}{% endfor %}"
    )
    with pytest.raises(ValueError, match="rewrites earlier turns"):
        encode(tiny_model, TURNS)


def with_conversations(data, messages=TURNS):
    rows = [Conversation(str(i), messages) for i in range(8)]
    return type(data)(data.problems, data.dev, data.verify, data.render_target, conversations=rows)


def test_it_learns_the_second_reply_as_well(train, tiny_model, toy_data):
    run = train(Dialogue(lr=1e-2, batch_size=4), tokens=6000, data=with_conversations(toy_data))
    assert run.curve[-1]["loss"] < 0.3 * run.curve[0]["loss"]
    with torch.no_grad():
        second = completion_loss(tiny_model, [(TURNS[:3], "A: 5")], backward=False)
    assert second < 1.0


def test_what_does_not_fit_is_counted(train, toy_data):
    rows = with_conversations(toy_data).conversations
    long = Conversation("long", (user("w" * 200), assistant("A: 1")))
    data = type(toy_data)(toy_data.problems, [], toy_data.verify, toy_data.render_target, conversations=[*rows, long])
    run = train(Dialogue(batch_size=4), tokens=400, data=data)
    assert run.ledger.dropped_rows == 1
