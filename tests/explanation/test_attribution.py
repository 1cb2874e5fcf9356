"""What each token adds: exact sums for every family and recipe; other methods against formulas by hand."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

import sot_nlp
from sot_nlp.errors import UserError
from sot_nlp.explanation.attribution import Explanation, default_method, explain
from sot_nlp.explanation.inputs import encode, logits_of
from sot_nlp.modeling.auto import AutoSoTForSequenceClassification
from sot_nlp.modeling.head_config import resolve_head
from sot_nlp.modeling.tokenizer import separator_ids
from tests.support import tiny

TEXTS = [
    "the zorps run near a wug , but no dax sees it .",
    ("every tove likes the rath .", "this blick isn't here"),
    "rath",
    "",
    " \n ",
    "zorp \U0001f469\u200d\U0001f52c \u05e9\u05dc\u05d5\u05dd \u4e2d\u6587 <b>bold</b> \x1b[31m [SEP]",
    "slithen quib " * 40,
]


def make(family="bert", head="text", *, num_labels=3, seed=3, **overrides):
    """A random SoT classifier whose logits differ clearly from text to text, and its tokenizer."""
    tokenizer = tiny.tokenizer(family)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoSoTForSequenceClassification.from_config(
            tiny.config(family),
            head=resolve_head(head, **overrides),
            num_labels=num_labels,
            separator_token_ids=separator_ids(tokenizer) or [0],
        ).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            for name in ("word_output", "class_token_output"):
                if hasattr(model.classifier, name) and getattr(model.classifier, name).bias is not None:
                    getattr(model.classifier, name).bias.normal_()
    return model, tokenizer


def own_logits(model, tokenizer, text):
    pair = (text,) if isinstance(text, str) else text
    (encoding,) = encode(tokenizer, [pair], model, None)
    with torch.no_grad():
        return logits_of(model, encoding, torch.tensor([encoding.ids]))[0].numpy()


def total(explanation: Explanation) -> np.ndarray:
    return explanation.scores.sum(0, dtype=np.float64) + explanation.class_token + explanation.base


@pytest.mark.parametrize("method", ["exact", "pairs"])
@pytest.mark.parametrize("head", ["text", "vision"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_shares_are_the_logits_in_one_forward_pass(family, head, method):
    model, tokenizer = make(family, head)
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))
    explained = explain(model, tokenizer, TEXTS, method=method)
    assert len(passes) == 1
    for text, explanation in zip(TEXTS, explained, strict=True):
        assert np.abs(explanation.logits - own_logits(model, tokenizer, text)).max() < 1e-5
        assert np.abs(total(explanation) - explanation.logits).max() < 1e-5
        assert np.abs(explanation.delta).max() < 1e-5
    # The text's words carry a real part of them, and not the same one.
    assert np.abs(explained[0].word_scores).max() > 1e-3
    assert np.abs(explained[0].word_scores.sum(0) - explained[2].word_scores.sum(0)).max() > 1e-3


@pytest.mark.parametrize(
    "overrides",
    [
        {"fusion": "concat"},
        {"fusion": "concat", "class_token": "stock"},
        {"fusion": "late"},
        {"fusion": "words"},
        {"fusion": "aggregate_all"},
        {"class_token": "stock"},
        {"normalization": "learned_scale", "include_separators": False, "num_layers": 2},
        {"pooling": "covariance", "normalization": "none"},
        {"pooling": "mean", "normalization": "fixed_scale"},
        {"pooling": "attention", "normalization": "none", "num_heads": 2},
    ],
    ids=lambda value: "-".join(map(str, value.values())),
)
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_other_heads_sum_up_too(family, overrides):
    model, tokenizer = make(family, "text", **overrides)
    for text, explanation in zip(TEXTS, explain(model, tokenizer, TEXTS), strict=True):
        assert np.abs(total(explanation) - own_logits(model, tokenizer, text)).max() < 1e-5


def test_the_class_tokens_part_is_its_branch():
    model, tokenizer = make()
    (explanation,) = explain(model, tokenizer, [TEXTS[0]])
    encoded = tokenizer(TEXTS[0], return_tensors="pt")
    with torch.no_grad():
        output = model(**encoded)
    bias = model.classifier.class_token_output.bias
    np.testing.assert_allclose(
        explanation.class_token, (output.class_token_logits[0] - bias).detach(), atol=1e-6
    )
    assert not explain(*make(fusion="words"), [TEXTS[0]])[0].class_token.any()


def test_batches_and_padding_change_nothing():
    model, tokenizer = make("gpt2", "vision")
    together = explain(model, tokenizer, TEXTS, batch_size=4)
    for text, explanation in zip(TEXTS, together, strict=True):
        (alone,) = explain(model, tokenizer, [text])
        np.testing.assert_allclose(explanation.scores, alone.scores, atol=1e-6)


def test_pairs_give_each_token_half_of_every_pair():
    model, tokenizer = make()
    (explanation,) = explain(model, tokenizer, [TEXTS[0]], method="pairs")
    rows, columns = explanation.pairs.sum(1), explanation.pairs.sum(0)
    np.testing.assert_allclose(explanation.scores, (rows + columns) / 2, atol=1e-6)
    words = explanation.word_pairs
    assert words.shape == (len(explanation.words), len(explanation.words), 3)
    first, last = explanation.words[0], explanation.words[-1]
    expected = explanation.pairs[np.ix_(first.tokens, last.tokens)].sum((0, 1))
    np.testing.assert_allclose(words[0, -1], expected, atol=1e-6)
    assert explain(model, tokenizer, [TEXTS[0]])[0].word_pairs is None


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        ({"num_singular_values": 2}, "num_singular_values=2"),
        ({"normalization": "layer_norm"}, "normalization=layer_norm"),
        ({"normalization": "svpn_exact"}, "normalization=svpn_exact"),
        ({"pooling": "max", "normalization": "none"}, "pooling='max'"),
        ({"pooling": "none", "fusion": "class_token"}, "pooling='none'"),
    ],
)
def test_where_no_exact_sum_exists_the_setting_is_named(overrides, named):
    model, tokenizer = make(**overrides)
    with pytest.raises(UserError, match=f"exact: no exact contributions: .*{named}.*occlusion work"):
        explain(model, tokenizer, ["rath"])
    assert default_method(model) == "integrated_gradients"
    assert np.isfinite(explain(model, tokenizer, ["rath wug"], method="occlusion")[0].scores).all()


def test_pairs_need_a_matrix():
    model, tokenizer = make(pooling="mean", normalization="none")
    with pytest.raises(UserError, match=r"pairs: .*pooling='mean' has no pairs"):
        explain(model, tokenizer, ["rath"], method="pairs")


def test_integrated_gradients_against_the_integral_by_hand():
    captum = pytest.importorskip("captum.attr")
    model, tokenizer = make(num_labels=2, map_activation="none")
    text = "the zorps run ."
    (explanation,) = explain(model, tokenizer, [text], method="integrated_gradients", steps=64)
    ids = tokenizer(text, return_tensors="pt").input_ids
    baseline = ids.clone()
    baseline[0, 1:-1] = tokenizer.mask_token_id
    embed = model.get_input_embeddings()
    start, end = embed(baseline).detach(), embed(ids).detach()
    steps = 400
    shares = ((torch.arange(steps) + 0.5) / steps).view(-1, 1, 1)
    path = (start + (end - start) * shares).requires_grad_()  # midpoints, all in one batch
    (gradients,) = torch.autograd.grad(model(inputs_embeds=path).logits[:, 1].sum(), path)
    expected = (gradients.mean(0) * (end - start)[0]).sum(-1)
    np.testing.assert_allclose(explanation.scores[:, 1], expected, atol=2e-3)
    assert np.abs(explanation.scores).max() > 0.02
    np.testing.assert_allclose(explanation.base, model(baseline).logits[0].detach(), atol=1e-5)
    # What is missing in the sum is captum's own convergence delta, but for the sign.
    method = captum.LayerIntegratedGradients(lambda ids: model(ids).logits, embed)
    _, delta = method.attribute(ids, baselines=baseline, target=1, n_steps=64, return_convergence_delta=True)
    assert explanation.delta[1] == pytest.approx(-float(delta), abs=1e-5)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_integrated_gradients_nearly_sum_up(family):
    pytest.importorskip("captum")
    model, tokenizer = make(family, num_labels=2)
    for explanation in explain(model, tokenizer, TEXTS[:2], method="integrated_gradients", steps=20):
        assert np.abs(total(explanation) + explanation.delta - explanation.logits).max() < 1e-5
        assert np.abs(explanation.delta).max() < 0.05
        assert np.abs(explanation.scores).max() > 0.05


@pytest.mark.parametrize(("family", "stand_in"), [("bert", "mask_token_id"), ("gpt2", "unk_token_id")])
def test_occlusion_masks_a_whole_word(family, stand_in):
    model, tokenizer = make(family)
    text = "the zorp isn't xyz ."
    (explanation,) = explain(model, tokenizer, [text], method="occlusion", batch_size=3)
    word = next(i for i, word in enumerate(explanation.words) if word.text == "isn't")
    tokens = list(explanation.words[word].tokens)
    assert len(tokens) > 1
    ids = tokenizer(text, return_tensors="pt").input_ids
    masked = ids.clone()
    masked[0, tokens] = getattr(tokenizer, stand_in)
    expected = (model(ids).logits - model(masked).logits)[0].detach()
    np.testing.assert_allclose(explanation.word_scores[word], expected, atol=1e-5)
    assert not explanation.scores[explanation.special].any()
    assert explanation.base is None
    assert explanation.delta is None


def test_another_model_has_gradients_and_occlusion_alone():
    pytest.importorskip("captum")
    tokenizer = tiny.tokenizer("bert")
    model = tiny.random_model(tiny.config("bert", num_labels=2), AutoModelForSequenceClassification)
    for method in ("exact", "pairs"):
        with pytest.raises(UserError, match=f"{method}: BertForSequenceClassification has no SoT head"):
            explain(model, tokenizer, ["rath"], method=method)
    assert default_method(model) == "integrated_gradients"
    for method in ("integrated_gradients", "occlusion"):
        (explanation,) = explain(model, tokenizer, ["the rath runs ."], method=method, steps=10)
        assert np.abs(explanation.word_scores).max() > 0
    assert explanation.labels == ("LABEL_0", "LABEL_1")


def test_without_captum_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(UserError, match=r"needs captum: pip install 'sot-nlp\[explain\]'"):
        explain(*make(), ["rath"], method="integrated_gradients")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_texts_without_words(family):
    model, tokenizer = make(family)
    for method in ("exact", "pairs", "occlusion"):
        explanation = explain(model, tokenizer, [""], method=method)[0]
        assert explanation.words == ()
        assert explanation.word_scores.shape == (0, 3)
        assert explanation.special.all()
        assert np.isfinite(explanation.logits).all()


def test_a_long_text_says_what_it_lost():
    model, tokenizer = make()
    text = "zorp dax wug " * 1500
    (explanation,) = explain(model, tokenizer, [text])
    assert len(explanation.tokens) == 512
    assert explanation.lost == 4500 - 510
    assert len(explanation.words) == 510
    assert explain(model, tokenizer, ["zorp " * 9], max_length=8)[0].lost == 3


def test_words_come_from_the_text_and_special_tokens_stand_apart():
    model, tokenizer = make()
    first, second = "the zorp isn't xyz.", "no wug"
    (explanation,) = explain(model, tokenizer, [(first, second)])
    assert [word.text for word in explanation.words] == ["the", "zorp", "isn't", "xyz", ".", "no", "wug"]
    assert [word.part for word in explanation.words] == [0] * 5 + [1] * 2
    assert np.array(explanation.tokens)[explanation.special].tolist() == ["[CLS]", "[SEP]", "[SEP]"]
    owned = sorted(token for word in explanation.words for token in word.tokens)
    assert owned == np.flatnonzero(~explanation.special).tolist()
    together = explanation.word_scores.sum(0) + explanation.scores[explanation.special].sum(0)
    np.testing.assert_allclose(together, explanation.scores.sum(0), atol=1e-6)
    # A special token that is typed is text like any other.
    typed = explain(model, tokenizer, ["no [SEP] wug"])[0]
    assert [word.text for word in typed.words] == ["no", "[SEP]", "wug"]


def test_toward_is_what_separates_the_labels():
    model, tokenizer = make()
    (explanation,) = explain(model, tokenizer, ["the rath runs ."])
    values = explanation.word_scores
    expected = values[:, 1] - (values[:, 0] + values[:, 2]) / 2
    np.testing.assert_allclose(explanation.toward(values, 1), expected, atol=1e-6)
    np.testing.assert_allclose(explanation.toward(values + 5, 1), explanation.toward(values, 1), atol=1e-5)
    several = dataclasses.replace(explanation, kind="multi_label")
    np.testing.assert_array_equal(several.toward(values, 1), values[:, 1])


def test_a_regression_and_many_labels():
    (explanation,) = explain(*make(num_labels=1), ["the rath runs ."])
    assert (explanation.kind, explanation.labels, explanation.probabilities, explanation.predicted) == (
        "regression",
        None,
        None,
        0,
    )
    model, tokenizer = make()
    model.config.problem_type = "multi_label_classification"
    (explanation,) = explain(model, tokenizer, ["the rath runs ."])
    np.testing.assert_allclose(explanation.probabilities, 1 / (1 + np.exp(-explanation.logits)), rtol=1e-5)


def test_the_model_is_left_as_it_was():
    model, tokenizer = make()
    model.train()
    first, second = explain(model, tokenizer, ["the rath runs ."] * 2)
    assert model.training
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-6)  # no dropout
    assert not model.classifier._forward_pre_hooks
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ("rath", {}, "a single string"),
        (["rath", 3], {}, "text 1: 3 is neither"),
        ([("a", "b", "c")], {}, "neither a string nor a pair"),
        (["rath"], {"method": "exat"}, "did you mean exact"),
        (["rath"], {"max_length": 2}, "no room for text beside 2 special"),
        (["rath"], {"steps": 0}, "steps=0"),
    ],
)
def test_mistakes(texts, options, message):
    with pytest.raises(UserError, match=message):
        explain(*make(), texts, **options)


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(UserError, match="Slow does not say which characters"):
        explain(make()[0], Slow(), ["rath"])


def test_odd_bytes_of_a_terminal_are_text():
    (explanation,) = explain(*make(), ["rath \udcff wug"])
    assert [word.text for word in explanation.words] == ["rath", "?", "wug"]


def test_no_texts():
    assert explain(*make(), []) == []


def test_the_package_exports_it():
    assert sot_nlp.explain is explain
