"""What a picture shows: values toward an output, the sum, the verdict, and text made safe."""

from __future__ import annotations

import numpy as np
import pytest

from sot_nlp.explanation.view import View, shown, signed
from tests.support.fake_explanation import explanation


def view(explained=None, **settings):
    return View(name="m", explanation=explained or explanation(), **settings)


def test_values_are_toward_the_predicted_label():
    viewed = view()
    assert viewed.label == "good"
    # Of two labels: one's logit less the other's, so twice what the fake puts on each.
    assert viewed.values.tolist() == [1.0, -0.5, 0.0]
    assert [viewed.strength(word) for word in range(3)] == [1.0, -0.5, 0.0]
    assert view(output=0).values.tolist() == [-1.0, 0.5, 0.0]
    assert view(output=0).label == "bad"


def test_the_summary_adds_up_to_the_total():
    viewed = view()
    assert viewed.summary == [("words", 0.5), ("classification token", 2.0), ("[SEP]", 0.25), ("bias", 0.5)]
    assert viewed.total == pytest.approx(sum(share for _, share in viewed.summary))
    occluded = explanation(method="occlusion", base=None, delta=None, class_token=np.zeros(2))
    assert view(occluded).summary == []


def test_the_verdict():
    assert view().verdict == ""
    assert view().is_right is None
    assert (view(truth=1).is_right, view(truth=1).verdict) == (True, "right")
    assert (view(truth=0).is_right, view(truth=0).verdict) == (False, "wrong: it is bad")
    logits, one = np.array([2.5], dtype=np.float32), np.ones((5, 1), dtype=np.float32)
    score = explanation(
        kind="regression", labels=None, logits=logits, scores=one, class_token=one[0], base=one[0]
    )
    assert view(score, truth=3.0).verdict == "the right score is 3"
    assert view(score, truth=3.0).is_right is None
    assert (view(score).prediction, view(score).label) == ("score 2.500", "score")


def test_the_prediction_in_words():
    assert view().prediction == "good 96%"
    several = explanation(kind="multi_label", logits=np.array([1.0, -1.0], dtype=np.float32))
    assert view(several).prediction == "bad 73%"
    none = explanation(kind="multi_label", logits=np.array([-1.0, -1.0], dtype=np.float32))
    assert view(none).prediction == "no label"


def test_words_too_faint_are_plain():
    assert view(explanation(values=(1.0, 0.02, -0.5))).strength(1) == 0
    empty = view(explanation("", ()))
    assert empty.scale == 1.0
    assert empty.notes == ["no word in this text"]


def test_pieces_hold_the_whole_text():
    viewed = view(explanation("Good  dog\t! "))
    assert "".join(piece.text for piece in viewed.pieces(0)) == "Good  dog ! "
    assert [piece.word for piece in viewed.pieces(0)] == [0, None, 1, None, 2, None]


def test_what_was_cut_off_is_said_and_shown():
    whole = explanation("Good dog !")
    cut = explanation("Good dog !", texts=("Good dog ! and " + "much more " * 30,), lost=61)
    assert cut.words == whole.words
    last = view(cut).pieces(0)[-1]
    assert last.cut
    assert last.text.endswith("…")
    assert len(last.text) == 121
    assert view(cut).notes == ["61 tokens were cut off by the length limit, which the model did not see"]


def test_a_coarse_path_is_said():
    coarse = explanation(method="integrated_gradients", delta=np.array([-0.5, 0.5], dtype=np.float32))
    assert view(coarse).notes == ["the path was too coarse: +1.00 is missing in the sum"]
    assert ("baseline", 0.5) in view(coarse).summary
    fine = explanation(method="integrated_gradients", delta=np.array([-0.01, 0.01], dtype=np.float32))
    assert view(fine).notes == []


def test_pairs_with_both_orders_together():
    pairs = np.zeros((5, 5, 2), dtype=np.float32)
    pairs[1, 2, 1], pairs[2, 1, 1], pairs[3, 3, 1], pairs[0, 1, 1] = 0.25, 0.5, -0.5, 9.0
    viewed = view(explanation(method="pairs", pairs=pairs))
    assert viewed.pairs.tolist() == [[0, 0.25, 0], [0.5, 0, 0], [0, 0, -0.5]]
    assert viewed.top_pairs()[:2] == [("Good", "dog", 0.75), ("!", "!", -0.5)]
    assert view().top_pairs() == []


def test_a_word_of_several_tokens_shows_their_shares():
    explained = explanation()
    joined = explained.words[0].__class__("Good dog", 0, 0, 8, (1, 2))
    assert view().tokens_of(joined) == "Good +1.00 dog \u22120.50"
    assert view().tokens_of(explained.words[0]) == ""


def test_text_is_made_safe():
    assert shown("\x1b[31mred\x07 \u202eevil\u200f\nb") == "\\x1b[31mred\\x07 \\u202eevil\\u200f b"
    family = "\U0001f469\u200d\U0001f52c \u0645\u06cc\u200c\u062e"
    assert shown(family) == family


@pytest.mark.parametrize(
    ("value", "scale", "text"),
    [
        (0.5, 1.0, "+0.50"),
        (-0.5, 1.0, "\u22120.50"),
        (12.345, 30.0, "+12.35"),
        (-0.001234, 0.01, "\u22120.0012"),
        (1e-9, 1.0, "0.00"),
        (-1e-9, 1.0, "0.00"),
        (0.1, 1e-30, "+0.10000000"),
    ],
)
def test_numbers(value, scale, text):
    assert signed(value, scale) == text
