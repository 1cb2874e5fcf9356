"""An acceptability corpus from a small grammar of our own: minimal pairs over invented words.

A sentence mixes English function words with invented content words: a stem (`br` + `ab`) and a regular
ending that carries all the grammar: `brabard(s)` is a masculine noun, `brabelle(s)` a feminine one, `Brabo`
and `Braba` are names, `brable` is intransitive, `brabize` transitive, `brabend` ditransitive, `brabeem` takes
a clause, `brabish` is an adjective. So a word that training never saw can be judged from its pieces.

Five phenomena, each decided by structure and by nothing nearer at hand:

- agreement: the verb agrees with its subject, across nouns of the other number;
- reflexive: `himself`, `herself`, `themselves` match the subject of their own clause;
- determiner: `this`/`these` (`every`/`several`) match their noun, past adjectives and compounds;
- polarity: `ever` and `yet` need a negation that has them in its scope, `already` shuns one. Every sentence
  holds one negation; a relative clause may hide it. (Adding a negation never hurts `ever`, so without
  `already` as its mirror the word `no` alone would give the answer away.)
- argument: a verb has the objects that it asks for, where passives and relative clauses move them.

Each pair is one acceptable and one unacceptable sentence that differ in a single word. What differs is
crossed with what decides it (singular or plural subject x singular or plural verb), so that no word and no
two neighbouring words say anything about the label.
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

from .files import write_atomic

LABELS = ("unacceptable", "acceptable")
COLUMNS = ("sentence", "label", "construction", "pair")
PHENOMENA = ("agreement", "reflexive", "determiner", "polarity", "argument")
SPLITS = ("train", "validation")

_ONSETS = ("br", "dr", "bl", "fl", "gl", "pl", "tw", "m", "v", "z")
_RIMES = ("ab", "ap", "eb", "ed", "et", "ib", "ig", "ip", "ob", "op", "ot", "ub", "ud", "ug")
# A stem whose two places add up to a multiple of four is held out: every onset and every rime is in both
# splits, no stem is.
STEMS = {
    split: tuple(
        onset + rime
        for i, onset in enumerate(_ONSETS)
        for j, rime in enumerate(_RIMES)
        if ((i + j) % 4 == 0) == (split == "validation")
    )
    for split in SPLITS
}

_NOUN_ENDINGS = {"masculine": "ard", "feminine": "elle"}
_NAME_ENDINGS = {"masculine": "o", "feminine": "a"}
_VERB_ENDINGS = {"intransitive": "le", "transitive": "ize", "ditransitive": "end", "clausal": "eem"}
_DETERMINERS = {"singular": ("this", "every"), "plural": ("these", "several")}
_REFLEXIVES = ("himself", "herself", "themselves")
_PREPOSITIONS = ("near", "behind", "beside", "with")
_ADVERBS = ("often", "usually", "again", "suddenly")
_NUMBERS = ("singular", "plural")
_ORDERS = (_NUMBERS, _NUMBERS[::-1])
_AUXILIARIES = {"is": ("is", "are"), "was": ("was", "were"), "has": ("has", "have")}
_GENDERS = ("masculine", "feminine")
_SLOT = "_"
# How often a noun that could mislead is made to; otherwise its features are drawn at random.
_ATTRACTION = 0.5

# A shape is where the clause stands and what stands behind the noun that heads its subject: `pp` near the Y,
# `src` that greets the Y, `orc` that the Y greets; in a chain each modifies the noun of the one before. The
# held-out shapes combine the parts of the others anew, and are no longer than the longest of them.
Shape = tuple[str, tuple[str, ...]]
SHAPES: dict[str, tuple[Shape, ...]] = {
    "train": (
        ("main", ()),
        ("main", ("pp",)),
        ("main", ("src",)),
        ("main", ("orc",)),
        ("main", ("pp", "pp")),
        ("main", ("src", "pp")),
        ("embedded", ()),
        ("embedded", ("pp",)),
        ("embedded", ("orc",)),
        ("embedded", ("src", "pp")),
        ("fronted", ()),
        ("fronted", ("pp",)),
        ("fronted", ("src",)),
        ("fronted", ("pp", "pp")),
    ),
    "validation": (
        ("main", ("orc", "pp")),
        ("main", ("pp", "orc")),
        ("main", ("pp", "src")),
        ("embedded", ("src",)),
        ("embedded", ("pp", "pp")),
        ("fronted", ("orc",)),
        ("fronted", ("src", "pp")),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Example:
    """A sentence, whether it is acceptable, what it tests (phenomenon/clause/modifiers), and its pair."""

    sentence: str
    label: str
    construction: str
    pair: int


def phenomenon(construction: str) -> str:
    """Which of `PHENOMENA` a construction tests."""
    return construction.split("/", 1)[0]


def generate(split: str, size: int, seed: int) -> list[Example]:
    """`size` sentences (even) of a split, half of each label, in random order: a function of its arguments.

    The phenomena take turns, so that their numbers differ by one pair at most. No sentence comes twice.
    Raises ValueError for an odd or negative size.
    """
    if size < 0 or size % 2:
        raise ValueError(f"size is {size}; minimal pairs need an even number of sentences, 0 or more")
    rng = random.Random(f"{split} {seed}")
    speaker = _Speaker(rng, STEMS[split])
    seen: set[str] = set()
    examples: list[Example] = []
    while len(examples) < size:
        pair = len(examples) // 2
        name = PHENOMENA[pair % len(PHENOMENA)]
        # A negation hides in a relative clause only.
        shapes = [s for s in SHAPES[split] if name != "polarity" or {"src", "orc"} & set(s[1])]
        frame, modifiers = rng.choice(shapes)
        clause, good_word, bad_word, draw = _BUILDERS[name](speaker, modifiers)
        words = speaker.framed(frame, clause, draw)
        good, bad = _spell(words, good_word), _spell(words, bad_word)
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
        lines = ("\t".join(row) + "\n" for row in (COLUMNS, *rows))
        write_atomic(target / f"{split}.tsv", "".join(lines))
    return target


def _spell(words: list[str], target: str) -> str:
    """The sentence with `target` in its slot."""
    text = " ".join(target if word == _SLOT else word for word in words).replace(" ,", ",")
    return text[0].upper() + text[1:] + "."


@dataclass(frozen=True)
class _Noun:
    """What agreement sees of a noun."""

    number: str
    gender: str


_T = TypeVar("_T")
_Draw = Callable[[], _Noun]
# A clause with a slot, the word that makes it acceptable, the one that does not, and how to draw the nouns
# of what stands around the clause.
_Item = tuple[list[str], str, str, _Draw]


class _Speaker:
    """Words and phrases at random, all of them acceptable."""

    def __init__(self, rng: random.Random, stems: tuple[str, ...]):
        self.rng = rng
        self.stems = stems
        self.turns: Counter[tuple[object, ...]] = Counter()

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def features(self) -> _Noun:
        return _Noun(self.rng.choice(_NUMBERS), self.rng.choice(_GENDERS))

    def stem(self) -> str:
        return self.rng.choice(self.stems)

    def noun(self, features: _Noun) -> str:
        return self.stem() + _NOUN_ENDINGS[features.gender] + ("s" if features.number == "plural" else "")

    def name(self, gender: str) -> str:
        return (self.stem() + _NAME_ENDINGS[gender]).capitalize()

    def adjective(self) -> str:
        return self.stem() + "ish"

    def adverb(self) -> str:
        return self.rng.choice(_ADVERBS)

    def determiner(self, number: str) -> str:
        return self.rng.choice(_DETERMINERS[number])

    def turn(self, values: Sequence[_T], *key: object) -> _T:
        """The next of `values` in turn, for each `key` on its own: equally frequent, not only on average."""
        self.turns[key] += 1
        return values[self.turns[key] % len(values)]

    def finite(self, kind: str, number: str, negated: bool = False) -> list[str]:
        """A verb in the present tense, or in the past perfect, which shows no number."""
        if negated:
            return ["had", "not", _participle(self.stem(), kind)]
        if self.chance(0.4):
            return ["had", _participle(self.stem(), kind)]
        return [_present(self.stem(), kind, number)]

    def phrase(
        self,
        nouns: list[_Noun],
        modifiers: tuple[str, ...] = (),
        *,
        determiners: list[str] | None = None,
        verbs: dict[int, list[str]] | None = None,
    ) -> list[str]:
        """A noun phrase: one noun more than modifiers, all after `the` or their own of `determiners`.

        `verbs` replaces the verb of the relative clause that stands at that place in `modifiers`.
        """
        return self._phrase(0, nouns, modifiers, determiners or ["the"] * len(nouns), verbs or {})

    def _phrase(
        self,
        at: int,
        nouns: list[_Noun],
        modifiers: tuple[str, ...],
        determiners: list[str],
        verbs: dict[int, list[str]],
    ) -> list[str]:
        words = [determiners[at], self.noun(nouns[at])]
        if at == len(modifiers):
            return words
        inner = self._phrase(at + 1, nouns, modifiers, determiners, verbs)
        if modifiers[at] == "pp":
            return [*words, self.rng.choice(_PREPOSITIONS), *inner]
        subject = nouns[at] if modifiers[at] == "src" else nouns[at + 1]
        verb = verbs.get(at) or self.finite("transitive", subject.number)
        return [*words, "that", *(verb + inner if modifiers[at] == "src" else inner + verb)]

    def framed(self, frame: str, clause: list[str], draw: _Draw) -> list[str]:
        """The clause alone, as what somebody says, or behind a phrase of place or source."""
        if frame == "main":
            return clause
        noun = draw()
        if frame == "embedded":
            return [*self.phrase([noun]), *self.finite("clausal", noun.number), "that", *clause]
        before = ["according", "to"] if self.chance(0.5) else [self.rng.choice(_PREPOSITIONS)]
        return [*before, *self.phrase([noun]), ",", *clause]


def _present(stem: str, kind: str, number: str) -> str:
    return stem + _VERB_ENDINGS[kind] + ("s" if number == "singular" else "")


def _participle(stem: str, kind: str) -> str:
    base = stem + _VERB_ENDINGS[kind]
    return base + ("d" if base.endswith("e") else "ed")


def _agreement(speaker: _Speaker, modifiers: tuple[str, ...]) -> _Item:
    # The verb that is put to the test: the clause's own, or that of the first object relative in it.
    relative = modifiers.index("orc") if "orc" in modifiers and speaker.chance(0.5) else None
    if relative is not None:
        kind = "relative"
    else:
        kind = speaker.rng.choice(("intransitive", "transitive", "is", "was", "has"))
    number, wrong = speaker.turn(_ORDERS, "agreement", kind)

    def draw() -> _Noun:
        features = speaker.features()
        return _Noun(wrong, features.gender) if speaker.chance(_ATTRACTION) else features

    # The nouns near the verb are of either number at random: if most were of the wrong one, a verb that
    # disagrees with its neighbour would be a sign of an acceptable sentence.
    nouns = [speaker.features() for _ in range(len(modifiers) + 1)]
    subject = 0 if relative is None else relative + 1
    nouns[subject] = _Noun(number, nouns[subject].gender)
    # An adverb keeps a subject without modifiers from its verb, for the same reason.
    lead = [speaker.adverb()] if subject == len(modifiers) or speaker.chance(0.3) else []
    stem = speaker.stem()
    if kind in _AUXILIARIES:
        good, bad = (_AUXILIARIES[kind][_NUMBERS.index(n)] for n in (number, wrong))
        behind = [_participle(stem, "intransitive") if kind == "has" else stem + "ish"]
    else:
        verb = "intransitive" if kind == "intransitive" else "transitive"
        good, bad = (_present(stem, verb, n) for n in (number, wrong))
        behind = speaker.phrase([draw()]) if kind == "transitive" else []
    if relative is None:
        return [*speaker.phrase(nouns, modifiers), *lead, _SLOT, *behind], good, bad, draw
    words = speaker.phrase(nouns, modifiers, verbs={relative: [*lead, _SLOT]})
    return [*words, "had", _participle(speaker.stem(), "intransitive")], good, bad, draw


def _reflexive(speaker: _Speaker, modifiers: tuple[str, ...]) -> _Item:
    good, bad = speaker.turn(tuple(permutations(_REFLEXIVES, 2)), "reflexive")

    def antecedent(reflexive: str) -> _Noun:
        if reflexive == "themselves":
            return _Noun("plural", speaker.rng.choice(_GENDERS))
        return _Noun("singular", _GENDERS[_REFLEXIVES.index(reflexive)])

    def draw() -> _Noun:
        return antecedent(bad) if speaker.chance(_ATTRACTION) else speaker.features()

    head = antecedent(good)
    subject = speaker.phrase([head, *(draw() for _ in modifiers)], modifiers)
    if (
        head.number == "singular"
        and "src" not in modifiers
        and "orc" not in modifiers
        and speaker.chance(0.4)
    ):
        subject[:2] = [speaker.name(head.gender)]
    # The past perfect shows no number: a verb that did would tell the reflexive's without the subject.
    lead = [speaker.adverb()] if speaker.chance(0.5) else []
    return [*subject, "had", *lead, _participle(speaker.stem(), "transitive"), _SLOT], good, bad, draw


def _determiner(speaker: _Speaker, modifiers: tuple[str, ...]) -> _Item:
    series = speaker.rng.choice((0, 1))
    tests_determiner = speaker.chance(0.5)
    number, wrong = speaker.turn(_ORDERS, "determiner", series, tests_determiner)
    nouns = [speaker.features() for _ in range(len(modifiers) + 1)]
    determiners = [speaker.determiner(noun.number) for noun in nouns]
    gender, stem = speaker.rng.choice(_GENDERS), speaker.stem()
    right, other = (stem + _NOUN_ENDINGS[gender] + ("s" if n == "plural" else "") for n in (number, wrong))
    # Between the two: adjectives, or the first part of a compound, a noun that is singular in any case.
    compound = speaker.noun(_Noun("singular", speaker.rng.choice(_GENDERS)))
    between = speaker.rng.choice(
        ([speaker.adjective()], [speaker.adjective(), speaker.adjective()], [compound])
    )
    if tests_determiner:
        good, bad = (_DETERMINERS[n][series] for n in (number, wrong))
        tested = [_SLOT, *between, right]
    else:
        good, bad = right, other
        tested = [_DETERMINERS[number][series], *between, _SLOT]
    if speaker.chance(0.5):
        subject = speaker.phrase(nouns, modifiers, determiners=determiners)
        clause = [*subject, "had", _participle(speaker.stem(), "transitive"), *tested]
    else:
        nouns[0] = _Noun(number, gender)
        rest = speaker.phrase(nouns, modifiers, determiners=determiners)[2:]
        clause = [*tested, *rest, "had", _participle(speaker.stem(), "intransitive")]
    return clause, good, bad, speaker.features


def _polarity(speaker: _Speaker, modifiers: tuple[str, ...]) -> _Item:
    by_determiner, needy = speaker.rng.choice(((True, "ever"), (True, "yet"), (False, "yet")))
    licensed = speaker.turn((True, False), "polarity", by_determiner, needy)
    relative = min(i for i, modifier in enumerate(modifiers) if modifier != "pp")
    nouns = [speaker.features() for _ in range(len(modifiers) + 1)]
    determiners = ["the"] * len(nouns)
    verbs: dict[int, list[str]] = {}
    lead = ["had"]
    if by_determiner:
        # Inside the relative clause "no" is as near as ever, but the main verb is out of its scope.
        hidden = speaker.rng.randrange(relative + 1, len(nouns))
        determiners[0 if licensed else hidden] = "no"
    elif licensed:
        lead.append("not")
    else:
        verbs[relative] = speaker.finite("transitive", "plural", negated=True)
    subject = speaker.phrase(nouns, modifiers, determiners=determiners, verbs=verbs)
    verb = _participle(speaker.stem(), "intransitive")
    words = [*subject, *lead, *((_SLOT, verb) if needy == "ever" else (verb, _SLOT))]
    good, bad = (needy, "already") if licensed else ("already", needy)
    return words, good, bad, speaker.features


def _argument(speaker: _Speaker, modifiers: tuple[str, ...]) -> _Item:
    nouns = [speaker.features() for _ in range(len(modifiers) + 1)]
    subject = speaker.phrase(nouns, modifiers)
    # With an object behind the verb the choice is between one object and two, without between none and one.
    with_object = speaker.chance(0.5)
    fewer, more = ("transitive", "ditransitive") if with_object else ("intransitive", "transitive")
    behind = speaker.phrase([speaker.features()]) if with_object else []
    # In a passive, and in a relative clause about the object, one object stands elsewhere.
    gap = not {"src", "orc"} & set(modifiers) and speaker.chance(0.5)
    moved = speaker.turn((True, False), "argument", with_object, gap)
    if gap:
        about = [*speaker.phrase([speaker.features()]), "that", *subject] if moved else [*subject, "that"]
        end = ["had", _participle(speaker.stem(), "intransitive")]
        words = [*about, "had", speaker.adverb(), _SLOT, *behind, *end]
    else:
        auxiliary = ("was" if nouns[0].number == "singular" else "were") if moved else "had"
        # "by" names who did it in a passive, and a place elsewhere.
        place = [speaker.rng.choice(("by", "near", "beside")), *speaker.phrase([speaker.features()])]
        words = [
            *subject,
            auxiliary,
            speaker.adverb(),
            _SLOT,
            *behind,
            *(place if speaker.chance(0.5) else []),
        ]
    stem = speaker.stem()
    good, bad = (_participle(stem, kind) for kind in ((more, fewer) if moved else (fewer, more)))
    return words, good, bad, speaker.features


_BUILDERS: dict[str, Callable[[_Speaker, tuple[str, ...]], _Item]] = {
    "agreement": _agreement,
    "reflexive": _reflexive,
    "determiner": _determiner,
    "polarity": _polarity,
    "argument": _argument,
}
