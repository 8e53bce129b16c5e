"""Fine-tune a language model on conversations by TRL's SFTTrainer, as of 2025."""

from datasets import Dataset
from peft import LoraConfig
from tiny import LORA, TEXTS, TRAINING, llama, tokenizer
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

set_seed(0)
split = tokenizer()
split.chat_template = (
    "{% for message in messages %}{{ message['content'] + ' <eos> ' }}{% endfor %}"
)
asked = ({"role": "user", "content": text} for text in TEXTS)
answers = ({"role": "assistant", "content": text} for text in reversed(TEXTS))
trainer = SFTTrainer(
    model=llama(),
    args=SFTConfig(per_device_train_batch_size=4, gradient_accumulation_steps=2, **TRAINING),
    train_dataset=Dataset.from_dict({"messages": [list(pair) for pair in zip(asked, answers)]}),
    processing_class=split,
    peft_config=LoraConfig(**LORA),
)
trainer.train()
