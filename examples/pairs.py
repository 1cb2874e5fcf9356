"""Classify pairs of texts: two columns hold the texts, one the label.

python examples/pairs.py [MODEL] [FOLDER]
"""

import sys
from pathlib import Path

import sot_nlp

MODEL = sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "runs/questions"
DATA = Path(__file__).parent / "data"

run = sot_nlp.train(DATA / "questions.csv", model_name_or_path=MODEL, output_dir=FOLDER)
print(run.scores)

pairs = [("Where is my bill?", "I need a receipt."), ("Where is my bill?", "I have moved.")]
print(run.classifier.predict(pairs).labels)
