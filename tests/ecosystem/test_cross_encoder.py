"""sentence-transformers' CrossEncoder on a SoT model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sot_nlp import AutoSoTForSequenceClassification, load_tokenizer
from tests.support import tiny

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
