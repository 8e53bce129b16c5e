"""Learn preferences by TRL's DPOTrainer with accumulated gradients, as of 2024."""

from datasets import Dataset
from peft import LoraConfig
from tiny import LORA, TEXTS, TRAINING, llama, tokenizer
from transformers import set_seed
from trl import DPOConfig, DPOTrainer

set_seed(0)
pairs = {"prompt": TEXTS, "chosen": TEXTS[1:] + TEXTS[:1], "rejected": TEXTS[2:] + TEXTS[:2]}
trainer = DPOTrainer(
    model=llama(),
    args=DPOConfig(per_device_train_batch_size=2, gradient_accumulation_steps=4, **TRAINING),
    train_dataset=Dataset.from_dict(pairs),
    processing_class=tokenizer(),
    peft_config=LoraConfig(**LORA),
)
trainer.train()
