from __future__ import annotations

import pickle

import pytest
import torch
import transformers
from accelerate import cpu_offload
from torch.nn import functional as F  # noqa: N812

from sot_nlp import AutoSoTForSequenceClassification, SoTForSequenceClassification
from sot_nlp.modeling.head_config import PRESETS
from tests.support import tiny
from tests.support.padding import batch, logits, paddings

ALL_PARAMETERS = {"num_layers": 2, "num_heads": 2, "num_singular_values": 2, "width_x": 6, "width_y": 4}


def classifier(
    family: str, head="text", *, seed: int = 0, layers: int = 2, **options
) -> SoTForSequenceClassification:
    """A random SoT classifier; the backbone's weights and the running statistics are spread widely."""
    config = tiny.config(family)
    config.num_hidden_layers = layers
    model = AutoSoTForSequenceClassification.from_config(
        config, **({"head": head, "num_labels": 3} | options)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.base_model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
        for name, buffer in model.classifier.named_buffers():
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + (0.5 if "var" in name else 0))
        for parameter in model.classifier.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_padding_and_batch_mates_change_no_logit(family, preset, family_batches):
    texts = family_batches(family)
    model = classifier(family, preset)
    expected = logits(model, [batch(texts, 0)], 3)
    assert expected.std(0).max() > 1e-3, "the texts are told apart, so the comparison means something"
    for name, batches in paddings(texts, 0).items():
        difference = (logits(model, batches, 3) - expected).abs().max()
        assert difference <= 1e-5, name


