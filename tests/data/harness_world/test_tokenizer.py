from random import Random

import pytest

from harness_world import MAX_NEW_TOKENS
from harness_world.corpus import pool
from harness_world.problems import draw_problem
from harness_world.rationales import STYLES, reply, written
from harness_world.rows import conversation_rows
from harness_world.splits import draw_splits
from harness_world.tokenizer import MAX_LENGTH, build_tokenizer
from harness_world.vocabulary import vocabulary, words

USER, ASSISTANT = {"role": "user", "content": "Finn has 10 balls."}, {"role": "assistant", "content": "A: 37"}


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_round_trip_of_five_thousand_texts(tokenizer):
    for segments in pool("round-trip", 0, 5000, frozenset()):
        text = "".join(part for part, _ in segments)
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids
        assert len(ids) < MAX_LENGTH // 2
        parts = [token for part, _ in segments for token in tokenizer.encode(part)]
        assert parts == ids, "segments end where tokens do"


def test_round_trip_of_conversations_and_of_bare_questions(tokenizer):
    problems = draw_splits({"test": 1, "easy": 1, "dev": 1, "train": 300})["train"]
    texts = [message["content"] for row in conversation_rows(problems) for message in row["messages"]]
    for text in [*texts, *(problem.question for problem in problems)]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids


def test_tokens_carry_their_space_and_digits_are_single(tokenizer):
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("Finn has 37. 10+12=22."))
    space = "\u2581"
    assert tokens[:5] == ["Finn", f"{space}has", f"{space}3", "7", "."]
    assert tokens[5:] == [f"{space}1", *"0+12=22."]


def test_what_it_does_not_know_is_one_unk(tokenizer):
    assert tokenizer.encode("quark") == [tokenizer.unk_token_id]
    assert tokenizer.encode("\u00e9") == [tokenizer.unk_token_id]
    assert tokenizer.encode("") == []


def test_specials_differ_and_encoding_adds_none(tokenizer):
    ids = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
    assert ids == {0, 1, 2, 3}
    assert not ids & set(tokenizer.encode("A: 37"))


def test_the_chat_template(tokenizer):
    def render(messages, **options):
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    assert render([USER]) == "<bos>Q: Finn has 10 balls.\n"
    assert render([USER], add_generation_prompt=True) == render([USER])
    assert render([USER, ASSISTANT, USER]) == "<bos>Q: Finn has 10 balls.\nA: 37<eos>Q: Finn has 10 balls.\n"
    with pytest.raises(Exception, match="roles are user and assistant"):
        render([{"role": "system", "content": "x"}])


def test_the_template_marks_what_the_assistant_said(tokenizer):
    out = tokenizer.apply_chat_template(
        [USER, ASSISTANT], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    said = [token for token, mask in zip(out["input_ids"], out["assistant_masks"], strict=True) if mask]
    assert tokenizer.decode(said) == "A: 37<eos>"


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "T: 10+12=22. 22/2=11.\nA: 11"
    assert again.encode(text) == tokenizer.encode(text)
    assert again.decode(again.encode(text)) == text
    assert again.apply_chat_template([USER], tokenize=False) == "<bos>Q: Finn has 10 balls.\n"


def test_the_longest_target_fits_what_the_plugin_lets_a_model_say(tokenizer):
    problems = [draw_problem(Random(seed), 7) for seed in range(300)]
    targets = [reply(written(p.steps, style), p.answer) for p in problems for style in STYLES]
    assert max(len(tokenizer.encode(target)) for target in targets) + 1 <= MAX_NEW_TOKENS


def test_the_vocabulary_has_no_gap_and_every_word_twice():
    table = vocabulary()
    assert sorted(table.values()) == list(range(len(table)))
    assert all(form in table for word in words() for form in (word, "\u2581" + word))
