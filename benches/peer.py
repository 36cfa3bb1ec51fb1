"""The Python package torchcache on the three workloads, for the Rust benchmark beside it.

Reads a question a line and answers each with a line of JSON, so that whoever asks decides whose
turn it is:

    versions            of everything that matters
    load NAME BATCHES   make the data of a workload; the other questions are about it
    load images BATCHES ROWS SIDE COLUMNS   the same for images of any size
    limit               read one input and write one output, the same ones again and again
    memory PASSES       a first pass into a new cache, then passes in which every row is a hit
    disk raw|zstd       the same with files; a fresh cache on them; one with no room in memory

Times are milliseconds a call, averaged over a pass. Workloads and limit are those of
`src/workload.rs`, and of the script that the bars were set with. The arguments are the number of
threads and the device of the tensors.
"""

import gc
import importlib.metadata
import json
import logging
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TORCHCACHE_LOG_LEVEL", "ERROR")

import numpy
import torch
from torchcache import torchcache

# Only answers go to the standard output; what a library prints joins the messages.
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
logging.disable(logging.CRITICAL)

ROOM = 8_000_000_000

DEVICE = torch.device(sys.argv[2])


class Vision(torch.nn.Module):
    dtype = torch.float32
    rows, shape = 64, (3, 224, 224)

    def forward(self, x):
        return x.flatten(1)[:, :512] * 2


class Embed(torch.nn.Module):
    dtype = torch.float32
    rows, shape = 256, (768,)

    def forward(self, x):
        return x * 2


class Tokens(torch.nn.Module):
    rows, shape = 32, (128,)

    def forward(self, x):
        return x.unsqueeze(-1).to(torch.float32) * torch.ones(384, device=x.device)


class Images(torch.nn.Module):
    """Gives as many numbers as a model: a hit runs none."""

    dtype = torch.bfloat16

    def forward(self, x):
        return x.flatten(1)[:, : self.columns] * 2


def images(rows, side, columns):
    return type("Sized", (Images,), {"rows": rows, "shape": (3, side, side), "columns": columns})


WORKLOADS = {"vision": Vision, "embed": Embed, "tokens": Tokens}


def synchronize():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)


def milliseconds(run):
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return (time.perf_counter() - start) * 1e3


class Workload:
    """A module and its batches."""

    def __init__(self, name, batches, *sizes):
        self.kind = images(*sizes) if name == "images" else WORKLOADS[name]
        shape = (self.kind.rows, *self.kind.shape)
        torch.manual_seed(0)
        if name == "tokens":
            batches = [torch.randint(0, 30_000, shape) for _ in range(batches)]
        else:
            batches = [torch.randn(shape).to(self.kind.dtype) for _ in range(batches)]
        self.batches = [batch.to(DEVICE) for batch in batches]

    def one_pass(self, module):
        def run():
            for batch in self.batches:
                module(batch)

        return milliseconds(run) / len(self.batches)

    def cached(self, room=ROOM, **options):
        kind = type("Cached", (self.kind,), {})
        decorate = torchcache(
            max_memory_cache_size=room,
            # Rows stay on their device.
            memory_cache_device=None,
            persistent_module_hash="bench",
            **options,
        )
        return decorate(kind)()

    def limit(self):
        source = self.batches[0]
        output = self.kind()(source).contiguous()
        spare = torch.empty_like(output)

        def best(run):
            return min(milliseconds(run) for _ in range(30))

        if DEVICE.type == "cpu":
            words = source.numpy().reshape(-1).view(numpy.int64)
            read = best(lambda: numpy.bitwise_xor.reduce(words))
        else:
            words = source.reshape(-1).view(torch.int64)
            read = best(words.max)
        return {"limit": read + best(lambda: spare.copy_(output))}

    def wrong(self, module):
        """Rows of another kind or with other values than the plain forward gives."""
        plain, wrong = self.kind(), 0
        for batch in self.batches:
            got, expected = module(batch), plain(batch)
            if got.dtype != expected.dtype:
                wrong += len(batch)
            else:
                wrong += int((got != expected).flatten(1).any(1).sum())
        return wrong

    def memory(self, passes):
        plain, module = self.kind(), self.cached()
        return {
            "forward": min(self.one_pass(plain) for _ in range(passes)),
            "miss_memory": self.one_pass(module),
            "memory_hit": min(self.one_pass(module) for _ in range(passes)),
            "wrong": self.wrong(module),
            "rows": sum(map(len, self.batches)),
        }

    def disk(self, zstd):
        suffix = "_zstd" if zstd else ""
        with tempfile.TemporaryDirectory() as folder:
            options = dict(
                persistent=True, persistent_cache_dir=folder, zstd_compression=zstd
            )
            answer = {
                "miss_disk" + suffix: self.one_pass(self.cached(**options)),
                "disk_hit" + suffix: self.one_pass(self.cached(**options)),
            }
            if not zstd:
                # A call returns when its files are written.
                answer["miss_written"] = answer["miss_disk"]
                module = self.cached(room=0, **options)
                answer["disk_only"] = min(self.one_pass(module) for _ in range(2))
            sizes = [f.stat().st_size for f in Path(folder).rglob("*") if f.is_file()]
            # Rows that share a key share a file, so files are what was kept.
            answer["row_bytes" + suffix] = sum(sizes) / len(sizes)
        return answer


def versions():
    found = {
        name: importlib.metadata.version(name)
        for name in ("torchcache", "torch", "numpy")
    }
    return {"python": platform.python_version(), **found}


def main():
    torch.set_num_threads(int(sys.argv[1]))
    loaded = None
    for line in sys.stdin:
        question, *rest = line.split()
        try:
            if question == "versions":
                answer = versions()
            elif question == "load":
                loaded = None
                loaded, answer = Workload(rest[0], *map(int, rest[1:])), {}
            elif question == "limit":
                answer = loaded.limit()
            elif question == "memory":
                answer = loaded.memory(int(rest[0]))
            elif question == "disk":
                answer = loaded.disk(rest[0] == "zstd")
            else:
                answer = {"error": f"there is no question {question}"}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        gc.collect()
        print(json.dumps(answer), file=ANSWERS, flush=True)


main()
