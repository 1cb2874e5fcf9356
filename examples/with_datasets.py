"""Train on a datasets.Dataset or a DataFrame, and label a whole Dataset by `map`.

python examples/with_datasets.py [MODEL] [FOLDER]
"""

import sys
from pathlib import Path

import datasets

import sot_nlp

MODEL = sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "runs/datasets"
DATA = Path(__file__).parent / "data"

data = datasets.Dataset.from_csv(str(DATA / "reviews.csv"), cache_dir=FOLDER + "-cache")
parts = data.train_test_split(test_size=0.25, seed=0)
run = sot_nlp.train(
    parts["train"], parts["test"], model_name_or_path=MODEL, output_dir=FOLDER, num_train_epochs=5
)
print(run.scores)

classifier = run.classifier
labelled = parts["test"].map(
    lambda rows: {"predicted": classifier.predict(rows["text"]).labels},
    batched=True,
    load_from_cache_file=False,
)
print(sum(row["predicted"] == row["label"] for row in labelled), "of", len(labelled), "are right")
