"""``python -m vlmscope``."""

from vlmscope.cli import main

main()
