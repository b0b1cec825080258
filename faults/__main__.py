"""``python -m faults``. What a child spawns imports this file again, so it imports nothing."""

import sys

if __name__ == "__main__":
    from faults.command import main

    sys.exit(main())
