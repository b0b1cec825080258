"""Write the lexicon of the scorers, ``src/vlmscope/score/language/words.txt.gz``.

The source is WordNet 3.0 (Princeton University), for example the folder ``usr/share/wordnet`` of
Debian's package ``wordnet-base``::

    python scripts/wordnet_table.py usr/share/wordnet src/vlmscope/score/language/words.txt.gz

Kept are nouns, adjectives and verbs of one to three lower-case words, their first senses, the
hypernyms of these, antonyms, and the adjectives derived from nouns. Names and words that stand only
in senses nobody photographs (Latin names, for the most part) are left out.
"""

from __future__ import annotations

import gzip
import re
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

LICENCE = """\
WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.
THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR
WARRANTIES, EXPRESS OR IMPLIED. BY WAY OF EXAMPLE, BUT NOT LIMITATION, PRINCETON UNIVERSITY MAKES NO
REPRESENTATIONS OR WARRANTIES OF MERCHANTABILITY OR FITNESS FOR ANY PARTICULAR PURPOSE OR THAT THE
USE OF THE LICENSED SOFTWARE, DATABASE OR DOCUMENTATION WILL NOT INFRINGE ANY THIRD PARTY PATENTS,
COPYRIGHTS, TRADEMARKS OR OTHER RIGHTS. Permission to use, copy, modify and distribute this software
and database and its documentation for any purpose and without fee or royalty is hereby granted,
provided that you agree to comply with this copyright notice and statements, including the
disclaimer, and that the same appear on ALL copies of the software, database and documentation,
including modifications that you make for internal use or for distribution. The name of Princeton
University or Princeton may not be used in advertising or publicity pertaining to distribution of
the software and/or database. Title to copyright in this software, database and any associated
documentation shall at all times remain with Princeton University and LICENSEE agrees to preserve
same."""

MOST_SENSES = 4
"""Senses of a word that are kept, the most frequent first."""

SEEN = frozenset(["05", "06", "08", "10", "13", "14", "15", "17", "18", "19", "25", "27", "28"])
"""WordNet's files of nouns for what images show; of the others, only words of tagged texts."""

_WORD = re.compile(r"[a-z]+(?:[-_'][a-z]+){0,2}|[A-Z]{2,3}")
_LATIN = re.compile(r"genus|family|order|class|phylum|subfamily")


@dataclass
class Synset:
    """A sense with the words that have it."""

    key: str
    file: str
    words: list[str]
    hypernyms: list[str] = field(default_factory=list)
    antonyms: list[tuple[str, str, int]] = field(default_factory=list)
    related: list[tuple[str, str, int]] = field(default_factory=list)


def read_synsets(folder: Path, part: str) -> dict[str, Synset]:
    """Read the senses of one part of speech by their key."""
    found = {}
    for line in (folder / f"data.{part}").read_text("utf-8").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split(" | ")[0].split()
        number = int(fields[3], 16)
        names = [re.sub(r"\(\w+\)$", "", fields[4 + 2 * i]) for i in range(number)]
        synset = Synset(part[0] + fields[0], fields[1], names)
        at = 4 + 2 * number
        for i in range(int(fields[at])):
            symbol, offset, pos, ends = fields[at + 1 + 4 * i : at + 5 + 4 * i]
            pos = "a" if pos == "s" else pos
            source, target = int(ends[:2], 16), int(ends[2:], 16)
            own = names[source - 1] if source else ""
            if symbol in ("@", "@i"):
                synset.hypernyms.append(pos + offset)
            elif symbol == "!":
                synset.antonyms.append((own, pos + offset, target))
            elif symbol == "&":
                synset.hypernyms.append(pos + offset)
            elif symbol in ("+", "\\") and {part[0], pos} == {"n", "a"}:
                synset.related.append((own, pos + offset, target))
        found[synset.key] = synset
    return found


class Senses(NamedTuple):
    """A word's senses, the most frequent first."""

    keys: list[str]
    tagged: bool
    """Whether it stands in the texts that WordNet's authors counted."""


def read_senses(folder: Path, part: str) -> dict[str, Senses]:
    """Read every word's senses."""
    found = {}
    for line in (folder / f"index.{part}").read_text("utf-8").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split()
        number, tagged = int(fields[2]), int(fields[-int(fields[2]) - 1])
        keys = [part[0] + offset for offset in fields[-number:]]
        found[fields[0]] = Senses(keys, tagged > 0)
    return found


