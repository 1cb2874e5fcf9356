"""Any text backbone of transformers under the head, on tiny random ones of many families."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel

from sot_nlp import AutoSoTForSequenceClassification, SoTGenericForSequenceClassification
from tests.support import tiny
from tests.support.padding import batch, logits, paddings

# Three texts of different lengths; 1 pads, and is the pad token of those that have one.
TEXTS = [[5, 9, 33, 41, 12, 27, 60, 8, 14], [7, 50, 21, 6], [19]]
LANGUAGE_MODELS = ("AutoModelForMaskedLM", "AutoModelForCausalLM")
CAUSAL = {
    "bloom", "falcon", "gemma", "gemma2", "gpt_neox", "llama", "mistral", "mixtral", "opt", "phi", "qwen2",
    "qwen3", "smollm3", "xlnet",
}  # fmt: skip

_PART = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_PART |= {"intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 1}
_EMBEDDED = {**_PART, "num_key_value_heads": 4, "head_dim": 8, "vocab_size_per_layer_input": 64}
_EMBEDDED |= {"hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0}
# (Gemma 3n's inner layers hold four streams per token.)
PARTS = {
    "clip_text_model": {**_PART, "projection_dim": 16, "eos_token_id": 2},
    "gemma3n_text": {
        **_EMBEDDED,
        "laurel_rank": 4,
        "layer_types": ["full_attention"] * 2,
        "activation_sparsity_pattern": [0.0, 0.0],
    },
    "gemma4_text": {**_EMBEDDED, "global_head_dim": 8, "use_bidirectional_attention": "vision"},
    "qwen2_vl_text": {
        **_PART,
        "num_key_value_heads": 4,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
    },
}


def save(family: str, folder: Path, auto_class=AutoModel) -> transformers.PreTrainedModel:
    model = tiny.random_model(AutoConfig.for_model(family, **tiny.OTHER_BACKBONES[family]), auto_class)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("family", tiny.OTHER_BACKBONES)
def test_any_backbone(family, tmp_path):
    plain = save(family, tmp_path / "plain").state_dict()
    model = AutoSoTForSequenceClassification.from_pretrained(tmp_path / "plain", num_labels=3)
    assert type(model) is SoTGenericForSequenceClassification
    loaded = model.model.state_dict()
    assert loaded
    for name, value in loaded.items():
        assert torch.equal(value, plain[name]), f"{name} is not the checkpoint's"
    assert model.config.causal is (family in CAUSAL)

    expected = logits(model, [batch(TEXTS, 1)], 3)
    assert expected.std(0).max() > 1e-4
    for name, batches in paddings(TEXTS, 1).items():
        assert (logits(model, batches, 3) - expected).abs().max() <= 1e-5, name

    model.save_pretrained(tmp_path / "sot", save_remote_code=False)
    again = AutoSoTForSequenceClassification.from_pretrained(tmp_path / "sot")
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert torch.equal(logits(again, [batch(TEXTS, 1)], 3), expected)
    assert str(tmp_path) not in (tmp_path / "sot" / "config.json").read_text()


@pytest.mark.parametrize("family", PARTS)
def test_a_decoder_that_is_part_of_a_larger_model(family):
    """Known as one, though transformers has no language model of it or calls its images bidirectional."""
    if family not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {family}")
    config = AutoConfig.for_model(family, **PARTS[family])
    model = AutoSoTForSequenceClassification.from_config(config).eval()
    inputs = batch(TEXTS[:1], 1)
    first = model.encode(**inputs).last_hidden_state[0, 0]
    inputs["input_ids"][0, -1] = 22
    assert torch.equal(model.encode(**inputs).last_hidden_state[0, 0], first)
    assert model.config.causal is True

    expected = logits(model, [batch(TEXTS, 1)], 3)
    for name, batches in paddings(TEXTS, 1).items():
        assert (logits(model, batches, 3) - expected).abs().max() <= 1e-5, name


@pytest.mark.parametrize("family", ["distilbert", "gpt_neox", "qwen2"])
def test_without_a_mask_every_token_is_real(family):
    """Also a pad token at the end, of which transformers warns by the ids of the special tokens."""
    settings = tiny.OTHER_BACKBONES[family] | {"pad_token_id": 1, "eos_token_id": 2}
    model = AutoSoTForSequenceClassification.from_config(AutoConfig.for_model(family, **settings)).eval()
    assert (model.config.pad_token_id, model.config.eos_token_id) == (1, 2)
    ids = torch.tensor([[5, 9, 33, 1], [7, 50, 21, 6]])
    assert torch.equal(model(ids).logits, model(ids, attention_mask=torch.ones_like(ids)).logits)


def test_relative_positions_have_no_longest_text():
    """DeBERTa's config names a number of positions, of which it has no table."""
    settings = tiny.OTHER_BACKBONES["deberta-v2"] | {"max_position_embeddings": 64}
    for absolute, longest in ((True, 64), (False, None)):
        config = AutoConfig.for_model("deberta-v2", **(settings | {"position_biased_input": absolute}))
        model = AutoSoTForSequenceClassification.from_config(config).eval()
        assert model.max_tokens == longest
    assert model(**batch([[5] * 100], 0)).logits.isfinite().all()


