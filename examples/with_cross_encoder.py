"""Score pairs with a trained run in sentence-transformers' CrossEncoder.

python examples/with_cross_encoder.py FOLDER
"""

import sys

from sentence_transformers import CrossEncoder

import sot_nlp

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "runs/questions"  # of examples/pairs.py

pairs = [("Where is my bill?", "I need a receipt."), ("Where is my bill?", "I have moved.")]
encoder = CrossEncoder(FOLDER, device="cpu")
print(encoder.predict(pairs, apply_softmax=True))
print(sot_nlp.load(FOLDER).predict(pairs).probabilities)
