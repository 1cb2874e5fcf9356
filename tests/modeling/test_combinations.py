"""Every accepted pooling, normalisation and fusion learns: 12 steps on the demo's sentences.

Every combination trains on one family, and every two values of two settings, the family among them, meet (a
Latin square). All heads of a family train at once on one small backbone, each with a loss of its own: the
backbone runs once a step, and the model's forward, its masks and its losses run for every head.
"""

import itertools

import pytest
import torch
import transformers

from sot_nlp.demo.grammar import generate
from sot_nlp.modeling.auto import AutoSoTForSequenceClassification
from sot_nlp.modeling.head_config import PRESETS, SoTHeadConfig
from tests.support.combinations import accepted, ours

STEPS = 12
SMALL = PRESETS["text"].replace(num_heads=2, width_x=5, width_y=4, dropout=0)
# A wide spread of the first weights, because a narrow backbone's sums have few terms.
SIZES = {"vocab_size": 128, "pad_token_id": 0, "initializer_range": 0.25}
ENCODER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
DECODER = {"n_embd": 16, "n_layer": 1, "n_head": 2}
BACKBONES = {
    "bert": transformers.BertConfig(**SIZES, **ENCODER),
    "roberta": transformers.RobertaConfig(**SIZES, **ENCODER),
    "openai-gpt": transformers.OpenAIGPTConfig(**SIZES, **DECODER),
    "gpt2": transformers.GPT2Config(**SIZES, **DECODER),
}


# Singular values are a matrix's, and the square root a symmetric matrix's.
VECTORS, NOT_SYMMETRIC = ("mean", "mapped_mean", "max", "attention"), ("cross_covariance", "moments")
REFUSED = {*itertools.product(VECTORS, ("svpn", "svpn_exact", "isqrt_cov"))}
REFUSED |= {(pooling, "isqrt_cov") for pooling in NOT_SYMMETRIC}


def heads_by_family() -> dict[str, dict[tuple[str, ...], SoTHeadConfig]]:
    """The accepted heads, dealt to the families by the sum of their values' numbers; `none` to each."""
    heads: dict[str, dict[tuple[str, ...], SoTHeadConfig]] = {family: {} for family in BACKBONES}
    families = list(heads)
    for settings in accepted():
        config = SMALL.replace(**settings)
        if config.pooling == "none":
            for family in families:
                heads[family]["none",] = config
        else:
            number = sum(ours(kind).index(value) for kind, value in settings.items())
            heads[families[number % len(families)]][tuple(settings.values())] = config
    return heads


def test_what_goes_together():
    """All but what mathematics refuses: a new part goes with all, or says here with which it does not."""
    fusions = set(ours("fusion")) - {"class_token"}
    words = itertools.product(set(ours("pooling")) - {"none"}, ours("normalization"), fusions)
    expected = {values for values in words if values[:2] not in REFUSED}
    *with_words, (pooling, _, fusion) = sorted(
        (tuple(settings.values()) for settings in accepted()), key=lambda values: values[0] == "none"
    )
    odd = {
        (values[:2], "refused" if values in expected else "accepted") for values in expected ^ {*with_words}
    }
    assert not odd, f"these are not as VECTORS, NOT_SYMMETRIC and REFUSED say: {sorted(odd)}"
    assert (pooling, fusion) == ("none", "class_token")


def test_every_two_values_meet():
    heads = heads_by_family()
    combinations = [values for of_family in heads.values() for values in of_family if len(values) == 3]
    assert len(combinations) == len(set(combinations)) == len(accepted()) - 1
    for place in range(3):
        values = {combination[place] for combination in combinations}
        for family, of_family in heads.items():
            assert {c[place] for c in of_family if len(c) == 3} == values, family


def demo_batch() -> dict[str, torch.Tensor]:
    """8 of the demo's sentences, a token a word between two special ones, padded on the right."""
    examples = generate("train", 8, 0)
    words = sorted({word for example in examples for word in example.sentence.split()})
    rows = [[1, *(words.index(word) + 3 for word in e.sentence.split()), 2] for e in examples]
    length = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [0] * (length - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows]),
        "labels": torch.tensor([example.label == "acceptable" for example in examples]).long(),
    }


@pytest.mark.parametrize("family", BACKBONES)
def test_every_combination_learns(family):
    torch.manual_seed(0)
    batch = demo_batch()
    heads = heads_by_family()[family]
    first, *_ = models = [
        AutoSoTForSequenceClassification.from_config(BACKBONES[family], num_labels=2, head=config)
        for config in heads.values()
    ]
    for model in models:
        model.train()
    first.base_model.eval()  # no dropout: the loss is to fall by learning alone
    backbone_parameters = list(first.base_model.parameters())
    head_parameters = [p for model in models for p in model.classifier.parameters()]
    optimizer = torch.optim.AdamW(
        [{"params": backbone_parameters, "lr": 1e-3}, {"params": head_parameters, "lr": 2e-2}], fused=True
    )
    history = []
    for _ in range(STEPS):
        encoded = first.encode(batch["input_ids"], batch["attention_mask"])
        losses = torch.stack([model(**batch, encoder_outputs=encoded).loss for model in models])
        optimizer.zero_grad()
        losses.sum().backward()
        optimizer.step()
        history.append(losses.detach())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head_parameters)
    pairs = zip(heads, history[0].tolist(), history[-1].tolist(), strict=True)
    not_learned = {name: (start, end) for name, start, end in pairs if not end < start}
    assert not not_learned
