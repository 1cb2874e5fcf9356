"""Predict a score: a column of numbers makes a regression.

python examples/regression.py [MODEL] [FOLDER]
"""

import sys
from pathlib import Path

import sot_nlp

MODEL = sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "runs/ratings"
DATA = Path(__file__).parent / "data"

run = sot_nlp.train(DATA / "ratings.csv", model_name_or_path=MODEL, output_dir=FOLDER, num_train_epochs=5)
print(run.scores)  # Pearson and Spearman correlation
print(run.classifier.predict(["The room was lovely; the price was poor."]).labels)
