"""Give SFTTrainer an adapter on a model of 8 bits, as of 2025."""

import tempfile

from datasets import Dataset
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from tiny import LORA, TEXTS, TRAINING, llama, tokenizer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, set_seed
from trl import SFTConfig, SFTTrainer

set_seed(0)
with tempfile.TemporaryDirectory() as folder:
    llama().save_pretrained(folder)
    eight_bits = BitsAndBytesConfig(load_in_8bit=True)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=eight_bits)
model = prepare_model_for_kbit_training(model)
trainer = SFTTrainer(
    model=get_peft_model(model, LoraConfig(**LORA)),
    args=SFTConfig(per_device_train_batch_size=4, **TRAINING),
    train_dataset=Dataset.from_dict({"text": TEXTS}),
    processing_class=tokenizer(),
)
trainer.train()
