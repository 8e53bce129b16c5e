"""A text encoder of transformers with LoRA on attention: integer inputs, dicts as batches."""

from peft import LoraConfig
from torch.optim import AdamW
from transformers import DistilBertConfig, DistilBertForSequenceClassification

from fine_tunings.made_up import WORDS, sentences
from peft_regress import Bound, FineTune


def accuracy(model, batches):
    right = [(model(**batch).logits.argmax(1) == batch["labels"]).float() for batch in batches]
    return sum(part.sum().item() for part in right) / sum(map(len, right))


SIZES = {"vocab_size": WORDS, "dim": 64, "hidden_dim": 128, "n_layers": 2, "n_heads": 4}

CASE = FineTune(
    "sentiment/lora-r4/distilbert",
    model=lambda: DistilBertForSequenceClassification(DistilBertConfig(**SIZES)),
    data=sentences,
    adapter=LoraConfig(r=4, target_modules=["q_lin", "v_lin"], lora_dropout=0.1),
    also_train=["pre_classifier", "classifier"],
    optimizer=lambda model: AdamW(model.parameters(), lr=0.01, foreach=False),
    score=accuracy,
    seeds=2,
    bounds={"score": Bound(0.05, "the bound of accuracy, which this is")},
)