@pytest.mark.parametrize("fusion", ["concat", "aggregate_all", "late"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_padding_changes_no_logit_of_the_other_fusions(family, fusion, family_batches):
    texts = family_batches(family)
    model = classifier(family, PRESETS["text"].replace(fusion=fusion, num_layers=2))
    expected = logits(model, [batch(texts, 0)], 3)
    for name, batches in paddings(texts, 0).items():
        assert (logits(model, batches, 3) - expected).abs().max() <= 1e-5, name


def test_the_last_real_token_counts_even_if_it_is_the_pad_token(family_batches):
    model = classifier("gpt2", "stock")
    text = [*family_batches("gpt2")[0], 0]  # ends in <|endoftext|>, which is also what pads
    padded = model(**batch([text, text[:3]], 0)).logits[0]
    torch.testing.assert_close(padded, model(**batch([text], 0)).logits[0], atol=1e-6, rtol=0)
    without = model(**batch([text[:-1]], 0)).logits[0]
    assert (padded - without).abs().max() > 1e-3


def test_a_text_without_a_token_has_the_logits_that_it_has_beside_others():
    model = classifier("gpt2", "sot")
    tokenizer = tiny.tokenizer("gpt2")
    tokenizer.pad_token = tokenizer.eos_token
    alone = model(**tokenizer([""], return_tensors="pt")).logits[0]
    beside = model(**tokenizer(["", "the zorp runs"], padding=True, return_tensors="pt")).logits[0]
    torch.testing.assert_close(alone, beside, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_model_that_has_run_is_pickled(family, family_batches):
    model = classifier(family, "sot")
    texts = batch(family_batches(family), 0)
    expected = model(**texts).logits  # of several layers: transformers sets hooks that pickle refuses
    for again in (pickle.loads(pickle.dumps(model)), model):
        assert torch.equal(again(**texts).logits, expected)


STOCK = {
    "bert": (transformers.BertForSequenceClassification, {"classifier": "class_token_output"}),
    "roberta": (
        transformers.RobertaForSequenceClassification,
        {"classifier.dense": "class_token_transform.dense", "classifier.out_proj": "class_token_output"},
    ),
    "openai-gpt": (transformers.OpenAIGPTForSequenceClassification, {"score": "class_token_output"}),
    "gpt2": (transformers.GPT2ForSequenceClassification, {"score": "class_token_output"}),
}


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_stock_head_is_the_familys_own(family, family_batches):
    stock_class, names = STOCK[family]
    config = tiny.config(family, num_labels=3)
    config.pad_token_id = 1 if family == "roberta" else 0
    stock = tiny.random_model(config, stock_class_as_auto(stock_class))
    model = AutoSoTForSequenceClassification.from_config(config, head="stock").eval()
    renamed = {}
    for name, value in stock.state_dict().items():
        for theirs, ours in names.items():
            if name.startswith(f"{theirs}."):
                name = name.replace(theirs, f"classifier.{ours}", 1)
        renamed[name] = value
    assert set(model.state_dict()) == set(renamed), "the same layers"
    model.load_state_dict(renamed)
    inputs = batch(family_batches(family), config.pad_token_id)
    torch.testing.assert_close(model(**inputs).logits, stock(**inputs).logits, atol=1e-6, rtol=0)

    ours = {n: m.p for n, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert sum(n.startswith("classifier") and p == 0.1 for n, p in ours.items()) == (
        1 if family in ("bert", "roberta") else 0
    )


def stock_class_as_auto(stock_class):
    """`tiny.random_model` builds by `from_config`, which only Auto classes have in public."""

    class Auto:
        from_config = staticmethod(stock_class)

    return Auto


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_stock_head_starts_as_the_familys_own(family):
    stock_class, names = STOCK[family]
    config = tiny.config(family, num_labels=300)
    stock, model = (
        stock_class(config).state_dict(),
        AutoSoTForSequenceClassification.from_config(config, head="stock").state_dict(),
    )
    for theirs, ours in names.items():
        weight, expected = model[f"classifier.{ours}.weight"], stock[f"{theirs}.weight"]
        assert weight.std().item() == pytest.approx(expected.std().item(), rel=0.15)
        assert weight.mean().abs() < 0.01
        if f"{theirs}.bias" in stock:
            assert torch.equal(model[f"classifier.{ours}.bias"], stock[f"{theirs}.bias"])
        else:
            assert f"classifier.{ours}.bias" not in model


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_what_is_saved_comes_back_bit_for_bit(family, tmp_path, family_batches):
    head = PRESETS["text"].replace(**ALL_PARAMETERS)
    model = classifier(family, head, id2label={0: "bad", 1: "fair", 2: "good"})
    model.save_pretrained(tmp_path)
    loaded = AutoSoTForSequenceClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert loaded.config.head_config == model.config.head_config
    assert loaded.config.label2id == {"bad": 0, "fair": 1, "good": 2}
    saved = model.state_dict()
    assert set(loaded.state_dict()) == set(saved)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, saved[name]), name
    inputs = batch(family_batches(family), 0)
    assert torch.equal(loaded(**inputs).logits, model(**inputs).logits)


def test_a_new_heads_parameters_are_drawn_and_not_left_over_memory(backbone_folder):
    head = PRESETS["text"].replace(**ALL_PARAMETERS)
    heads = []
    for _ in range(2):
        torch.manual_seed(3)
        model = AutoSoTForSequenceClassification.from_pretrained(backbone_folder("bert"), head=head)
        heads.append(model.classifier.state_dict())
    for name, value in heads[0].items():
        assert torch.equal(value, heads[1][name]), name
    first = {name.rpartition("words.")[2]: value for name, value in heads[0].items()}
    assert torch.equal(first["layer_mixture"], torch.zeros(2))
    assert torch.equal(first["map_norm.weight"], torch.ones_like(first["map_norm.weight"]))
    assert torch.equal(first["map_norm.running_var"], torch.ones_like(first["map_norm.running_var"]))
    (start,) = (value for name, value in first.items() if "start" in name)
    assert 0 < start.abs().max() < 6
    assert first["maps.weight"].std().item() == pytest.approx(0.02, rel=0.2)


def test_the_losses_by_hand(family_batches):
    inputs = batch(family_batches("bert"), 0)
    model = classifier("bert")
    labels = torch.tensor([2, 0, 1])
    output = model(**inputs, labels=labels)
    assert torch.equal(output.loss, F.cross_entropy(output.logits, labels))
    assert model.config.problem_type == "single_label_classification"

    model = classifier("bert")
    many = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]])
    output = model(**inputs, labels=many)
    by_hand = -(many * output.logits.sigmoid().log() + (1 - many) * (-output.logits).sigmoid().log()).mean()
    torch.testing.assert_close(output.loss, by_hand)
    assert model.config.problem_type == "multi_label_classification"

    model = classifier("bert", num_labels=1)
    output = model(**inputs, labels=torch.tensor([0.5, 3.0, 5.0]))
    by_hand = (output.logits[:, 0] - torch.tensor([0.5, 3.0, 5.0])).square().mean()
    torch.testing.assert_close(output.loss, by_hand)
    assert model.config.problem_type == "regression"
    with pytest.raises(ValueError, match=r"regression: labels of \(2,\)"):
        model(**inputs, labels=torch.tensor([0.5, 3.0]))


def test_late_fusion_has_a_loss_a_branch_and_sums_the_logits(family_batches):
    model = classifier("bert", PRESETS["text"].replace(fusion="late"))
    labels = torch.tensor([2, 0, 1])
    output = model(**batch(family_batches("bert"), 0), labels=labels)
    torch.testing.assert_close(output.logits, output.word_logits + output.class_token_logits)
    by_hand = F.cross_entropy(output.word_logits, labels) + F.cross_entropy(output.class_token_logits, labels)
    torch.testing.assert_close(output.loss, by_hand)


