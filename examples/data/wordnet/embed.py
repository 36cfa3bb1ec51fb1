"""Embeds the sample with sentence-transformers, for the example to compare its own embeddings with.

    python3 embed.py MODEL

MODEL is the folder of the model. Reads sample.txt and writes sample.safetensors beside this file.
"""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from safetensors.torch import save_file  # noqa: E402
from sentence_transformers import SentenceTransformer  # noqa: E402

HERE = Path(__file__).parent


def main():
    model = SentenceTransformer(sys.argv[1], device="cpu")
    texts = (HERE / "sample.txt").read_text().splitlines()
    embeddings = model.encode(texts, batch_size=16, convert_to_tensor=True)
    save_file({"embeddings": embeddings.float().contiguous()}, HERE / "sample.safetensors")
    print(f"{len(texts)} texts, embeddings {tuple(embeddings.shape)}")


if __name__ == "__main__":
    main()
