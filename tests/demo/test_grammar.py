"""The demo's corpus: a judge written apart agrees with every label, and nothing near gives them away."""

import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from sot_nlp.demo.grammar import COLUMNS, LABELS, PHENOMENA, generate, phenomenon, shapes, write_corpus

TRAIN, VALIDATION = generate("train", 4000, 0), generate("validation", 1000, 0)
BOTH = pytest.mark.parametrize("examples", [TRAIN, VALIDATION], ids=["train", "validation"])
FUNCTION_WORDS = set(
    re.findall(
        r"\w+",
        "the this these no that according to near behind beside with by often usually again suddenly "
        "had has have is are was were not ever yet already himself herself themselves",
    )
)


# --- A recogniser of the grammar, from the string alone. Each `parse_*` yields (next place, features). ---

WORD = re.compile(r"(?P<stem>[^aeiou]+[aeiou][^aeiou])(?P<ending>[a-z]+)")
NOUNS = {"ard": ("s", "m"), "ards": ("p", "m"), "elle": ("s", "f"), "elles": ("p", "f")}
VERBS = {"intransitive": "le", "transitive": "ize", "ditransitive": "end", "clausal": "eem"}
KINDS = {
    **dict.fromkeys(NOUNS, "noun"),
    **{"o": "name", "a": "name", "ish": "adjective"},
    **{ending: f"{kind} base" for kind, ending in VERBS.items()},
    **{ending + "s": f"{kind} singular" for kind, ending in VERBS.items()},
    **{ending.removesuffix("e") + "ed": f"{kind} past" for kind, ending in VERBS.items()},
}
ADVERBS = {"often", "usually", "again", "suddenly"}
PLACES = {"near", "behind", "beside", "with"}


def by_word(sentence: str) -> list[str]:
    return re.findall(r"[a-z]+|,", sentence.lower())


def split(word: str) -> tuple[str, str]:
    """An invented word's stem and ending."""
    match = WORD.fullmatch(word)
    return match["stem"], match["ending"]


def by_ending(sentence: str) -> list[str]:
    """Content words without their stems: what a model sees that has understood the endings."""
    return [word if word in FUNCTION_WORDS | {","} else split(word)[1] for word in by_word(sentence)]


