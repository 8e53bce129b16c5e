"""Fine-tunings of several kinds, each gated in at most 20 lines."""
