"""Export a trained run to ONNX (needs the extra `onnx`) and run it without torch.

python examples/with_onnx.py FOLDER
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from transformers import AutoTokenizer

import sot_nlp
from sot_nlp.cli import main

FOLDER = sys.argv[1] if len(sys.argv) > 1 else "runs/reviews"  # of examples/own_csv.py

main(["export", FOLDER])  # the same as `sot-nlp export FOLDER`
session = onnxruntime.InferenceSession(str(Path(FOLDER) / "onnx" / "model.onnx"))
tokenizer = AutoTokenizer.from_pretrained(FOLDER)
texts = ["The lamp never worked at all.", "My tent feels solid and quiet."]
batch = tokenizer(texts, padding=True, return_tensors="np")
wanted = {node.name for node in session.get_inputs()}
(logits,) = session.run(
    ["logits"], {name: values.astype(np.int64) for name, values in batch.items() if name in wanted}
)

labels = sot_nlp.load(FOLDER).labels
print([labels[i] for i in logits.argmax(-1)])