class Judge:
    """Whether a sentence has a parse in which everything agrees."""

    def __init__(self, sentence: str):
        self.words = by_ending(sentence)

    def acceptable(self) -> bool:
        return any(at == len(self.words) for at in self.sentence(0))

    def kind(self, at: int) -> str:
        """The class of a content word; a function word is a class of its own."""
        return KINDS.get(self.words[at], self.words[at]) if at < len(self.words) else ""

    def sentence(self, at):
        yield from self.clause(at)
        starts = [at + 1] if self.kind(at) in PLACES else []
        if [self.kind(at), self.kind(at + 1)] == ["according", "to"]:
            starts.append(at + 2)
        for start in starts:
            for end, _ in self.phrase(start):
                if self.kind(end) == ",":
                    yield from self.clause(end + 1)
        for end, subject in self.phrase(at):
            for then in self.finite(end, "clausal", subject):
                if self.kind(then) == "that":
                    yield from self.clause(then + 1)

    def finite(self, at, verb, subject):
        """`verb` in the present, agreeing, behind an adverb or not; or `had (not)` and its participle."""
        start = at + (self.kind(at) in ADVERBS)
        if self.kind(start) == f"{verb} {'singular' if subject['number'] == 's' else 'base'}":
            yield start + 1
        if self.kind(at) == "had":
            start = at + 1 + (self.kind(at + 1) == "not")
            if self.kind(start) == f"{verb} past":
                yield start + 1

    def phrase(self, at):
        if self.kind(at) == "name":
            gender = "m" if self.words[at] == "o" else "f"
            yield from self.modified(at + 1, {"number": "s", "gender": gender, "negative": False})
        if self.kind(at) not in ("the", "no", "this", "these"):
            return
        number = {"this": "s", "these": "p"}.get(self.kind(at))
        start = at + 1
        while self.kind(start) == "adjective":
            start += 1
        if (
            self.kind(start) == "noun"
            and self.kind(start + 1) == "noun"
            and NOUNS[self.words[start]][0] == "s"
        ):
            start += 1
        if self.kind(start) == "noun":
            own, gender = NOUNS[self.words[start]]
            if number in (None, own):
                head = {"number": own, "gender": gender, "negative": self.kind(at) == "no"}
                yield from self.modified(start + 1, head)

    def modified(self, at, head):
        yield at, head
        if self.kind(at) in PLACES:
            for end, _ in self.phrase(at + 1):
                yield end, head
        if self.kind(at) != "that":
            return
        for end in self.finite(at + 1, "transitive", head):
            for then, _ in self.phrase(end):
                yield then, head
        yield from ((end, head) for end in self.objects(at + 1, moved=0))
        for end, subject in self.phrase(at + 1):
            yield from ((then, head) for then in self.finite(end, "transitive", subject))
            yield from ((then, head) for then in self.objects(end, moved=1))

    def objects(self, at, moved):
        """`had`, an adverb, a participle, and as many objects as it asks for less those that are moved."""
        if self.kind(at) != "had" or self.kind(at + 1) not in ADVERBS:
            return
        yield from self.complements(at + 2, moved)

    def complements(self, at, moved):
        wanted = {"intransitive past": 0, "transitive past": 1, "ditransitive past": 2}.get(self.kind(at))
        if wanted is None or wanted < moved:
            return
        ends = [at + 1]
        for _ in range(wanted - moved):
            ends = [then for end in ends for then, _ in self.phrase(end)]
        yield from ends

    def clause(self, at):
        for end, subject in self.phrase(at):
            yield from self.predicate(end, subject)

    def predicate(self, at, subject):
        singular = subject["number"] == "s"
        yield from (end for end in self.finite(at, "intransitive", subject) if self.kind(at) != "had")
        start = at + (self.kind(at) in ADVERBS)
        if self.kind(start) == ("is" if singular else "are") and self.kind(start + 1) == "adjective":
            yield start + 2
        if self.kind(start) == ("was" if singular else "were") and self.kind(start + 1) in ADVERBS:
            yield from self.placed(self.complements(start + 2, moved=1))
        if (
            self.kind(start) == ("has" if singular else "have")
            and self.kind(start + 1) == "intransitive past"
        ):
            yield start + 2
        if self.kind(at) != "had":
            return
        yield from self.placed(self.objects(at, moved=0))
        reflexive = "themselves" if not singular else {"m": "himself", "f": "herself"}[subject["gender"]]
        start = at + 1 + (self.kind(at + 1) in ADVERBS)
        if self.kind(start) == "transitive past" and self.kind(start + 1) == reflexive:
            yield start + 2
        start = at + 1 + (self.kind(at + 1) == "not")
        negative = subject["negative"] or start > at + 1
        allowed = {"ever", "yet"} if negative else {"already"}
        if self.kind(start) in allowed - {"yet"} and self.kind(start + 1) == "intransitive past":
            yield start + 2
        if self.kind(start) == "intransitive past":
            yield start + 1
            if self.kind(start + 1) in allowed - {"ever"}:
                yield start + 2

    def placed(self, ends):
        for end in ends:
            yield end
            if self.kind(end) in PLACES | {"by"}:
                yield from (then for then, _ in self.phrase(end + 1))


@pytest.mark.parametrize(
    ("acceptable", "unacceptable"),
    [
        ("The brabard near the motelles is fligish.", "The brabard near the motelles are fligish."),
        (
            "The brabards that the motelle mupizes have zetled.",
            "The brabards that the motelle mupize have zetled.",
        ),
        ("Braba near the mupard had zetized herself.", "Braba near the mupard had zetized himself."),
        ("These brabard motelles had zetled.", "These brabard motelle had zetled."),
        (
            "No vapard that the mupelle zetizes had ever mupled.",
            "The vapard that no mupelle zetizes had ever mupled.",
        ),
        ("The vapard was often zetized by the mupelle.", "The vapard had often zetized by the mupelle."),
        (
            "The vapard that the mupelle had often zetized had mupled.",
            "The vapard that had often zetized had mupled.",
        ),
        (
            "The mupard vapeems that the zetards often muple.",
            "The mupards vapeems that the zetards often muple.",
        ),
    ],
)
def test_the_judge_knows_the_rules(acceptable, unacceptable):
    assert Judge(acceptable).acceptable()
    assert not Judge(unacceptable).acceptable()


@BOTH
def test_every_label_is_what_the_judge_says(examples):
    wrong = [e for e in examples if Judge(e.sentence).acceptable() != (e.label == "acceptable")]
    assert not wrong, wrong[:5]


# --- The splits ---


def test_the_corpus_is_a_function_of_its_arguments():
    assert generate("train", 100, 3) == generate("train", 100, 3)
    assert generate("train", 100, 3) != generate("train", 100, 4)
    assert {e.sentence for e in VALIDATION}.isdisjoint(e.sentence for e in TRAIN)


