"""Wrap a SoT classifier with PEFT by hand: adapters are trained and saved, the head with them.

python examples/with_peft.py [MODEL] [FOLDER]
"""

import sys

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model

import sot_nlp

MODEL = sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
FOLDER = sys.argv[2] if len(sys.argv) > 2 else "runs/peft"

tokenizer = sot_nlp.load_tokenizer(MODEL)
model = sot_nlp.AutoSoTForSequenceClassification.from_pretrained(MODEL, num_labels=2)
model.save_pretrained(f"{FOLDER}/base")  # the backbone with its new head, which the adapters belong to
config = LoraConfig(task_type=TaskType.SEQ_CLS, r=8, target_modules=sot_nlp.lora_target_modules(model))
model = get_peft_model(model, config)
model.print_trainable_parameters()

batch = tokenizer(["My lamp broke.", "My tent is fine."], padding=True, return_tensors="pt")
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for _ in range(5):
    loss = model(**batch, labels=torch.tensor([0, 1])).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
print(f"loss {loss.item():.3f}")

model.eval().save_pretrained(FOLDER)  # the adapters and the trained head
base = sot_nlp.AutoSoTForSequenceClassification.from_pretrained(f"{FOLDER}/base")
again = PeftModel.from_pretrained(base, FOLDER).eval()
with torch.no_grad():
    print(torch.allclose(again(**batch).logits, model(**batch).logits, atol=1e-5))
