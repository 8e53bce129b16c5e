"""A small language model and every adapter that peft has for it."""
