"""What a model still finds, by length and depth."""

from ropepatch._callable import make_callable

make_callable(__name__, "ropepatch.audit.run:audit")