def test_separators_can_be_left_out_of_the_words(family_batches):
    head = PRESETS["words"].replace(include_separators=False)
    with pytest.raises(ValueError, match="include_separators=False needs the separators' ids"):
        classifier("bert", head)
    model = classifier("bert", head, separator_token_ids=[3])
    # [CLS] wug [SEP]: with the one separator left out, one word is pooled, whose covariance is zero.
    alone = model(**batch([[2, 100, 3]], 0)).logits
    torch.testing.assert_close(alone[0], model.classifier.word_output.bias)
    assert (model(**batch(family_batches("bert"), 0)).logits[0] - alone[0]).abs().max() > 1e-3
    with pytest.raises(ValueError, match="input_ids"):
        model(inputs_embeds=torch.randn(1, 4, 32), attention_mask=torch.ones(1, 4, dtype=torch.long))


def test_more_layers_than_there_are_is_refused():
    with pytest.raises(ValueError, match="num_layers=3, but the backbone has 2"):
        classifier("bert", PRESETS["text"].replace(num_layers=3))


@pytest.mark.parametrize("token_norm", ["none", "layer_norm"])
def test_the_mixture_of_layers_starts_as_their_mean(token_norm, family_batches):
    inputs = batch(family_batches("gpt2"), 0)
    head = PRESETS["words"].replace(num_layers=2, pooling="mean", normalization="none", token_norm=token_norm)
    mixed = classifier("gpt2", head)
    with torch.no_grad():
        mixed.classifier.words.layer_mixture.zero_()
    states = mixed(**inputs, output_hidden_states=True).hidden_states
    last = mixed.transformer(**inputs).last_hidden_state
    mask = inputs["attention_mask"].clone()
    mask[torch.arange(3), mask.sum(-1) - 1] = 0
    layers = [states[-2], last]
    if token_norm == "layer_norm":
        layers = [
            (z - z.mean(-1, keepdim=True)) / (z.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
            for z in layers
        ]
    mean = sum(layers) / 2
    # a text of one token has no words left, and pools to zero
    pooled = torch.nan_to_num((mean * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True))
    expected = mixed.classifier.word_output(pooled)
    torch.testing.assert_close(mixed(**inputs).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16 autocast", "bf16 weights"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_shortest_and_longest_texts_train(family, precision):
    """A single token, one word between special tokens, and 512 tokens, by both recipes."""
    for preset in ("text", "vision"):
        model = classifier(family, preset).train()
        if precision == "bf16 weights":
            model.bfloat16()
        for texts in ([[3]], [[2, 9, 3]], [[7] * 512], [[3], [2, 9, 3], list(range(5, 105)) * 5 + [9] * 12]):
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16 autocast"):
                output = model(**batch(texts, 0), labels=torch.zeros(len(texts), dtype=torch.long))
            output.loss.backward()
            assert output.logits.dtype == torch.float32
            assert output.loss.isfinite()
            for name, parameter in model.named_parameters():
                assert parameter.grad is not None, f"{preset}: {name} is not used"
                assert parameter.grad.isfinite().all(), f"{preset}: {name}"


def test_outputs_follow_transformers_conventions(family_batches):
    model = classifier("bert")
    inputs = batch(family_batches("bert"), 0)
    plain = model(**inputs)
    assert plain.hidden_states is None
    assert list(plain) == ["logits", "word_logits", "class_token_logits"]
    full = model(**inputs, output_hidden_states=True, labels=torch.tensor([0, 1, 2]))
    assert len(full.hidden_states) == 3
    loss, got = model(**inputs, labels=torch.tensor([0, 1, 2]), return_dict=False)[:2]
    assert torch.equal(loss, full.loss)
    assert torch.equal(got, plain.logits)
    unmasked = model(inputs["input_ids"][:1])
    torch.testing.assert_close(unmasked.logits, plain.logits[:1], atol=1e-6, rtol=0)
    embedded = model(
        inputs_embeds=model.bert.embeddings.word_embeddings(inputs["input_ids"]),
        attention_mask=inputs["attention_mask"],
    )
    torch.testing.assert_close(embedded.logits, plain.logits, atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="give input_ids or inputs_embeds"):
        model()


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_max_tokens_is_how_long_a_text_can_be(family):
    model = classifier(family, "stock")
    assert model.max_tokens == 512
    assert model(**batch([[5] * 512], 0)).logits.isfinite().all()


def test_parameters_without_a_use_are_not_built():
    """DistributedDataParallel stops on them; the pooler is BERT's."""
    assert classifier("bert", "text").bert.pooler is None
    assert classifier("bert", "stock").bert.pooler is not None
    assert classifier("roberta", "text").roberta.pooler is None


def test_an_exported_model_gives_the_same_logits_at_other_sizes(family_batches):
    model = classifier("bert", layers=1)
    inputs = batch(family_batches("bert"), 0)
    sizes = {0: torch.export.Dim("batch", min=1, max=64), 1: torch.export.Dim("tokens", min=1, max=512)}
    exported = torch.export.export(
        model,
        (),
        inputs,
        dynamic_shapes={"input_ids": sizes, "attention_mask": sizes},
    ).module()
    other = batch([*family_batches("bert"), [2, 50, 60, 3]], 0, side="left", extra=3)
    torch.testing.assert_close(exported(**other).logits, model(**other).logits, atol=1e-6, rtol=1e-5)


def test_a_compiled_model_is_one_graph(family_batches):
    family = "gpt2"
    model = classifier(family, layers=1)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for extra in (0, 3):
        inputs = batch(family_batches(family), 0, extra=extra)
        expected = model(**inputs, labels=torch.tensor([0, 1, 2]))
        output = compiled(**inputs, labels=torch.tensor([0, 1, 2]))
        torch.testing.assert_close(output.logits, expected.logits, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(output.loss, expected.loss, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("head", ["sot", "text", "stock"])
@pytest.mark.parametrize("family", [*tiny.FAMILIES, "electra"])
def test_chosen_hidden_states_are_kept_and_the_others_are_none(family, head):
    if family == "electra":
        config = transformers.AutoConfig.for_model(family, **tiny.OTHER_BACKBONES[family])
    else:
        config = tiny.config(family)
    model = AutoSoTForSequenceClassification.from_config(config, head=head).eval()
    ids = torch.tensor([[3, 4, 5]])
    every = model(input_ids=ids, output_hidden_states=True)
    assert len(every.hidden_states) == 3
    for wanted, kept in (([0, 2], {0, 2}), ([-1], {2}), ((1,), {1}), (1, {1}), (-3, {0}), ([5], set())):
        output = model(input_ids=ids, output_hidden_states=wanted)
        assert torch.equal(output.logits, every.logits)
        for index, (state, full) in enumerate(zip(output.hidden_states, every.hidden_states, strict=True)):
            assert (state is None) if index not in kept else torch.equal(state, full)
    assert model(input_ids=ids, output_hidden_states=[]).hidden_states is None
    assert model(input_ids=ids).hidden_states is None


@pytest.mark.parametrize("head", ["sot", "stock", "word_mean"])
def test_hidden_states_named_elsewhere_are_those_of_the_backbone(backbone_folder, head):
    """By the config, in a tuple, beside a loss: as stock classes of transformers 5.23 select them."""
    folder = backbone_folder("bert")
    ids = torch.tensor([[2, 40, 41, 3]])
    stock = transformers.AutoModel.from_pretrained(folder, add_pooling_layer=False).eval()
    model = AutoSoTForSequenceClassification.from_pretrained(folder, head=head).eval()
    plain = model(input_ids=ids).logits
    every = stock(input_ids=ids, output_hidden_states=True).hidden_states
    for wanted, kept in (([0, 2], {0, 2}), ([-3], {0}), (1, {1}), ((2,), {2}), ([7], set()), (0, None)):
        expected = [every[i] if i in kept else None for i in range(3)] if kept is not None else None
        model.config.output_hidden_states = wanted
        by_config = model(input_ids=ids, labels=torch.tensor([1]))
        model.config.output_hidden_states = False
        in_tuple = model(input_ids=ids, output_hidden_states=wanted, return_dict=False)
        selected = in_tuple[1] if wanted else None
        assert torch.equal(by_config.logits, plain)
        for states in (by_config.hidden_states, selected):
            assert (states is None) == (expected is None), wanted
            for state, other in zip(states or (), expected or (), strict=True):
                assert (state is None) == (other is None)
                assert state is None or torch.equal(state, other)


@pytest.mark.parametrize(
    "head",
    [
        PRESETS["text"].replace(num_layers=2),
        PRESETS["moments"].replace(num_layers=2),
        PRESETS["maxpool_both"].replace(num_layers=2),
        "stock",
    ],
)
def test_offloaded_weights_are_there_when_they_are_needed(head):
    """As `device_map="auto"` leaves the last modules of a model that is larger than the memory."""
    model = classifier("bert", head)
    inputs = batch([[5, 9, 33, 41], [7, 50]], 0)
    with torch.no_grad():
        expected = model(**inputs).logits
        offloaded = cpu_offload(model, execution_device=torch.device("cpu"))
        assert next(offloaded.classifier.parameters()).device.type == "meta"
        assert torch.equal(offloaded(**inputs).logits, expected)
