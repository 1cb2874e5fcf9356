"""Many heads trained at once on frozen features: each is updated as it would be alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sot_nlp.modeling.class_token import DenseTransform, TransformedTokenHead
from sot_nlp.modeling.head import SoTHead
from sot_nlp.modeling.head_config import resolve_head
from sot_nlp.settings.arguments import Arguments
from sot_nlp.studies.probe.parallel_heads import SeedBatch, seed_updates
from sot_nlp.training.batching import epoch_updates
from sot_nlp.training.speed.features import CLASS_TOKEN, SEPARATOR, WORD, Features

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
@pytest.mark.parametrize("fusion", ["sum", "late"])
def test_other_losses(tmp_path, kind, num_labels, fusion):
    source = np.random.default_rng(1)
    labels = source.normal(size=40) if kind == "regression" else source.integers(0, 2, (40, 3))
    features = made_up_features(tmp_path, labels=labels.astype(np.float32))
    config = resolve_head(HEADS["vision"], fusion=fusion)
    torch.manual_seed(0)
    head = SoTHead(config, hidden_size=C, num_labels=num_labels)
    examples = np.arange(8)[None]
    output = head(*padded(features, config, examples[0]))
    # A score is the sum of the branches: each learns half of it.
    factor = 2 if kind == "regression" else 1
    late = (factor * output.word_logits, factor * output.class_token_logits)
    targets = torch.from_numpy(features.labels[:8]).reshape(output.logits.shape)
    functional = nn.functional
    loss = functional.mse_loss if kind == "regression" else functional.binary_cross_entropy_with_logits
    scored = late if fusion == "late" else (output.logits,)
    expected = sum(loss(logits, targets).item() for logits in scored)
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
