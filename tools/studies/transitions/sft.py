"""Fine-tune a language model by TRL's SFTTrainer, as of 2026."""

from datasets import Dataset
from peft import LoraConfig
from tiny import LORA, TEXTS, TRAINING, llama, tokenizer
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

set_seed(0)
trainer = SFTTrainer(
    model=llama(),
    args=SFTConfig(per_device_train_batch_size=4, gradient_accumulation_steps=2, **TRAINING),
    train_dataset=Dataset.from_dict({"text": TEXTS}),
    processing_class=tokenizer(),
    peft_config=LoraConfig(**LORA),
)
trainer.train()
