"""Fine-tune a small BERT with LoRA by transformers' Trainer, two micro-batches a step."""

import random

from peft import LoraConfig, TaskType, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

GOOD, BAD = ["fine", "lovely", "clever"], ["dull", "loud", "tired"]
WORDS = ["[PAD]", "[UNK]", "the", "film", "was", "and", *GOOD, *BAD]


def review(label):
    words = random.choices(GOOD if label else BAD, k=random.randint(1, 6))
    return "the film was " + " and ".join(words)


def main():
    set_seed(0)
    words = models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), pad_token="[PAD]", unk_token="[UNK]"
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()

    labels = [at % 2 for at in range(256)]
    data = [{**tokenizer(review(label)), "labels": label} for label in labels]

    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
    )
    model = get_peft_model(
        BertForSequenceClassification(config),
        LoraConfig(task_type=TaskType.SEQ_CLS, r=4, target_modules=["query", "value"]),
    )
    Trainer(
        model=model,
        args=TrainingArguments(
            output_dir="runs/trainer",
            per_device_train_batch_size=8,
            gradient_accumulation_steps=2,
            learning_rate=1e-3,
            max_steps=10,
            logging_steps=5,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
        ),
        train_dataset=data,
        data_collator=DataCollatorWithPadding(tokenizer),
    ).train()


if __name__ == "__main__":
    main()
