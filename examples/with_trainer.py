"""Train a SoT classifier by transformers' own Trainer.

python examples/with_trainer.py [MODEL] [FOLDER]
"""

import sys
from pathlib import Path

import datasets
import numpy as np
from sklearn.metrics import accuracy_score
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

import sot_nlp

MODEL = sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "runs/trainer"
DATA = Path(__file__).parent / "data"
LABELS = ["bad", "good"]

tokenizer = sot_nlp.load_tokenizer(MODEL)
data = datasets.Dataset.from_csv(str(DATA / "reviews.csv"), cache_dir=FOLDER)
data = data.map(
    lambda rows: (
        {**tokenizer(rows["text"], truncation=True, max_length=64)}
        | {"labels": [LABELS.index(label) for label in rows["label"]]}
    ),
    batched=True,
    remove_columns=["text", "label"],
).train_test_split(test_size=0.2, seed=0)

model = sot_nlp.AutoSoTForSequenceClassification.from_pretrained(
    MODEL, id2label=dict(enumerate(LABELS)), label2id={label: i for i, label in enumerate(LABELS)}
)
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir=FOLDER, num_train_epochs=2, learning_rate=1e-4, report_to="none", save_strategy="no"
    ),
    train_dataset=data["train"],
    eval_dataset=data["test"],
    data_collator=DataCollatorWithPadding(tokenizer),
    compute_metrics=lambda p: {"accuracy": accuracy_score(p.label_ids, np.argmax(p.predictions, -1))},
)
trainer.train()
print(trainer.evaluate()["eval_accuracy"])

trainer.save_model(FOLDER)
tokenizer.save_pretrained(FOLDER)
print(sot_nlp.load(FOLDER).predict(["The lamp never worked at all."]).labels)