def main(folder: Path, out: Path) -> None:
    """Write the table."""
    synsets: dict[str, Synset] = {}
    senses: dict[str, list[list[str]]] = defaultdict(list)
    for part in ("noun", "adj", "verb"):
        synsets |= read_synsets(folder, part)
        for word, (keys, tagged) in read_senses(folder, part).items():
            kept = [key for key in keys[:MOST_SENSES] if is_kept(word, synsets[key], tagged)]
            if kept:
                senses[word].append(kept)
    numbers: dict[str, int] = {}
    for lists in senses.values():
        for key in (key for keys in lists for key in keys):
            add(key, synsets, numbers)
    lines = [f"# {line}" for line in LICENCE.splitlines()]
    lines += ["", *word_lines(senses, numbers), "", *synset_lines(synsets, numbers)]
    lines += ["", *pair_lines(synsets, senses, "antonyms"), ""]
    lines += [*pair_lines(synsets, senses, "related"), "", *exception_lines(folder, senses)]
    data = "\n".join(lines).encode()
    out.write_bytes(gzip.compress(data, mtime=0))
    print(f"{len(senses):,} words, {len(numbers):,} senses, {len(data):,} bytes")


def is_kept(word: str, synset: Synset, tagged: bool) -> bool:
    """Return whether a word in a sense is one that questions about images may use."""
    if not tagged and (word.count("_") > 1 or synset.key[0] == "v"):
        return False
    if not tagged and synset.key[0] == "n" and synset.file not in SEEN:
        return False
    own = [name for name in synset.words if name.lower() == word]
    latin = synset.key[0] == "n" and any(_LATIN.match(name) for name in synset.words)
    return not latin and any(_WORD.fullmatch(name) for name in own)


def add(key: str, synsets: dict[str, Synset], numbers: dict[str, int]) -> None:
    """Number a sense and those above it."""
    todo = [key]
    while todo:
        key = todo.pop()
        if key not in numbers:
            numbers[key] = len(numbers)
            todo += synsets[key].hypernyms


def shown(word: str) -> str:
    """Return a word as the table writes it."""
    return word.lower().replace("_", " ").replace("-", " ")


def word_lines(senses: dict[str, list[list[str]]], numbers: dict[str, int]) -> list[str]:
    """Return lines as ``cup:n17,30;v8``: the numbers of a word's senses by part of speech."""
    merged: dict[str, list[str]] = {}
    for word, lists in sorted(senses.items()):
        merged.setdefault(
            shown(word), [k[0][0] + ",".join(str(numbers[key]) for key in k) for k in lists]
        )
    return [f"{word}:{';'.join(lists)}" for word, lists in sorted(merged.items())]


def synset_lines(synsets: dict[str, Synset], numbers: dict[str, int]) -> list[str]:
    """Return the numbers of each sense's hypernyms, in the order of the senses."""
    above = ([str(numbers[above]) for above in synsets[key].hypernyms] for key in numbers)
    return [",".join(found) or "-" for found in above]


def pair_lines(
    synsets: dict[str, Synset], senses: dict[str, list[list[str]]], name: str
) -> list[str]:
    """Return pairs of words, each once."""
    pairs = set()
    for synset in synsets.values():
        for own, key, target in getattr(synset, name):
            if key in synsets and own and target:
                other = synsets[key].words[target - 1]
                if own.lower() in senses and other.lower() in senses:
                    one, two = sorted((shown(own), shown(other)))
                    if one != two:
                        pairs.add(f"{one}:{two}")
    return sorted(pairs)


def exception_lines(folder: Path, senses: dict[str, list[list[str]]]) -> list[str]:
    """Return irregular forms with what they are forms of."""
    forms = {"people": "person"}
    for part in ("noun", "verb"):
        for line in (folder / f"{part}.exc").read_text("utf-8").splitlines():
            form, base, *_ = line.split()
            if base in senses and "_" not in form and (part == "noun" or form not in senses):
                forms.setdefault(form, base)
    return [f"{form}:{base}" for form, base in sorted(forms.items())]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
