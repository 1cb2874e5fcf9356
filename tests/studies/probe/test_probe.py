"""Heads on frozen features: the batched training is the plain one, the features are the backbone's."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sot_nlp.commands import probe as probe_command
from sot_nlp.data.token_split import TokenSplit
from sot_nlp.errors import UserError
from sot_nlp.modeling.class_token import DenseTransform, TransformedTokenHead
from sot_nlp.modeling.head import SoTHead
from sot_nlp.modeling.head_config import resolve_head
from sot_nlp.settings.arguments import Arguments
from sot_nlp.studies.probe import passes as probe_passes
from sot_nlp.studies.probe import probe
from sot_nlp.studies.probe.parallel_heads import SeedBatch, seed_updates
from sot_nlp.training.batching import epoch_updates
from sot_nlp.training.speed.features import CLASS_TOKEN, SEPARATOR, WORD, Features, load_features
from tests.support import tiny

LAYERS, C, SMALL = 2, 16, {"num_heads": 2, "width_x": 5, "width_y": 4}
HEADS = {
    "class token": resolve_head("stock", class_token="linear"),
    "mean": resolve_head("words", pooling="mean", normalization="none", dropout=0.0),
    "text": resolve_head("text", **SMALL, dropout=0.0),
    "vision": resolve_head("vision", **SMALL, dropout=0.0),
    "layers": resolve_head("text", **SMALL, dropout=0.0, num_layers=LAYERS),
    "late": resolve_head("vision", **SMALL, dropout=0.0, fusion="late"),
    "aggregate_all": resolve_head("vision", **SMALL, dropout=0.0, fusion="aggregate_all"),
    "no separators": resolve_head("text", **SMALL, dropout=0.0, include_separators=False),
}


def made_up_features(tmp_path, n=40, labels=None, seed=0):
    source = np.random.default_rng(seed)
    lengths = source.integers(3, 9, n)
    starts = np.cumsum(lengths) - lengths
    kinds = np.full(lengths.sum(), WORD, dtype=np.uint8)
    kinds[starts], kinds[starts + lengths - 1] = CLASS_TOKEN, SEPARATOR
    states = source.normal(size=(len(kinds), LAYERS, C)).astype(np.float16)
    return Features(
        folder=tmp_path,
        states=states,
        kinds=kinds,
        starts=starts,
        lengths=lengths,
        rows=np.arange(n),
        class_tokens=states[starts, -1],
        stock_class_tokens=states[starts, -1] * np.float16(2),
        labels=source.integers(0, 3, n) if labels is None else labels,
        indices=np.arange(n),
    )


def plain(features, config, example):
    """(hidden states (N, l, C) of the head's layers, mask, class token) of one example, without padding."""
    at = slice(features.starts[example], features.starts[example] + features.lengths[example])
    states, kinds = torch.from_numpy(features.states[at]).float(), features.kinds[at]
    states = states[:, LAYERS - config.num_layers :]
    chosen = {WORD} | ({SEPARATOR} if config.include_separators else set())
    chosen |= {CLASS_TOKEN} if config.fusion == "aggregate_all" else set()
    return states, torch.tensor([int(kind) in chosen for kind in kinds]), states[0, -1]


def padded(features, config, examples):
    """The batch of those examples, a tensor a layer, padded by hand; the padding is not zero."""
    parts = [plain(features, config, example) for example in examples]
    width = max(len(mask) for _, mask, _ in parts)
    states = torch.full((len(parts), width, config.num_layers, C), 7.0)
    mask = torch.zeros(len(parts), width, dtype=torch.bool)
    for i, (hidden, words, _) in enumerate(parts):
        states[i, : len(words)], mask[i, : len(words)] = hidden, words
    return states.unbind(2), mask, torch.stack([token for _, _, token in parts])


def heads_of(config, seeds):
    made = []
    for seed in seeds:
        torch.manual_seed(seed)
        made.append(SoTHead(config, hidden_size=C, num_labels=3))
    return made


@pytest.mark.parametrize("name", HEADS)
def test_the_batched_training_is_the_plain_one(tmp_path, name):
    config = HEADS[name]
    features = made_up_features(tmp_path)
    seeds, arguments = (3, 4, 5), Arguments(learning_rate=0.02, weight_decay=0.1, max_grad_norm=0.5)
    updates = [u for epoch in range(2) for u in seed_updates(features.lengths, seeds, epoch, 16)]
    batch = SeedBatch(heads_of(config, seeds), arguments=arguments, kind="classification", seeds=seeds)
    losses = [batch.step(features, examples, 1 - i / 6) for i, examples in enumerate(updates)]
    of_seeds = batch.logits(features, batch_size=7)
    for row, head in enumerate(heads_of(config, seeds)):
        groups = [
            {"params": [p for p in head.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in head.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=0.02, betas=(0.9, 0.999), eps=1e-8)
        head.train()
        for i, examples in enumerate(updates):
            own = examples[row][examples[row] >= 0]
            output = head(*padded(features, config, own))
            branches = (output.word_logits, output.class_token_logits) if name == "late" else (output.logits,)
            labels = torch.from_numpy(features.labels[own])
            loss = sum(nn.functional.cross_entropy(logits, labels) for logits in branches)
            assert losses[i][row].item() == pytest.approx(loss.item(), rel=1e-4)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(head.parameters(), 0.5)
            for group in optimizer.param_groups:
                group["lr"] = 0.02 * (1 - i / 6)
            optimizer.step()
        head.eval()
        with torch.no_grad():
            expected = head(*padded(features, config, range(len(features)))).logits
        np.testing.assert_allclose(of_seeds[row], expected.numpy(), atol=2e-4)
        for key, value in head.state_dict().items():
            torch.testing.assert_close(batch.state_dict(row)[key], value, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(("kind", "num_labels"), [("regression", 1), ("multi_label", 3)])
def test_other_losses(tmp_path, kind, num_labels):
    source = np.random.default_rng(1)
    labels = source.normal(size=40) if kind == "regression" else source.integers(0, 2, (40, 3))
    features = made_up_features(tmp_path, labels=labels.astype(np.float32))
    config = HEADS["vision"]
    torch.manual_seed(0)
    head = SoTHead(config, hidden_size=C, num_labels=num_labels)
    examples = np.arange(8)[None]
    logits = head(*padded(features, config, examples[0])).logits
    targets = torch.from_numpy(features.labels[:8]).reshape(logits.shape)
    functional = nn.functional
    loss = functional.mse_loss if kind == "regression" else functional.binary_cross_entropy_with_logits
    expected = loss(logits, targets).item()
    batch = SeedBatch([head], arguments=Arguments(), kind=kind, seeds=(0,))
    assert batch.step(features, examples, 1.0).item() == pytest.approx(expected, rel=1e-4)


def test_which_seeds_share_a_pass_changes_nothing(tmp_path):
    features = made_up_features(tmp_path)
    config = resolve_head("text", **SMALL, dropout=0.5)

    def trained(seeds):
        batch = SeedBatch(
            heads_of(config, seeds),
            arguments=Arguments(learning_rate=0.01),
            kind="classification",
            seeds=seeds,
        )
        for epoch in range(2):
            for examples in seed_updates(features.lengths, seeds, epoch, 16):
                batch.step(features, examples, 1.0)
        return batch.logits(features)

    together = trained((0, 1, 2))
    np.testing.assert_allclose(trained((1,))[0], together[1], atol=2e-4)
    assert np.abs(together[0] - together[1]).max() > 0.01


def test_dropout_is_drawn_at_its_rate_and_keeps_the_mean(tmp_path):
    features = made_up_features(tmp_path)
    config = resolve_head("vision", dropout=0.7)
    batch = SeedBatch(heads_of(config, (0, 1)), arguments=Arguments(), kind="classification", seeds=(0, 1))
    batch.step(features, np.arange(32).reshape(2, 16), 1.0)
    assert batch.draws.noted == [(0.7, 6 * 24 * 24)]
    (factors,) = batch.draws.draw(batch.sources, 16)
    assert factors.shape == (2, 16, 6 * 24 * 24)
    assert (factors == 0).float().mean().item() == pytest.approx(179 / 256, abs=0.005)
    assert factors.mean().item() == pytest.approx(1, abs=0.02)
    assert not torch.equal(factors[0], factors[1])


def test_a_stock_head_with_layers_of_its_own_is_trained(tmp_path):
    features = made_up_features(tmp_path)
    heads = [
        TransformedTokenHead(resolve_head("stock"), DenseTransform(C, 0.1), hidden_size=C, num_labels=3)
        for _ in range(2)
    ]
    batch = SeedBatch(heads, arguments=Arguments(learning_rate=0.02), kind="classification", seeds=(0, 1))
    examples = np.stack([np.arange(40)] * 2)
    losses = [batch.step(features, examples, 1.0).mean().item() for _ in range(30)]
    assert batch.draws.noted == [(0.1, C), (0.1, C)]
    assert losses[-1] < 0.8 * losses[0]


def test_the_batches_of_a_seed_are_those_of_a_run_with_that_data_seed():
    lengths = np.random.default_rng(0).integers(3, 30, 100)
    updates = list(seed_updates(lengths, (7, 8), epoch=2, size=16))
    assert [update.shape for update in updates] == [(2, 16)] * 7
    for row, seed in enumerate((7, 8)):
        mine = {tuple(sorted(update[row][update[row] >= 0])) for update in updates}
        theirs = {tuple(sorted(u)) for u in epoch_updates(lengths, seed=seed, epoch=2, update_size=16)}
        assert mine == theirs
    alone = list(seed_updates(lengths, (8,), epoch=2, size=16))
    for both, single in zip(updates, alone, strict=True):
        assert (both[1] == single[0]).all()


@pytest.fixture
def backbone(backbone_folder):
    from sot_nlp.modeling.auto import AutoSoTForSequenceClassification

    return AutoSoTForSequenceClassification.from_pretrained(
        backbone_folder("bert"), num_labels=2, head="stock", separator_token_ids=[2, 3]
    ).eval()


def split_of(texts, tokenizer):
    encoded = [tokenizer(text)["input_ids"] for text in texts]
    lengths = np.array([len(ids) for ids in encoded])
    return TokenSplit(
        name="train",
        input_ids=np.concatenate(encoded).astype(np.int32),
        token_type_ids=None,
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        labels=np.arange(len(texts)) % 2,
        indices=np.arange(len(texts)),
    )


@pytest.mark.parametrize("num_layers", [1, 2])
def test_the_features_are_the_backbones_hidden_states(tmp_path, backbone, num_layers):
    tokenizer = tiny.tokenizer("bert")
    texts = tiny.sentences(70)
    features = load_features(
        backbone, split_of(texts, tokenizer), cache=tmp_path, pad_token_id=0, num_layers=num_layers
    )
    for i in (0, 11, 69):
        with torch.no_grad():
            expected = backbone.bert(**tokenizer(texts[i], return_tensors="pt"), output_hidden_states=True)
        states, kinds = features.batch(np.array([i]), num_layers)
        assert states.shape[2] == num_layers
        for kept, layer in zip(states[0].unbind(1), expected.hidden_states[-num_layers:], strict=True):
            torch.testing.assert_close(kept.float(), layer[0], atol=4e-3, rtol=2e-3)
        assert kinds[0].tolist() == [CLASS_TOKEN, *[WORD] * (len(kinds[0]) - 2), SEPARATOR]
        torch.testing.assert_close(features.class_token(np.array(i), stock=False), states[0, 0, -1])
        torch.testing.assert_close(
            features.class_token(np.array([i]), stock=True).float(),
            expected.pooler_output,
            atol=4e-3,
            rtol=2e-3,
        )
    assert features.subset(np.array([5, 3])).indices.tolist() == [5, 3]


def test_features_are_kept_by_content_and_made_again_where_damaged(tmp_path, backbone, monkeypatch):
    split = split_of(tiny.sentences(10), tiny.tokenizer("bert"))
    first = load_features(backbone, split, cache=tmp_path, pad_token_id=0)
    states = np.array(first.states)
    calls = []
    encode = type(backbone).encode
    monkeypatch.setattr(type(backbone), "encode", lambda *a, **k: calls.append(1) or encode(*a, **k))
    again = load_features(backbone, split, cache=tmp_path, pad_token_id=0)
    assert not calls
    assert (again.states == states).all()
    damaged = first.folder / "states.bin"
    damaged.write_bytes(b"\0" * damaged.stat().st_size)
    assert (load_features(backbone, split, cache=tmp_path, pad_token_id=0).states == states).all()
    assert calls
    calls.clear()
    load_features(
        backbone, dataclasses.replace(split, lengths=split.lengths - 1), cache=tmp_path, pad_token_id=0
    )
    assert calls
    calls.clear()
    with torch.no_grad():
        next(backbone.bert.parameters()).add_(1e-3)
    load_features(backbone, split, cache=tmp_path, pad_token_id=0)
    assert calls


@pytest.fixture
def files(tmp_path):
    """Texts whose label is whether `wug` stands before `dax`: words know it, a random class token hardly."""
    source = np.random.default_rng(0)
    for name, count in (("train", 160), ("dev", 60)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for text in tiny.sentences(count, seed=count, low=2, high=6):
                label = int(source.integers(2))
                writer.writerow([("zorp " * 2 if label else "") + text, ("no", "yes")[label]])
    return tmp_path


def command(files, backbone_folder, *words):
    return [
        *("--train_file", str(files / "train.csv"), "--validation_file", str(files / "dev.csv")),
        *("--model_name_or_path", str(backbone_folder("bert")), "--cache_dir", str(files / "cache")),
        *("--output_dir", str(files / "out"), "--disable_tqdm", "--cpu", *words),
    ]


def test_the_command(files, backbone_folder, capsys, monkeypatch):
    monkeypatch.setattr(probe, "SEEDS_PER_PASS", 4)
    words = ("--arms", "class_token", "mean", "vision", "--seeds", "6", "--num_train_epochs", "3")
    assert (
        probe_command.run(command(files, backbone_folder, *words, "--jobs", "1", "--save", "vision"), "p")
        == 0
    )
    results = json.loads((files / "out" / "results.json").read_text())
    cells = results["cells"]
    assert [(cell["arm"], cell["seed"]) for cell in cells] == [
        (arm, seed) for arm in ("class_token", "mean", "vision") for seed in range(42, 48)
    ]
    assert all(cell["curve"][-1] == [3.0, cell["score"]] for cell in cells)
    assert {cell["data_seed"] for cell in cells} == set(range(10_042, 10_048))
    assert str(files) not in (files / "out" / "results.json").read_text()
    printed = capsys.readouterr().out
    assert "3 arms x 6 seeds" in printed

    # The saved model is the first seed's: it scores what the probe says.
    from sot_nlp.modeling.auto import AutoSoTForSequenceClassification

    model = AutoSoTForSequenceClassification.from_pretrained(files / "out" / "model").eval()
    tokenizer = tiny.tokenizer("bert")
    rows = list(csv.DictReader((files / "dev.csv").open()))
    inputs = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        predicted = model(**inputs).logits.argmax(-1).tolist()
    right = np.mean(
        [model.config.id2label[p] == row["label"] for p, row in zip(predicted, rows, strict=True)]
    )
    first = next(cell for cell in cells if (cell["arm"], cell["seed"]) == ("vision", 42))
    assert first["metric"] == "accuracy"
    assert right == pytest.approx(first["score"], abs=0.017)  # one example at most, by half precision


def test_each_arm_has_its_own_kind_of_head(files, backbone_folder, monkeypatch):
    seen = []
    train = probe_passes.train_passes
    monkeypatch.setattr(
        probe_passes, "train_passes", lambda passes, **k: seen.extend(passes) or train(passes, **k)
    )
    words = ("--arms", *probe.ARMS, "--seeds", "1", "--num_train_epochs", "1", "--jobs", "1")
    probe_command.run(command(files, backbone_folder, *words), "p")
    configs = {one_pass.arm: one_pass.heads[0].config for one_pass in seen}
    kinds = {arm: (config.pooling, config.fusion) for arm, config in configs.items()}
    assert kinds == {
        "class_token": ("none", "class_token"),
        "mean": ("mean", "words"),
        "class_and_mean": ("mean", "sum"),
        "max": ("max", "words"),
        "vision_words": ("cross_covariance", "words"),
        "text_words": ("cross_covariance", "words"),
        "stock": ("none", "class_token"),
        "vision": ("cross_covariance", "sum"),
        "text": ("cross_covariance", "sum"),
        "sot": ("cross_covariance", "sum"),
        "sot_mean": ("mean", "sum"),
        "sot_mapped_mean": ("mapped_mean", "sum"),
        "sot_mapped_mean_wide": ("mapped_mean", "sum"),
        "sot_max": ("max", "sum"),
        "sot_attention": ("attention", "sum"),
        "sot_isqrt": ("covariance", "sum"),
        "moments": ("moments", "sum"),
    }
    channels = {arm: config.num_heads * config.width_x for arm, config in configs.items()}
    sot = configs["sot"]
    assert channels["sot_mapped_mean"] == sot.width_x + sot.width_y
    assert channels["sot_mapped_mean_wide"] > 7 * (sot.width_x + sot.width_y)
    layers = {arm: config.num_layers for arm, config in configs.items()}
    mixing = [arm for arm in layers if arm.startswith(("sot", "moments"))]
    assert {layers.pop(arm) for arm in mixing} == {2}  # as many as the backbone has
    assert set(layers.values()) == {1}


def test_a_process_of_its_own_changes_nothing(files, backbone_folder):
    words = ("--arms", "text", "--seeds", "2", "--num_train_epochs", "2")
    scores = []
    for jobs in ("1", "2"):
        probe_command.run(command(files, backbone_folder, *words, "--jobs", jobs), "p")
        cells = json.loads((files / "out" / "results.json").read_text())["cells"]
        scores.append([cell["curve"] for cell in cells])
    assert scores[0] == scores[1]


def test_rates_are_chosen_on_held_out_training_data(files, backbone_folder, capsys, monkeypatch):
    seen = []
    train = probe_passes.train_passes
    monkeypatch.setattr(
        probe_passes, "train_passes", lambda passes, **k: seen.append(passes) or train(passes, **k)
    )
    words = ("--arms", "class_token", "mean", "--seeds", "2", "--num_train_epochs", "4", "--jobs", "1")
    probe_command.run(command(files, backbone_folder, *words, "--learning_rates", "1e-7", "0.02"), "p")
    choosing, final = seen
    assert {one_pass.arguments.learning_rate for one_pass in choosing} == {1e-7, 0.02}
    for one_pass in choosing:
        held = set(one_pass.validation.indices.tolist())
        assert len(held) == 16
        assert held.isdisjoint(one_pass.train.indices.tolist())
    assert all(len(one_pass.train) == 160 and len(one_pass.validation) == 60 for one_pass in final)
    assert {(one_pass.arm, one_pass.arguments.learning_rate) for one_pass in final} >= {("mean", 0.02)}
    assert "chosen on held-out training data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "cola", "--arms", "clas_token"], "did you mean class_token"),
        (["--task", "cola", "--torch_compile"], "--torch_compile: does not apply to a probe"),
        (["--task", "cola", "--head", "text"], "--head: does not apply"),
        (["--task", "cola", "--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--task", "cola", "--seeds", "many"], "--seeds"),
        (["--task", "cola", "--num_train_epochs", "1.5"], "needs a whole number"),
        (["--task", "cola", "--learning_rates", "-1"], "--learning_rates"),
        (["--task", "cola", "--save", "max"], "not among --arms"),
        (["--seeds", "3"], "nothing to probe on"),
        (["--task", "cola", "--num_trai_epochs", "1"], "did you mean --num_train_epochs"),
    ],
)
def test_mistakes(words, message):
    with pytest.raises(UserError, match=message):
        probe_command.run(words, "sot-nlp probe")


def test_the_settings_that_ship_hold():
    config = Path(__file__).parents[3] / "studies" / "probe.yaml"
    arguments = probe_command._arguments(["--config", str(config), "--task", "cola"], "p", None)
    assert (arguments.learning_rate, arguments.num_train_epochs, arguments.seed) == (1e-3, 5, 0)


def test_help(capsys):
    assert probe_command.run(["--help"], "sot-nlp probe") == 0
    printed = capsys.readouterr().out
    assert "vision_words" in printed
    assert "--learning_rate" in printed
