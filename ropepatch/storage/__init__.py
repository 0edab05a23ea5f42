"""Files: copying by the kernel, splices, atomic replacement, digests. Nothing in here knows formats."""