@BOTH
def test_labels_and_phenomena_are_balanced_and_no_sentence_comes_twice(examples):
    assert Counter(e.label for e in examples) == dict.fromkeys(LABELS, len(examples) // 2)
    counts = Counter(phenomenon(e.construction) for e in examples)
    assert counts == dict.fromkeys(PHENOMENA, len(examples) // 5)
    assert len({e.sentence for e in examples}) == len(examples)


@BOTH
def test_a_pair_is_one_of_each_label_and_differs_in_one_word(examples):
    pairs = defaultdict(list)
    for e in examples:
        pairs[e.pair].append(e)
    for one, other in pairs.values():
        assert {one.label, other.label} == set(LABELS)
        assert one.construction == other.construction
        first, second = one.sentence.split(), other.sentence.split()
        assert sum(a != b for a, b in zip(first, second, strict=True)) == 1


def words(examples) -> set[str]:
    return {word for e in examples for word in re.findall(r"[a-z]+", e.sentence.lower())}


def test_validation_holds_out_words_and_constructions():
    assert words(TRAIN) & words(VALIDATION) <= FUNCTION_WORDS
    assert words(VALIDATION) & FUNCTION_WORDS <= words(TRAIN)
    assert len(words(VALIDATION) - FUNCTION_WORDS) > 100
    assert not {e.construction for e in TRAIN} & {e.construction for e in VALIDATION}


def test_what_is_held_out_is_made_of_parts_that_training_has():
    # A lemma without its inflection: no other form of a held-out word is in training either.
    inflection = re.compile(r"(?<=[edm])e?d$|s$")
    lemmas = [{inflection.sub("", w) for w in words(x) - FUNCTION_WORDS} for x in (TRAIN, VALIDATION)]
    assert lemmas[0].isdisjoint(lemmas[1])
    parts = [{part for w in words(x) - FUNCTION_WORDS for part in split(w)} for x in (TRAIN, VALIDATION)]
    assert parts[1] <= parts[0]
    tested = {shape for name in PHENOMENA for shape in shapes("train", name)}
    for name in PHENOMENA:
        held_out = shapes("validation", name)
        assert len(held_out) >= 3
        assert set(held_out) <= tested
        assert not set(held_out) & set(shapes("train", name))
    assert max(len(e.sentence.split()) for e in VALIDATION) <= max(len(e.sentence.split()) for e in TRAIN)


# --- Shortcuts ---


@pytest.mark.parametrize("units", [by_word, by_ending], ids=["words", "endings"])
@pytest.mark.parametrize("longest", [1, 2], ids=["bag of words", "bigrams"])
def test_words_and_neighbouring_words_say_nothing_about_the_label(units, longest):
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counts = CountVectorizer(analyzer=lambda sentence: grams(units(sentence), longest))
    seen = counts.fit_transform([e.sentence for e in TRAIN])
    model = LogisticRegression(max_iter=1000).fit(seen, [e.label for e in TRAIN])
    predicted = model.predict(counts.transform([e.sentence for e in VALIDATION]))
    right = predicted == np.array([e.label for e in VALIDATION])
    assert np.mean(right) == pytest.approx(0.5, abs=0.05)


def grams(units: list[str], longest: int) -> list[str]:
    return [" ".join(units[i : i + n]) for n in range(1, longest + 1) for i in range(len(units) - n + 1)]


def test_a_longer_sentence_is_no_likelier_to_be_acceptable():
    lengths = {label: [len(e.sentence.split()) for e in TRAIN if e.label == label] for label in LABELS}
    assert np.mean(lengths["acceptable"]) == np.mean(lengths["unacceptable"])


# --- Files ---


def test_the_files_are_in_glues_layout(tmp_path):
    folder = write_corpus(tmp_path, seed=1, train_size=20, validation_size=10)
    assert folder == tmp_path / "Demo"
    for name, size in (("train", 20), ("validation", 10)):
        header, *lines = (folder / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        assert tuple(header.split("\t")) == COLUMNS
        rows = [tuple(line.split("\t")) for line in lines]
        assert rows == [(e.sentence, e.label, e.construction, str(e.pair)) for e in generate(name, size, 1)]


@pytest.mark.parametrize("size", [3, -2])
def test_a_size_without_pairs_is_refused(size):
    with pytest.raises(ValueError, match="even"):
        generate("train", size, 0)