@pytest.mark.parametrize("family", tiny.OTHER_BACKBONES)
def test_a_language_models_backbone(family, tmp_path):
    config_class = type(AutoConfig.for_model(family))
    name = next(n for n in LANGUAGE_MODELS if config_class in getattr(transformers, n)._model_mapping)
    plain = save(family, tmp_path, getattr(transformers, name)).base_model.state_dict()
    model = AutoSoTForSequenceClassification.from_pretrained(tmp_path, head="words")
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, plain[name]), f"{name} is not the checkpoint's"


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")  # renamed after 5.0
@pytest.mark.parametrize("family", tiny.OTHER_BACKBONES)
def test_attention_implementations_agree_and_checkpointing_trains(family):
    config = AutoConfig.for_model(family, **tiny.OTHER_BACKBONES[family])
    inputs = batch(TEXTS, 1)
    eager = AutoSoTForSequenceClassification.from_config(config, attn_implementation="eager").eval()
    if not eager.model._supports_sdpa:
        with pytest.raises(ValueError, match="scaled_dot_product_attention"):
            AutoSoTForSequenceClassification.from_config(config, attn_implementation="sdpa")
    else:
        sdpa = AutoSoTForSequenceClassification.from_config(config, attn_implementation="sdpa").eval()
        sdpa.load_state_dict(eager.state_dict())
        assert sdpa.model.config._attn_implementation == "sdpa"
        torch.testing.assert_close(sdpa(**inputs).logits, eager(**inputs).logits, atol=1e-5, rtol=0)

    assert eager.supports_gradient_checkpointing is eager.model.supports_gradient_checkpointing
    if not eager.supports_gradient_checkpointing:
        return
    labels = torch.tensor([0, 1, 1])
    gradients = []
    # Without dropout, which draws other numbers.
    for module in eager.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for checkpointing in (False, True):
        eager.train()
        if checkpointing:
            eager.gradient_checkpointing_enable()
            assert eager.is_gradient_checkpointing
        eager.zero_grad()
        eager(**inputs, labels=labels).loss.backward()
        gradients.append({n: p.grad for n, p in eager.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert any(gradient.abs().max() > 0 for gradient in gradients[0].values())


def test_the_last_token_is_the_causal_ones_classification_token():
    config = AutoConfig.for_model("qwen3", **tiny.OTHER_BACKBONES["qwen3"])
    model = AutoSoTForSequenceClassification.from_config(config, head="stock").eval()
    plain = model.model(**batch(TEXTS[:1], 1)).last_hidden_state
    expected = model.classifier.class_token_output(plain[:, -1])
    torch.testing.assert_close(model(**batch(TEXTS, 1, side="left", extra=2)).logits[:1], expected)
    assert model.classifier.class_token_output.bias is None


def test_longformers_classification_token_attends_to_everything():
    config = AutoConfig.for_model("longformer", **tiny.OTHER_BACKBONES["longformer"], num_labels=2)
    model = AutoSoTForSequenceClassification.from_config(config, head="stock").eval()
    stock = transformers.LongformerForSequenceClassification(config).eval()
    stock.longformer.load_state_dict(model.model.state_dict())
    stock.classifier.dense.load_state_dict(model.classifier.class_token_transform.dense.state_dict())
    stock.classifier.out_proj.load_state_dict(model.classifier.class_token_output.state_dict())
    inputs = batch([list(range(5, 45)), TEXTS[0]], 1)
    torch.testing.assert_close(model(**inputs).logits, stock(**inputs).logits, atol=1e-6, rtol=0)


def test_xlm_robertas_stock_head_is_its_own():
    config = AutoConfig.for_model("xlm-roberta", **tiny.OTHER_BACKBONES["xlm-roberta"], num_labels=3)
    stock = transformers.XLMRobertaForSequenceClassification(config).eval()
    model = AutoSoTForSequenceClassification.from_config(config, head="stock").eval()
    model.model.load_state_dict(stock.roberta.state_dict())
    model.classifier.class_token_transform.dense.load_state_dict(stock.classifier.dense.state_dict())
    model.classifier.class_token_output.load_state_dict(stock.classifier.out_proj.state_dict())
    inputs = batch(TEXTS, 1)
    torch.testing.assert_close(model(**inputs).logits, stock(**inputs).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("t5", "a 't5' model is an encoder-decoder"),
        ("bart", "a 'bart' model is an encoder-decoder"),
        ("vit", r"a 'vit' model reads image \(pixel_values\)"),
        ("clip", "a 'clip' model reads image and text"),
        ("wav2vec2", "a 'wav2vec2' model reads audio"),
        ("canine", "a 'canine' model lets padding and batch mates change"),
        ("convbert", "a 'convbert' model lets padding and batch mates change"),
        ("cpmant", "a 'cpmant' model lets padding and batch mates change"),
        ("recurrent_gemma", "a 'recurrent_gemma' model lets padding and batch mates change"),
        ("xlstm", "a 'xlstm' model lets padding and batch mates change"),
        ("trocr", "AutoModel has no backbone for model type 'trocr'"),
    ],
)
def test_what_no_head_can_stand_on_is_refused_by_name(family, message, tmp_path):
    config = AutoConfig.for_model(family)
    with pytest.raises(ValueError, match=message):
        AutoSoTForSequenceClassification.from_config(config)
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        AutoSoTForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize(("family", "ends"), [("mpnet", True), ("opt", True), ("llama", False)])
def test_a_text_longer_than_the_table_of_positions_is_refused_in_words(family, ends, tmp_path):
    save(family, tmp_path)
    model = AutoSoTForSequenceClassification.from_pretrained(tmp_path).eval()
    ids = torch.full((2, model.max_tokens + 1), 5)
    mask = torch.ones_like(ids)
    mask[:, -1] = 0  # what is too long is padding alone
    assert model(ids, mask).logits.isfinite().all()
    mask[1, -1] = 1
    if ends:
        limit = model.max_tokens
        words = f"a text of {limit + 1} tokens.*positions for {limit}: cut.*truncation=True"
        with pytest.raises(ValueError, match=words):
            model(ids, mask)
    else:  # its positions are computed, without end
        assert model(ids, mask).logits.isfinite().all()
