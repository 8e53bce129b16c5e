"""Draw what is tried, by hypothesis; no other part of the fuzzer needs it."""
