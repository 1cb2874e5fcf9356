"""Give each text any number of labels: the label column holds lists.

python examples/multi_label.py [MODEL] [FOLDER]
"""

import sys
from pathlib import Path

import sot_nlp

MODEL = sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "runs/tickets"
DATA = Path(__file__).parent / "data"

run = sot_nlp.train(DATA / "tickets.jsonl", model_name_or_path=MODEL, output_dir=FOLDER, num_train_epochs=5)
print(run.scores)

predictions = run.classifier.predict(["I was charged twice and the parcel never came."])
print(predictions.labels)  # a list of labels per text
print(predictions[0].probabilities)
