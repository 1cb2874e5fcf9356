"""Fine-tune a causal model by LoRA (needs the extra `lora`); the saved model has the adapters merged.

python examples/lora_causal.py [MODEL] [FOLDER]
"""

import sys
from pathlib import Path

import sot_nlp

MODEL = sys.argv[1] if len(sys.argv) > 1 else "HuggingFaceTB/SmolLM2-135M"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "runs/lora"
DATA = Path(__file__).parent / "data"

run = sot_nlp.train(
    DATA / "reviews.csv",
    model_name_or_path=MODEL,
    output_dir=FOLDER,
    lora_r=8,
    learning_rate=2e-4,
    num_train_epochs=3,
)
print(run.scores)
print(
    f"{run.record['num_trainable_parameters']:,} of {run.record['num_parameters']:,} parameters were trained"
)
print(run.classifier.predict(["The lamp never worked at all."]).labels)
