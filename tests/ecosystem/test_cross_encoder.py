"""sentence-transformers' CrossEncoder on a SoT model."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import sot_nlp
from sot_nlp import AutoSoTForSequenceClassification, load_tokenizer
from sot_nlp.inference.predict import predict_file
from tests.support import saved_runs, tiny

sentence_transformers = pytest.importorskip("sentence_transformers")


@pytest.mark.parametrize("num_labels", [1, 3])
def test_a_saved_model_loads_and_scores_pairs(backbone_folder, tmp_path, num_labels):
    torch.manual_seed(0)
    model = AutoSoTForSequenceClassification.from_pretrained(backbone_folder("bert"), num_labels=num_labels)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(backbone_folder("bert"))
    tokenizer.save_pretrained(tmp_path)
    encoder = sentence_transformers.CrossEncoder(str(tmp_path), device="cpu")
    texts = tiny.sentences(8, seed=4)
    pairs = list(zip(texts[:4], texts[4:], strict=True))
    scores = encoder.predict(pairs, batch_size=3, activation_fn=torch.nn.Identity())
    expected = torch.cat([model(**tokenizer(*pair, return_tensors="pt")).logits for pair in pairs])
    np.testing.assert_allclose(scores, expected.squeeze(-1).detach().numpy(), atol=1e-5)
    if num_labels == 1:
        ranked = encoder.rank(texts[0], texts[1:])
        assert len(ranked) == 7


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "head"),
    [
        ("regression", 1, "sot"),
        ("regression", 1, "stock"),
        ("multi_label_classification", 3, "sot"),
        ("multi_label_classification", 1, "sot"),
        ("single_label_classification", 3, "sot"),
    ],
)
def test_scores_are_those_of_predict(backbone_folder, tmp_path, problem_type, num_labels, head):
    """The saved config names the activation: no sigmoid over a regression, one over many labels."""
    names = tuple(f"n{i}" for i in range(num_labels)) if problem_type != "regression" else None
    folder = saved_runs.save_run(
        tmp_path / "run", labels=names, problem_type=problem_type, text_columns=("a", "b"), head=head
    )
    texts = tiny.sentences(8, seed=4)
    pairs = list(zip(texts[:4], texts[4:], strict=True))
    (tmp_path / "pairs.txt").write_text("\n".join("\t".join(pair) for pair in pairs) + "\n")
    output = tmp_path / "out.jsonl"
    predict_file(folder, file=tmp_path / "pairs.txt", output=output, mixed_precision="no", cpu=True)
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    expected = [[row["score"]] if names is None else list(row["probabilities"].values()) for row in rows]
    encoder = sentence_transformers.CrossEncoder(str(folder), device="cpu")
    softmax = problem_type == "single_label_classification"
    scores = np.asarray(encoder.predict(pairs, apply_softmax=softmax)).reshape(len(pairs), -1)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_pairs_longer_than_the_training_are_cut_as_predict_cuts_them(backbone_folder, tmp_path, family):
    texts = tiny.sentences(40, seed=4, low=1, high=12)
    pairs = list(zip(texts[:20], texts[20:], strict=True))
    run = sot_nlp.train(
        (pairs, [len(first) / 100 for first, _ in pairs]),
        model_name_or_path=str(backbone_folder(family)),
        output_dir=tmp_path / "run",
        cache_dir=tmp_path / "cache",
        problem_type="regression",
        max_length=16,
        max_train_steps=5,
        learning_rate=1e-2,
        mixed_precision="no",
        disable_tqdm=True,
    )
    predicted = run.classifier.predict(pairs)
    assert 2 < predicted.cut < 20
    encoder = sentence_transformers.CrossEncoder(str(run.folder), device="cpu")
    np.testing.assert_allclose(encoder.predict(pairs), predicted.labels, atol=1e-5)
    whole = sentence_transformers.CrossEncoder(str(run.folder), device="cpu", max_length=100)
    assert np.abs(whole.predict(pairs) - predicted.labels).max() > 1e-3


def test_a_stale_activation_of_the_base_is_left_behind(backbone_folder, tmp_path):
    base = shutil.copytree(backbone_folder("bert"), tmp_path / "base")
    config = json.loads((base / "config.json").read_text())
    config["sentence_transformers"] = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
    (base / "config.json").write_text(json.dumps(config))
    model = AutoSoTForSequenceClassification.from_pretrained(base, num_labels=1, problem_type="regression")
    model.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved["sentence_transformers"] == {"activation_fn": "torch.nn.modules.linear.Identity"}
    again = AutoSoTForSequenceClassification.from_pretrained(
        tmp_path / "saved", num_labels=3, problem_type="multi_label_classification"
    )
    again.save_pretrained(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "config.json").read_text())
    assert saved["sentence_transformers"] == {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
