"""Fine-tune a language model by TRL's SFTTrainer, as of 2026."""

from datasets import Dataset
from peft import LoraConfig
from tiny import TEXTS, llama, tokenizer
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

set_seed(0)
trainer = SFTTrainer(
    model=llama(),
    args=SFTConfig(
        output_dir="out",
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_steps=20,
        report_to="none",
        use_cpu=True,
    ),
    train_dataset=Dataset.from_dict({"text": TEXTS}),
    processing_class=tokenizer(),
    peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
)
trainer.train()
