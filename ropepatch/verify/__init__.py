"""Evidence that an output is what its patch says: structure, frequencies, forward pass."""

from ropepatch._callable import make_callable

make_callable(__name__, "ropepatch.verify.verification:verify")
