"""Fine-tune on your own CSV, predict, and see which words decided.

python examples/own_csv.py [MODEL] [FOLDER]
"""

import sys
from pathlib import Path

import sot_nlp

MODEL = sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "runs/reviews"
DATA = Path(__file__).parent / "data"

run = sot_nlp.train(DATA / "reviews.csv", model_name_or_path=MODEL, output_dir=FOLDER, num_train_epochs=5)
print(run.scores)

classifier = sot_nlp.load(FOLDER)
predictions = classifier.predict(["The lamp never worked at all.", "My tent feels solid and quiet."])
print(predictions.labels)
print(predictions[0].probabilities)

(explanation,) = classifier.explain(["The lamp never worked at all."])
scores = explanation.toward(explanation.word_scores, explanation.predicted)
for word, score in zip(explanation.words, scores, strict=True):
    print(f"{word.text:10s} {score:+.3f}")
