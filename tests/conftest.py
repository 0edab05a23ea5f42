"""Settings that all tests share."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from tests.support.outputs import checkpoint, folder, gguf_file

__all__ = ["checkpoint", "folder", "gguf_file"]  # fixtures

# The tests start hundreds of commands; where the environment forbids bytecode each one would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# The models are tiny and every core has a worker of its own: more threads only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadline: shared machines stall. With CI set the same examples are drawn in every run.
settings.register_profile(
    "ropepatch",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("ropepatch")
