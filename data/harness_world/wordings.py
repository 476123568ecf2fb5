"""Every fixed word of the world: names, items, the wordings of each operation, cues.

The vocabulary of the tokenizer is read off these tables, so a new wording is one line here
(and a new base model: the embedding has a row for each word).
{N} owner, {M} somebody else, {i} item, {j} another item, {n} amount, {g} number of groups.
"""

NAMES = (
    *("Finn", "Mia", "Tom", "Ana", "Leo", "Zoe", "Sam", "Ida"),
    *("Max", "Eva", "Ben", "Lia", "Kai", "Nora", "Omar", "Uma"),
)
ITEMS = (
    *("balls", "apples", "coins", "books", "cards", "shells"),
    *("stamps", "pens", "beads", "plums", "marbles", "stones"),
)
STARTS = (
    "{N} has {n} {i}.",
    "{N} starts with {n} {i}.",
    "At first {N} has {n} {i}.",
)
WORDINGS = {
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
}
DISTRACTORS = (
    "{M} has {n} {i}.",
    "{M} buys {n} {j}.",
    "{N} also has {n} {j}.",
    "The shop sells {n} {j}.",
    "{M} is {n} years old.",
)
FLAVOURS = (
    "It is a sunny day.",
    "The {i} are red.",
    "{M} is a friend of {N}.",
)
ASKS = (
    "How many {i} does {N} have?",
    "How many {i} does {N} have now?",
    "How many {i} are left?",
)
FOLLOW_UP_ASK = "How many now?"
FACT_WORDS = ("What is", "half of", "double")

THINK = " Let's think step by step."
"""The cue: a question that ends in it is answered with a rationale, always."""
JUDGE = " Judge each step."
"""The cue for a judged rationale."""
GOOD, BAD = " good.", " bad."
"""The two judgements, written after the step they judge."""
DRAFT, FIX = "\nDraft: ", "\nFix the draft."
"""What stands before and after a draft that is to be fixed."""
RIGHT = "The draft is right."
"""The reply to a draft without a mistake; the answer follows on its own line."""
