"""Generate an acceptability corpus from a small grammar: minimal pairs over invented words.

A sentence mixes English function words with invented content words: a stem (`brab`) and a regular ending that
carries all the grammar. `brabard` and `brabards` are masculine, `brabelle` and `brabelles` feminine, `Brabo`
and `Braba` are names, `brable` is intransitive, `brabize` transitive, `brabend` ditransitive, `brabeem` takes
a clause, `brabish` is an adjective. So a word that training never saw can be judged by its pieces.

Five phenomena, each decided by structure and by nothing nearer at hand:

- agreement: a verb agrees with its subject, whatever nouns come between them;
- reflexive: `himself`, `herself` and `themselves` match the subject of their clause;
- determiner: `this` and `these` match their noun, past adjectives and the first noun of a compound;
- polarity: `ever` and `yet` need a negation that has them in its scope, `already` shuns one. Every sentence
  holds one negation, but a relative clause may hide it. (More negation never hurts `ever`, so without
  `already` as its mirror the mere presence of `no` would be a clue.)
- argument: a verb has as many objects as it asks for, also where a passive or a relative clause moves one.

A pair is one acceptable and one unacceptable sentence that differ in a single word. What differs is crossed
with what decides it (singular and plural subject with singular and plural verb), as often each way, so that
no word, and in the validation split no two neighbouring words, says anything about the label.

The validation split holds out words and constructions: none of its content words occurs in training, and no
phenomenon in the surroundings in which it is tested; both are new combinations of parts that do occur.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import TypeVar

from sot_nlp.files import write_atomic

LABELS = ("unacceptable", "acceptable")
COLUMNS = ("sentence", "label", "construction", "pair")
PHENOMENA = ("agreement", "reflexive", "determiner", "polarity", "argument")
SPLITS = ("train", "validation")
# The demo's corpus.
CORPUS_SEED, TRAIN_SIZE, VALIDATION_SIZE = 0, 8000, 1000

_STEMS = (  # noqa: SIM905
    "brab dreb flig glop plud twib mot vap zet blug krep drib flob glud "
    "plet twig mup vop zib blet krod drup flap gleb plig twop mab vud"
).split()
# A word class's ending, and its number: a stem is held out of it where the stem's place and that add up to
# a multiple of 4. All stems and endings occur in training, those words do not. A pair's verbs share a stem.
_CLASSES = {
    "masculine": ("ard", 1),
    "feminine": ("elle", 2),
    "masculine name": ("o", 3),
    "feminine name": ("a", 3),
    "intransitive": ("le", 0),
    "transitive": ("ize", 0),
    "ditransitive": ("end", 0),
    "clausal": ("eem", 1),
    "adjective": ("ish", 2),
}

_NUMBERS = ("singular", "plural")
_GENDERS = ("masculine", "feminine")
_DETERMINERS = {"singular": "this", "plural": "these"}
_REFLEXIVES = ("himself", "herself", "themselves")
_AUXILIARIES = {"be": ("is", "are"), "have": ("has", "have")}
_PREPOSITIONS = ("near", "behind", "beside", "with")
_ADVERBS = ("often", "usually", "again", "suddenly")

# A shape is the frame around a clause and the chain behind the noun that heads its subject, in which each
# modifies the noun of the one before: `pp` near the Y, `src` that greets the Y, `orc` that the Y greets.
Shape = tuple[str, tuple[str, ...]]
_FRAMES = ("main", "fronted", "embedded")
_SHORT: tuple[tuple[str, ...], ...] = ((), ("pp",), ("src",), ("orc",))
_DEEP: tuple[tuple[str, ...], ...] = (("pp", "pp"), ("src", "pp"), ("orc", "pp"))
_PLAIN: Shape = ("main", ())

_SLOT = "_"
# In training this share of the sentences has the plain shape: what is short is learned first.
_PLAIN_SHARE = 0.5
# A noun that could mislead is made to this often; otherwise its features are drawn at random.
_ATTRACTION = 0.5


@dataclass(frozen=True, kw_only=True)
class Example:
    """A sentence, whether it is acceptable, its construction (phenomenon/frame/modifiers), and its pair."""

    sentence: str
    label: str
    construction: str
    pair: int


def phenomenon(construction: str) -> str:
    """Return which of `PHENOMENA` a construction tests."""
    return construction.split("/", 1)[0]


def shapes(split: str, name: str) -> list[Shape]:
    """Return the shapes in which a split tests the phenomenon `name`: each is in one split or the other.

    About a third is held out, and not the same for all, so that training has every shape somewhere.
    """
    turn = PHENOMENA.index(name)
    chosen = []
    for row, frame in enumerate(_FRAMES):
        for column, modifiers in enumerate((*_SHORT, *_DEEP) if frame == "main" else _SHORT):
            # A negation hides in a relative clause only.
            if name == "polarity" and not {"src", "orc"} & set(modifiers):
                continue
            held_out = (row + column + turn) % 3 == 0 and (frame, modifiers) != _PLAIN
            if held_out == (split == "validation"):
                chosen.append((frame, modifiers))
    return chosen


def generate(split: str, size: int, seed: int) -> list[Example]:
    """Return `size` sentences (even) of a split, half of each label, in a random but fixed order.

    The phenomena take turns, so that their numbers differ by one pair at most. No sentence comes twice.
    Raises ValueError for an odd or negative size.
    """
    if size < 0 or size % 2:
        raise ValueError(f"size is {size}; minimal pairs need an even number of sentences, 0 or more")
    rng = random.Random(f"{split} {seed}")
    speaker = _Speaker(rng, split)
    seen: set[str] = set()
    examples: list[Example] = []
    while len(examples) < size:
        pair = len(examples) // 2
        name = PHENOMENA[pair % len(PHENOMENA)]
        choice = shapes(split, name)
        frame, modifiers = _PLAIN if _PLAIN in choice and rng.random() < _PLAIN_SHARE else rng.choice(choice)
        item = _BUILDERS[name](speaker, frame, modifiers)
        words = speaker.framed(frame, item.clause, item.bystander)
        good, bad = _spell(words, item.good), _spell(words, item.bad)
        if good in seen or bad in seen:
            continue
        seen |= {good, bad}
        construction = f"{name}/{frame}/{'+'.join(modifiers) or 'bare'}"
        for sentence, label in ((good, "acceptable"), (bad, "unacceptable")):
            examples.append(Example(sentence=sentence, label=label, construction=construction, pair=pair))
    rng.shuffle(examples)
    return examples


def write_corpus(
    folder: str | os.PathLike[str], seed: int = 0, train_size: int = 8000, validation_size: int = 1000
) -> Path:
    """Write `Demo/train.tsv` and `Demo/validation.tsv` under `folder`; the folder `Demo` is returned.

    The layout is GLUE's: UTF-8, one header line of `COLUMNS`, tabs, no quoting.
    """
    target = Path(folder) / "Demo"
    for split, size in zip(SPLITS, (train_size, validation_size), strict=True):
        rows = [(e.sentence, e.label, e.construction, str(e.pair)) for e in generate(split, size, seed)]
        write_atomic(target / f"{split}.tsv", "".join("\t".join(row) + "\n" for row in (COLUMNS, *rows)))
    return target


def _spell(words: list[str], target: str) -> str:
    """Return the sentence with `target` in its slot."""
    text = " ".join(target if word == _SLOT else word for word in words).replace(" ,", ",")
    return text[0].upper() + text[1:] + "."


@dataclass(frozen=True)
class _Noun:
    """What agreement sees of a noun."""

    number: str
    gender: str


@dataclass(frozen=True)
class _Item:
    """A clause with a slot, the words that make it acceptable and unacceptable, and other participants."""

    clause: list[str]
    good: str
    bad: str
    bystander: Callable[[], _Noun]


_T = TypeVar("_T")


class _Speaker:
    """Words and phrases at random, all of them acceptable."""

    def __init__(self, rng: random.Random, split: str):
        self.rng = rng
        self.turns: Counter[tuple[object, ...]] = Counter()
        self.stems = {
            kind: [s for i, s in enumerate(_STEMS) if ((i + key) % 4 == 0) == (split == "validation")]
            for kind, (_, key) in _CLASSES.items()
        }

    def turn(self, values: Sequence[_T], *key: object) -> _T:
        """Return the next of `values` in turn, per `key`: equally often, not only on average."""
        self.turns[key] += 1
        return values[self.turns[key] % len(values)]

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def features(self) -> _Noun:
        return _Noun(self.rng.choice(_NUMBERS), self.rng.choice(_GENDERS))

    def word(self, kind: str) -> str:
        return self.rng.choice(self.stems[kind]) + _CLASSES[kind][0]

    def noun(self, features: _Noun) -> str:
        return self.word(features.gender) + ("s" if features.number == "plural" else "")

    def adverb(self) -> str:
        return self.rng.choice(_ADVERBS)

    def past(self, kind: str) -> str:
        return _participle(self.word(kind))

    def finite(self, kind: str, number: str) -> list[str]:
        """Return a verb in the present tense, or in the past perfect, which shows no number."""
        return ["had", self.past(kind)] if self.chance(0.4) else [_present(self.word(kind), number)]

    def phrase(
        self,
        nouns: list[_Noun],
        modifiers: tuple[str, ...] = (),
        *,
        determiners: list[str] | None = None,
        verbs: dict[int, list[str]] | None = None,
    ) -> list[str]:
        """Return a noun phrase: one noun more than modifiers, each after `the` or its own of `determiners`.

        `verbs` replaces the verb of the relative clause at that position in `modifiers`.
        """
        verbs = verbs or {}
        determiners = determiners or ["the"] * len(nouns)
        heads = [[word, self.noun(noun)] for word, noun in zip(determiners, nouns, strict=True)]
        words = heads[-1]
        for at in reversed(range(len(modifiers))):
            if modifiers[at] == "pp":
                words = [*heads[at], self.rng.choice(_PREPOSITIONS), *words]
                continue
            by_head = modifiers[at] == "src"
            subject = nouns[at] if by_head else nouns[at + 1]
            verb = verbs.get(at) or self.finite("transitive", subject.number)
            words = [*heads[at], "that", *(verb + words if by_head else words + verb)]
        return words

    def framed(self, frame: str, clause: list[str], bystander: Callable[[], _Noun]) -> list[str]:
        """Return the clause alone, or behind a phrase of place or source, or as what somebody says."""
        if frame == "main":
            return clause
        noun = bystander()
        if frame == "embedded":
            return [*self.phrase([noun]), *self.finite("clausal", noun.number), "that", *clause]
        before = ["according", "to"] if self.chance(0.5) else [self.rng.choice(_PREPOSITIONS)]
        return [*before, *self.phrase([noun]), ",", *clause]


def _present(verb: str, number: str) -> str:
    return verb + ("s" if number == "singular" else "")


def _participle(verb: str) -> str:
    return verb + ("d" if verb.endswith("e") else "ed")


def _agreement(speaker: _Speaker, frame: str, modifiers: tuple[str, ...]) -> _Item:
    # The verb that is put to the test: the clause's own, or that of an object relative.
    relative = modifiers.index("orc") if "orc" in modifiers and speaker.chance(0.5) else None
    kind = "relative" if relative is not None else speaker.rng.choice(("intransitive", "be", "have"))
    number, wrong = speaker.turn((_NUMBERS, _NUMBERS[::-1]), "agreement", kind)

    def bystander() -> _Noun:
        features = speaker.features()
        return _Noun(wrong, features.gender) if speaker.chance(_ATTRACTION) else features

    # The nouns nearer to the verb are of either number at random: if most were of the wrong one, a verb that
    # disagrees with its neighbour would be a sign of an acceptable sentence.
    nouns = [speaker.features() for _ in range(len(modifiers) + 1)]
    subject = 0 if relative is None else relative + 1
    nouns[subject] = _Noun(number, nouns[subject].gender)
    # An adverb keeps a verb from a subject that would be its neighbour, but for the plain shape.
    apart = subject == len(modifiers) and (frame, modifiers) != _PLAIN
    lead = [speaker.adverb()] if apart or speaker.chance(0.3) else []
    if kind in _AUXILIARIES:
        good, bad = (_AUXILIARIES[kind][_NUMBERS.index(n)] for n in (number, wrong))
        behind = [speaker.word("adjective") if kind == "be" else speaker.past("intransitive")]
    else:
        verb = speaker.word("intransitive" if relative is None else "transitive")
        good, bad = (_present(verb, n) for n in (number, wrong))
        behind = []
    if relative is None:
        clause = [*speaker.phrase(nouns, modifiers), *lead, _SLOT, *behind]
    else:
        clause = speaker.phrase(nouns, modifiers, verbs={relative: [*lead, _SLOT]})
        clause += ["had", speaker.past("intransitive")]
    return _Item(clause, good, bad, bystander)


def _reflexive(speaker: _Speaker, frame: str, modifiers: tuple[str, ...]) -> _Item:
    good, bad = speaker.turn(tuple(permutations(_REFLEXIVES, 2)), "reflexive")

    def antecedent(reflexive: str) -> _Noun:
        if reflexive == "themselves":
            return _Noun("plural", speaker.rng.choice(_GENDERS))
        return _Noun("singular", _GENDERS[_REFLEXIVES.index(reflexive)])

    def bystander() -> _Noun:
        return antecedent(bad) if speaker.chance(_ATTRACTION) else speaker.features()

    head = antecedent(good)
    subject = speaker.phrase([head, *(bystander() for _ in modifiers)], modifiers)
    if head.number == "singular" and not {"src", "orc"} & set(modifiers) and speaker.chance(0.4):
        subject[:2] = [speaker.word(f"{head.gender} name").capitalize()]
    # The past perfect shows no number; a verb that did would tell the reflexive's without the subject.
    lead = [speaker.adverb()] if speaker.chance(0.5) else []
    return _Item([*subject, "had", *lead, speaker.past("transitive"), _SLOT], good, bad, bystander)


def _determiner(speaker: _Speaker, frame: str, modifiers: tuple[str, ...]) -> _Item:
    tests_noun = speaker.chance(0.5)
    number, wrong = speaker.turn((_NUMBERS, _NUMBERS[::-1]), "determiner", tests_noun)
    nouns = [speaker.features() for _ in range(len(modifiers) + 1)]
    nouns[0] = _Noun(number, nouns[0].gender)
    _, noun, *rest = speaker.phrase(nouns, modifiers)
    singular = noun.removesuffix("s")
    # Between the two: adjectives, or the first noun of a compound, which is singular in any case.
    first, *both = (speaker.word("adjective") for _ in range(3))
    between = speaker.rng.choice(([first], both, [speaker.word(speaker.rng.choice(_GENDERS))]))
    if tests_noun:
        good, bad = (singular + ("s" if n == "plural" else "") for n in (number, wrong))
        tested = [_DETERMINERS[number], *between, _SLOT]
    else:
        good, bad = (_DETERMINERS[n] for n in (number, wrong))
        tested = [_SLOT, *between, noun]
    clause = [*tested, *rest, "had", speaker.past("intransitive")]
    return _Item(clause, good, bad, speaker.features)


def _polarity(speaker: _Speaker, frame: str, modifiers: tuple[str, ...]) -> _Item:
    by_determiner, needy = speaker.rng.choice(((True, "ever"), (True, "yet"), (False, "yet")))
    licensed = speaker.turn((True, False), "polarity", by_determiner, needy)
    relative = min(i for i, modifier in enumerate(modifiers) if modifier != "pp")
    nouns = [speaker.features() for _ in range(len(modifiers) + 1)]
    determiners = ["the"] * len(nouns)
    verbs: dict[int, list[str]] = {}
    auxiliary = ["had"]
    if by_determiner:
        # Inside the relative clause "no" is as near as ever, but the main verb is out of its scope.
        hidden = speaker.rng.randrange(relative + 1, len(nouns))
        determiners[0 if licensed else hidden] = "no"
    elif licensed:
        auxiliary = ["had", "not"]
    else:
        verbs[relative] = ["had", "not", speaker.past("transitive")]
    subject = speaker.phrase(nouns, modifiers, determiners=determiners, verbs=verbs)
    verb = speaker.past("intransitive")
    clause = [*subject, *auxiliary, *((_SLOT, verb) if needy == "ever" else (verb, _SLOT))]
    good, bad = (needy, "already") if licensed else ("already", needy)
    return _Item(clause, good, bad, speaker.features)


def _argument(speaker: _Speaker, frame: str, modifiers: tuple[str, ...]) -> _Item:
    nouns = [speaker.features() for _ in range(len(modifiers) + 1)]
    subject = speaker.phrase(nouns, modifiers)
    # With an object behind the verb the choice is between one object and two, without between none and one.
    with_object = speaker.chance(0.5)
    fewer, more = ("transitive", "ditransitive") if with_object else ("intransitive", "transitive")
    behind = speaker.phrase([speaker.features()]) if with_object else []
    # In a passive, and in a relative clause about the object, one object is elsewhere.
    in_relative = not {"src", "orc"} & set(modifiers) and speaker.chance(0.5)
    moved = speaker.turn((True, False), "argument", with_object, in_relative)
    if in_relative:
        about = [*speaker.phrase([speaker.features()]), "that", *subject] if moved else [*subject, "that"]
        clause = [*about, "had", speaker.adverb(), _SLOT, *behind, "had", speaker.past("intransitive")]
    else:
        auxiliary = ("was" if nouns[0].number == "singular" else "were") if moved else "had"
        clause = [*subject, auxiliary, speaker.adverb(), _SLOT, *behind]
        if speaker.chance(0.5):
            # "by" names who did it in a passive, and a place elsewhere.
            place = speaker.rng.choice(("by", "near", "beside"))
            clause += [place, *speaker.phrase([speaker.features()])]
    stem = speaker.rng.choice(speaker.stems[fewer])
    good, bad = (_participle(stem + _CLASSES[k][0]) for k in ((more, fewer) if moved else (fewer, more)))
    return _Item(clause, good, bad, speaker.features)


_BUILDERS = dict(zip(PHENOMENA, (_agreement, _reflexive, _determiner, _polarity, _argument), strict=True))
