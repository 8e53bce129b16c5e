"""One run on disk: schema, strict reading, atomic writing, shards, ledgers."""
