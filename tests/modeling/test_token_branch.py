"""The classification token of mixed layers, its maxima and its attention, against formulas by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sot_nlp import AutoSoTForSequenceClassification, load_tokenizer
from sot_nlp.modeling.head import SoTHead
from sot_nlp.modeling.head_config import PRESETS, resolve_head

C, K, L = 16, 3, 3
MASK = torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
SMALL = {"num_heads": 2, "width_x": 5, "width_y": 4, "dropout": 0}


def make(preset: str, **overrides: Any) -> SoTHead:
    head = SoTHead(resolve_head(preset, **overrides), hidden_size=C, num_labels=K).double().eval()
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return head


def inputs(layers: int = L) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor]:
    """States of each layer, the words' mask, and the classification token of each layer."""
    states = tuple(torch.randn(3, 5, C, dtype=torch.float64) for _ in range(layers))
    return states, MASK, torch.stack([layer[:, 0] for layer in states], 1)


def linear(head: SoTHead, token: torch.Tensor) -> torch.Tensor:
    return token @ head.class_token_output.weight.T + head.class_token_output.bias


def test_the_maximum_over_the_layers() -> None:
    head = make("maxpool_layers")
    states, _, tokens = inputs()
    by_hand = torch.maximum(torch.maximum(tokens[:, 0], tokens[:, 1]), tokens[:, 2])
    torch.testing.assert_close(head(states, None, tokens).logits, linear(head, by_hand))
    assert {name.partition(".")[0] for name, _ in head.named_parameters()} == {"class_token_output"}


@pytest.mark.parametrize("preset", ["maxpool_attention", "maxpool_both"])
def test_the_attention_is_torchs(preset: str) -> None:
    head = make(preset)
    states, mask, tokens = inputs(head.config.num_layers)
    branch = head.token_branch
    reference = nn.MultiheadAttention(C, 4, batch_first=True).double()
    reference.in_proj_weight.data, reference.in_proj_bias.data = (
        branch.in_projection.weight.data,
        branch.in_projection.bias.data,
    )
    reference.out_proj.load_state_dict(branch.out_projection.state_dict())
    whole = torch.stack(states).amax(0) if preset == "maxpool_both" else states[-1]
    token = whole[:, :1]  # the first of each text
    padding = ~mask
    padding[:, 0] = False
    expected, _ = reference(token, whole, whole, key_padding_mask=padding)
    torch.testing.assert_close(head(states, mask, tokens).logits, linear(head, expected[:, 0]))


@pytest.mark.parametrize("words", [False, True])
def test_the_mixture_is_the_words_own_or_its_own(words: bool) -> None:
    fields = {"class_token": "mixed", "num_layers": L}
    if words:
        head = make("text", **SMALL, **fields)
        mixture = head.words.layer_mixture
    else:
        head = make("stock", **fields)
        mixture = head.token_branch.layer_mixture
    states, mask, tokens = inputs()
    shares = mixture.softmax(0)
    by_hand = sum(share * token for share, token in zip(shares, tokens.unbind(1), strict=True))
    output = head(states, mask, tokens)
    torch.testing.assert_close(output.class_token_logits, linear(head, by_hand))
    own = head.class_token_contributions(tokens) + head.class_token_output.bias
    torch.testing.assert_close(own, output.class_token_logits)
    head.reset_parameters()
    assert mixture.tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", ["mixed", "maximum", "attention", "maximum_attention"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_in_a_model_padding_changes_nothing_and_saved_is_reloaded(
    kind: str, family: str, backbone_folder: Any, tmp_path: Any
) -> None:
    folder = backbone_folder(family)
    head = PRESETS["text"].replace(**SMALL, class_token=kind, num_layers=2)
    model = AutoSoTForSequenceClassification.from_pretrained(folder, num_labels=3, head=head).eval()
    tokenizer = load_tokenizer(folder)
    texts = ["the zorp runs .", "every wug", "no"]
    batch = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    for row, text in enumerate(texts):
        alone = model(**tokenizer([text], return_tensors="pt")).logits
        torch.testing.assert_close(alone[0], batch[row], rtol=1e-5, atol=1e-5)
    batch.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.classifier.parameters())
    model.save_pretrained(tmp_path)
    again = AutoSoTForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(**tokenizer(texts, padding=True, return_tensors="pt")).logits, batch)


def test_a_text_of_the_token_alone_attends_to_itself() -> None:
    head = make("maxpool_attention")
    states, mask, tokens = inputs(1)
    branch = head.token_branch
    value = branch.in_projection(tokens[2, 0]).chunk(3, -1)[2]
    torch.testing.assert_close(
        head(states, mask, tokens).logits[2], linear(head, branch.out_projection(value))
    )


def test_no_exact_contributions_where_it_reads_the_words() -> None:
    head = make("text", **SMALL, class_token="attention")
    assert not head.config.has_exact_contributions
    with pytest.raises(ValueError, match="class_token='attention' reads the words"):
        head.class_token_contributions(torch.randn(3, 1, C))
    assert make("text", **SMALL, class_token="mixed").config.has_exact_contributions


def test_wrong_sizes_and_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="4 attention heads, which do not divide a hidden size of 6"):
        SoTHead(PRESETS["maxpool_attention"], hidden_size=6, num_labels=2)
    with pytest.raises(ValueError, match=r"needs the token of each layer: \(B, L, C\)"):
        make("maxpool_layers")(inputs()[0], None, torch.randn(3, C))
    with pytest.raises(ValueError, match="needs word_mask"):
        make("maxpool_attention")(inputs(1)[0], None, torch.randn(3, 1, C))


class TestZeroOutput:
    def test_training_starts_as_the_stock_head(self, backbone_folder: Any, tmp_path: Any) -> None:
        folder = backbone_folder("roberta")
        head = PRESETS["text"].replace(**SMALL, class_token="stock", word_output_init="zero")
        model = AutoSoTForSequenceClassification.from_pretrained(folder, num_labels=3, head=head).eval()
        assert not model.classifier.word_output.weight.any()
        inputs = load_tokenizer(folder)(["the zorp runs .", "wug"], padding=True, return_tensors="pt")
        output = model(**inputs)
        assert torch.equal(output.logits, output.class_token_logits)
        output.logits[:, 0].sum().backward()
        assert model.classifier.word_output.weight.grad.any(), "it learns from the first update on"
        with torch.no_grad():
            model.classifier.word_output.weight.add_(1)
        model.save_pretrained(tmp_path)
        again = AutoSoTForSequenceClassification.from_pretrained(tmp_path)
        assert again.classifier.word_output.weight.eq(1).all(), "loaded weights stay"

    @pytest.mark.parametrize("fusion", ["concat", "words", "aggregate_all"])
    def test_it_needs_two_branches(self, fusion: str) -> None:
        with pytest.raises(ValueError, match="has no two branches: use sum or late"):
            resolve_head("text", fusion=fusion, word_output_init="zero")


def test_the_parameters_of_the_branches(backbone_folder: Any) -> None:
    head = PRESETS["text"].replace(class_token="stock")
    model = AutoSoTForSequenceClassification.from_pretrained(backbone_folder("roberta"), head=head)
    names = model.classifier.class_token_parameters()
    assert {name.rpartition(".")[0] for name in names} == {
        "class_token_output",
        "class_token_transform.dense",
    }
    others = {name for name, _ in model.classifier.named_parameters()} - set(names)
    assert {name.partition(".")[0] for name in others} == {"words", "word_output"}
