"""transformers' Trainer on a SoT model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from sot_nlp import AutoSoTForSequenceClassification, load_tokenizer
from sot_nlp.modeling.head_config import PRESETS
from tests.support import tiny

# BatchNorm's statistics are a batch's own, so only heads without it see the same features either way.
HEAD = PRESETS["vision"].replace(dropout=0.0)


@pytest.fixture
def examples(backbone_folder) -> list[dict]:
    tokenizer = load_tokenizer(backbone_folder("bert"))
    return [{**tokenizer(text), "labels": index % 3} for index, text in enumerate(tiny.sentences(16, seed=1))]


def trainer(folder, tmp_path, examples, **settings) -> Trainer:
    torch.manual_seed(0)
    model = AutoSoTForSequenceClassification.from_pretrained(
        folder,
        head=HEAD,
        num_labels=3,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        seed=3,
        **settings,
    )
    tokenizer = load_tokenizer(folder)
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        eval_dataset=examples,
        data_collator=DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
        compute_metrics=lambda p: {
            "accuracy": float(np.mean(p.predictions.argmax(-1) == p.label_ids)),
            "width": p.predictions.shape[1],
        },
    )


def test_accumulated_steps_give_the_gradient_of_one_big_batch(backbone_folder, tmp_path, examples):
    """At plain gradient descent the weights after one update show the gradient."""
    weights = []
    for batch_size, steps in ((16, 1), (4, 4)):
        run = trainer(
            backbone_folder("bert"),
            tmp_path,
            examples,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=steps,
            max_steps=1,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
        )
        before = {name: value.clone() for name, value in run.model.named_parameters()}
        run.train()
        weights.append({name: value.detach() for name, value in run.model.named_parameters()})
    steps = [(weights[0][name] - before[name]).abs().max() for name in before]
    assert max(steps) > 1e-3
    for name in before:
        torch.testing.assert_close(weights[1][name], weights[0][name], atol=1e-6, rtol=1e-4, msg=name)


def test_training_evaluation_and_saving(backbone_folder, tmp_path, examples):
    run = trainer(
        backbone_folder("bert"),
        tmp_path,
        examples,
        per_device_train_batch_size=4,
        num_train_epochs=8,
        learning_rate=3e-3,
    )
    before = run.evaluate()
    run.train()
    after = run.evaluate()
    assert after["eval_loss"] < before["eval_loss"] - 0.1
    assert after["eval_width"] == 3, "the metrics get the logits alone, not the branches'"
    run.save_model(str(tmp_path / "saved"))
    loaded = AutoSoTForSequenceClassification.from_pretrained(tmp_path / "saved")
    tokenizer = load_tokenizer(tmp_path / "saved")
    inputs = tokenizer(tiny.sentences(4), padding=True, return_tensors="pt")
    torch.testing.assert_close(loaded(**inputs).logits, run.model.eval()(**inputs).logits)
