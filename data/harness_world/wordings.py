"""Every fixed word of the world: names, items, the wordings of each operation, short tasks, money, cues.

The vocabulary of the tokenizer is read off these tables, so a new wording is one line here
(and a new base model: the embedding has a row for each word).
{N} owner, {M} somebody else, {i} item, {j} another item, {n} amount, {g} number of groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass

NAMES = (
    *("Finn", "Mia", "Tom", "Ana", "Leo", "Zoe", "Sam", "Ida"),
    *("Max", "Eva", "Ben", "Lia", "Kai", "Nora", "Omar", "Uma"),
)


@dataclass(frozen=True)
class Domain:
    """The sentences of one kind of story."""

    items: tuple[str, ...]
    starts: tuple[str, ...]
    wordings: Mapping[str, tuple[str, ...]]
    """Operation to its sentences."""
    distractors: tuple[str, ...]
    flavours: tuple[str, ...]
    asks: tuple[str, ...]
    total: str
    """Says the running total, in stories that ask nothing."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Every sentence and item."""
        told = [text for texts in self.wordings.values() for text in texts]
        return (*self.items, *self.starts, *told, *self.distractors, *self.flavours, *self.asks, self.total)


THINGS = Domain(
    items=(
        *("balls", "apples", "coins", "books", "cards", "shells"),
        *("stamps", "pens", "beads", "plums", "marbles", "stones"),
    ),
    starts=(
        "{N} has {n} {i}.",
        "{N} starts with {n} {i}.",
        "At first {N} has {n} {i}.",
    ),
    wordings={
        "add": (
            "{N} buys {n} more.",
            "{N} finds {n} more {i}.",
            "{N} gets {n} {i} from a friend.",
            "A friend gives {N} {n} more.",
        ),
        "take": (
            "{N} loses {n}.",
            "{N} gives away {n} {i}.",
            "{N} sells {n} of them.",
            "A friend takes {n} of the {i}.",
        ),
        "double": (
            "{N} doubles the number of {i}.",
            "{N} now has twice as many.",
        ),
        "halve": (
            "{N} gives away half.",
            "{N} loses half of the {i}.",
            "A friend takes half of them.",
        ),
        "groups": (
            "{g} friends bring {n} each.",
            "{N} buys {g} bags with {n} {i} each.",
            "{N} finds {g} boxes of {n}.",
        ),
    },
    distractors=(
        "{M} has {n} {i}.",
        "{M} buys {n} {j}.",
        "{N} also has {n} {j}.",
        "The shop sells {n} {j}.",
        "{M} is {n} years old.",
    ),
    flavours=(
        "It is a sunny day.",
        "The {i} are red.",
        "{M} is a friend of {N}.",
    ),
    asks=(
        "How many {i} does {N} have?",
        "How many {i} does {N} have now?",
        "How many {i} are left?",
    ),
    total="Then {N} has {n} {i}.",
)
MONEY = Domain(
    items=("dollars",),
    starts=(
        "{N} saved {n} dollars.",
        "The account of {N} holds {n} dollars.",
    ),
    wordings={
        "add": (
            "{N} earns {n} dollars.",
            "An aunt sends {N} {n} dollars.",
            "{N} deposits {n} dollars.",
        ),
        "take": (
            "{N} spends {n} dollars.",
            "A ticket costs {N} {n} dollars.",
            "{N} pays a fee of {n} dollars.",
        ),
        "double": ("Interest doubles the savings of {N}.",),
        "halve": (
            "Tax eats half of the savings.",
            "{N} donates half of the money.",
        ),
        "groups": (
            "{g} customers pay {N} {n} dollars each.",
            "{N} works {g} hours for {n} dollars an hour.",
        ),
    },
    distractors=(
        "{M} earns {n} dollars.",
        "The bank has {n} customers.",
        "A loan of {M} is {n} dollars.",
    ),
    flavours=("The bank is closed.",),
    asks=(
        "What is the balance of {N}?",
        "How many dollars does {N} have now?",
    ),
    total="Balance {n}.",
)
"""A domain whose words the base model never reads."""
FOLLOW_UP_ASK = "How many now?"
FACT_WORDS = ("What is", "half of", "double")

TASK_KEYS = {
    "order": ("largest", "smallest"),
    "position": ("first", "last"),
    "size": ("count", "total"),
    "digits": ("tens", "ones"),
    "neighbours": ("next", "previous"),
    "scale": ("double", "half"),
}
"""Cluster to its families of short tasks, each named by the word that asks for it."""
TASK_FORM = "What is the {key} of {numbers}?"
"""The one form that the base model reads."""
INSTRUCTIONS = (
    "Give the {key} of {numbers}.",
    "Find the {key}: {numbers}.",
    "{numbers}: tell me the {key}.",
)
"""Forms that the base model never reads; instruction tuning is about them."""

THINK = " Let's think step by step."
"""The cue: a question that ends in it is answered with a rationale, always."""
JUDGE = " Judge each step."
"""The cue for a judged rationale."""
GOOD, BAD = " good.", " bad."
"""The two judgements, written after the step they judge."""
DRAFT, FIX = "\nDraft: ", "\nFix the draft."
"""What stands before and after a draft that is to be fixed."""
ABOUT = "about "
"""What stands before a rough answer."""
RIGHT = "The draft is right."
"""The reply to a draft without a mistake; the answer follows on its own line."""
