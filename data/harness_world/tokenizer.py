"""The tokenizer: one token a word, one a digit, and no text is lost.

A token carries the space before it (written as the usual low line), so decoding is plain joining
and `10+12=22.` comes back as it went in. Every word has a form with and without that space. A word
that the world does not know becomes `<unk>`.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from harness_world.vocabulary import SPACE, vocabulary

PIECES = f"{SPACE}?[A-Za-z']+|{SPACE}?[0-9]|{SPACE}?[^{SPACE}A-Za-z0-9\\s]|\\s|{SPACE}"
MAX_LENGTH = 512
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'Q: ' + message['content'] + '\\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ raise_exception('roles are user and assistant') }}{% endif %}{% endfor %}"
)
"""Question, newline, reply, end. `generation` marks what a trainer may put loss on."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template; it adds nothing that the template does not."""
    backend = Tokenizer(WordLevel(vocabulary(), unk_token="<unk>"))  # noqa: S106  # no password
    backend.normalizer = normalizers.Replace(" ", SPACE)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(PIECES), "isolated")
    backend.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.Fuse()])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token="<pad>",  # noqa: S106
        bos_token="<bos>",  # noqa: S106
        eos_token="<eos>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
        padding_side="right",
    )
