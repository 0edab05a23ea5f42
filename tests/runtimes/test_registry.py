"""Names and releases of runtimes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ropepatch import runtimes
from ropepatch.errors import UsageError


@pytest.mark.parametrize("name", runtimes.names())
def test_every_runtime_has_behaviours_and_formats(name: str) -> None:
    """Each runtime can be had by name and by each of the releases it lists, oldest first."""
    spans = runtimes.behaviours(name)
    assert [span.since for span in spans] == sorted(span.since for span in spans)
    assert runtimes.get(name).version == spans[-1].newest
    assert set(runtimes.get(name).reads_formats) <= {"hf", "gguf"}
    for span in spans:
        spec = f"{name}@{'.'.join(map(str, span.newest))}"
        assert runtimes.get(spec).version == span.newest


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("vllmm", "vllm"),
        ("", "transformers"),
        ("transformers@3.5", "4.43-4.49"),
        ("vllm@newest", "vllm@0.33"),
        ("sglang@0.4.9", "0.5"),
    ],
)
def test_what_is_unknown_is_answered_with_what_is_known(spec: str, says: str) -> None:
    """An unknown name or release is a usage error that lists the known ones."""
    with pytest.raises(UsageError, match=says):
        runtimes.get(spec)


def test_runtimes_are_imported_when_asked_for() -> None:
    """Importing the registry imports no runtime, and predicting imports no torch."""
    code = (
        "import sys, ropepatch.runtimes as r\n"
        "assert not any(m.startswith('ropepatch.runtimes.') for m in sys.modules)\n"
        "r.predict('transformers', None, {'model_type': 'llama', 'hidden_size': 512, 'num_attention_heads': 4})\n"
        "assert 'ropepatch.runtimes.engines.vllm' not in sys.modules\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
