"""One run on disk: its schema, strict reading, atomic writing, shards, the ledger."""
