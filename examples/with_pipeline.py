"""Use a trained run in transformers' pipeline.

python examples/with_pipeline.py FOLDER
"""

import sys

from transformers import pipeline

import sot_nlp

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "runs/reviews"  # of examples/own_csv.py

texts = ["The lamp never worked at all.", "My tent feels solid and quiet."]
classify = pipeline("text-classification", model=FOLDER, device="cpu")
for answer in classify(texts, truncation=True):  # cut at the length of the training
    print(answer["label"], round(answer["score"], 4))

# The same labels by sot-nlp, which groups texts by length.
print(sot_nlp.load(FOLDER).predict(texts).labels)
