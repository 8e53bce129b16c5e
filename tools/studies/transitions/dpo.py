"""Learn preferences by TRL's DPOTrainer with accumulated gradients, as of 2024."""

from datasets import Dataset
from peft import LoraConfig
from tiny import TEXTS, llama, tokenizer
from transformers import set_seed
from trl import DPOConfig, DPOTrainer

set_seed(0)
pairs = {"prompt": TEXTS, "chosen": TEXTS[1:] + TEXTS[:1], "rejected": TEXTS[2:] + TEXTS[:2]}
trainer = DPOTrainer(
    model=llama(),
    args=DPOConfig(
        output_dir="out",
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        max_steps=20,
        report_to="none",
        use_cpu=True,
    ),
    train_dataset=Dataset.from_dict(pairs),
    processing_class=tokenizer(),
    peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
)
trainer.train()
