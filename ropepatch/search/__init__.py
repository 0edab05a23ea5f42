"""Per-pair factors by evolutionary search."""

from ropepatch._callable import make_callable

make_callable(__name__, "ropepatch.search.run:search")
