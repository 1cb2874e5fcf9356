"""transformers' text-classification pipeline and evaluate's evaluator on a SoT model."""

from __future__ import annotations

import pytest
import torch
from transformers import pipeline

from sot_nlp import AutoSoTForSequenceClassification, load_tokenizer
from tests.support import tiny

LABELS = {0: "bad", 1: "fair", 2: "good"}


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def folder(request, backbone_folder, tmp_path_factory):
    """A saved model and tokenizer; the head's weights are spread, so that the texts are told apart."""
    torch.manual_seed(0)
    model = AutoSoTForSequenceClassification.from_pretrained(backbone_folder(request.param), id2label=LABELS)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    load_tokenizer(backbone_folder(request.param)).save_pretrained(folder)
    return folder


def probabilities(folder, *texts) -> torch.Tensor:
    model = AutoSoTForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        return model(**load_tokenizer(folder)(*texts, return_tensors="pt")).logits.softmax(-1)[0]


def test_single_texts_batches_and_pairs(folder):
    classify = pipeline("text-classification", model=str(folder), device="cpu")
    texts = tiny.sentences(5, seed=2)
    expected = [probabilities(folder, text) for text in texts]
    one_by_one = [classify(text)[0] for text in texts]
    batched = classify(texts, batch_size=4)
    for single, together, probability in zip(one_by_one, batched, expected, strict=True):
        assert single["label"] == together["label"] == LABELS[int(probability.argmax())]
        assert single["score"] == pytest.approx(probability.max().item(), abs=1e-6)
        assert together["score"] == pytest.approx(probability.max().item(), abs=1e-5)
    assert len({result["score"] for result in batched}) == 5
    pair = classify({"text": texts[0], "text_pair": texts[1]}, top_k=None)
    wanted = probabilities(folder, texts[0], texts[1])
    found = {entry["label"]: entry["score"] for entry in pair}
    for index, label in LABELS.items():
        assert found[label] == pytest.approx(wanted[index].item(), abs=1e-6)


def test_the_evaluator_scores_a_pipeline(folder):
    evaluate = pytest.importorskip("evaluate")
    from datasets import Dataset

    class Accuracy(evaluate.Metric):
        def _info(self):
            import datasets

            return evaluate.MetricInfo(
                description="",
                citation="",
                features=datasets.Features(
                    {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
                ),
            )

        def _compute(self, predictions, references):
            right = sum(a == b for a, b in zip(predictions, references, strict=True))
            return {"accuracy": right / len(references)}

    texts = tiny.sentences(8, seed=3)
    predicted = [int(probabilities(folder, text).argmax()) for text in texts]
    labels = [*predicted[:6], (predicted[6] + 1) % 3, (predicted[7] + 1) % 3]
    scores = evaluate.evaluator("text-classification").compute(
        # Its test of a pipeline names a class that transformers 5 no longer has; a folder passes by it.
        model_or_pipeline=str(folder),
        data=Dataset.from_dict({"text": texts, "label": labels}),
        metric=Accuracy(),
        label_mapping={name: index for index, name in LABELS.items()},
    )
    assert scores["accuracy"] == 0.75
