"""``python -m ropepatch``: the same program as ``ropepatch``."""

from ropepatch.cli import main

if __name__ == "__main__":
    main()
