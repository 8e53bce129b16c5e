"""Fine-tune a pretrained BERT by Lightning, as its guides did before 2024."""

import tempfile

import torch
from lightning import LightningModule, Trainer, seed_everything
from peft import LoraConfig, get_peft_model
from tiny import SIZES
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification

seed_everything(0)
with tempfile.TemporaryDirectory() as folder:
    config = BertConfig(vocab_size=512, num_attention_heads=4, **SIZES)
    BertForSequenceClassification(config).save_pretrained(folder)
    bert = BertForSequenceClassification.from_pretrained(folder)


class FineTuned(LightningModule):
    """BERT with LoRA."""

    def __init__(self):
        super().__init__()
        self.bert = get_peft_model(bert, LoraConfig(r=4, target_modules=["query", "value"]))

    def training_step(self, batch, _):
        """Return the loss."""
        return self.bert(**batch).loss

    def configure_optimizers(self):
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3, foreach=False)


data = [
    {"input_ids": torch.randint(3, 512, (16,)), "labels": torch.randint(2, ())} for _ in range(64)
]
trainer = Trainer(max_steps=20, accelerator="cpu", devices=1, logger=False)
trainer.fit(FineTuned(), DataLoader(data, batch_size=8))
