"""Fuzz one reader with atheris for a while: ``python fuzz/run.py csv -max_total_time=30``.

Options after the name are libFuzzer's. It starts from the corpus, and adds to a folder of its own;
what it finds is a file ``crash-…`` in the current directory, to be kept in the corpus once mended.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["vlmscope"]):
    import readers
    from vlmscope.store.format import hdf5_screening

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    """Run libFuzzer on the target that the first argument names."""
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in readers.READERS:
        sys.exit(f"fuzz/run.py: name one of {', '.join(readers.READERS)}")
    hdf5_screening.SECONDS = 0.5  # of a file of some kilobytes
    with tempfile.TemporaryDirectory(prefix=f"vlmscope-corpus-{name}-") as found:
        arguments = [sys.argv[0], found, str(CORPUS / name), *sys.argv[1:]]
        atheris.Setup(arguments, lambda data: readers.feed(name, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
