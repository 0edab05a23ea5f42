"""``ropepatch diff``."""

from __future__ import annotations

import shlex

import click

from ropepatch.cli._options import examples, standard, tokens
from ropepatch.cli._output import Output

_EXAMPLES = examples(
    "diff model.gguf model-yarn-4x.gguf",
    "diff model/ model.gguf --length 32768",
    "diff model/ model.gguf --runtime-a transformers --runtime-b llama.cpp",
    "diff model/ --runtime-a vllm@0.29 --runtime-b vllm",
    "diff model/",
)


@click.command(epilog=_EXAMPLES)
@click.argument("a", metavar="A")
@click.argument("b", metavar="[B]", required=False)
@click.option("--length", type=tokens, help="Long context to compare at; default: the larger declared one.")
@click.option("--runtime-a", metavar="R", help="Who reads A (vllm, vllm@0.29); default: what its methods define.")
@click.option("--runtime-b", metavar="R", help="Who reads B; where B is not given, A.")
@standard
def command(
    out: Output, a: str, b: str | None, length: int | None, runtime_a: str | None, runtime_b: str | None
) -> int:
    """Compare the RoPE of two checkpoints of any format.

    Settings are compared one by one, and what they come to as frequencies, in a short and in a long context, for the
    runtimes named. A alone is compared across all runtimes that read its format.

    Exits with 1 when the frequencies or the contexts differ or a runtime refuses its side, with 0 when only the
    spelling differs.
    """
    import ropepatch

    if b is None and runtime_a is None and runtime_b is None:
        return _across(out, a, length)
    result = ropepatch.diff(a, b, length, runtime_a=runtime_a, runtime_b=runtime_b)
    if out.json:
        out.document(result.to_json())
    else:
        from ropepatch.report import diff_tables, diff_words

        out.show(*diff_tables.difference(result))
        for line in diff_words.told(result):
            out.sentence(line)
        for side in () if result.equivalent else result.sides:
            if side.spec is not None and not side.as_written and side.readable:
                ref = shlex.quote(side.profile.source.ref)
                out.hint(f"what would work: ropepatch doctor {ref} --for {side.spec}")
    return 0 if result.equivalent and result.same_contexts else 1


def _across(out: Output, ref: str, length: int | None) -> int:
    """One checkpoint under every runtime that reads its format."""
    from ropepatch.runtimes import readings

    found = readings.all_runtimes(ref, length)
    if out.json:
        out.document(found.to_json())
    else:
        from ropepatch.report import runtime_tables

        out.show(runtime_tables.readings_table(found), "")
        out.sentence(found.sentence())
    return 0 if found.same else 1
