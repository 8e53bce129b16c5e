"""Fine-tune a small GPT-2 with LoRA in a loop of accelerate: accumulation, clipping, a schedule."""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader, TensorDataset
from transformers import GPT2Config, GPT2LMHeadModel, get_linear_schedule_with_warmup

WORDS, LENGTH = 64, 24


def main():
    set_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)

    starts, strides = torch.randint(WORDS, (256, 1)), torch.randint(1, 6, (256, 1))
    data = TensorDataset((starts + strides * torch.arange(LENGTH)) % WORDS)
    loader = DataLoader(data, batch_size=8, shuffle=True)

    config = GPT2Config(
        vocab_size=WORDS,
        n_positions=LENGTH,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = get_peft_model(
        GPT2LMHeadModel(config),
        LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = get_linear_schedule_with_warmup(optimizer, 2, 16)
    model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)

    model.train()
    for at, (tokens,) in enumerate(loader):
        with accelerator.accumulate(model):
            loss = model(input_ids=tokens, labels=tokens).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if at % 10 == 0:
            accelerator.print(f"batch {at}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
