"""Methods that change attention itself: what no file holds, or only some engines read, and where they still run."""

from __future__ import annotations

from ropepatch.errors import MethodUnsupported

SELF_EXTEND = "self-extend"
DUAL_CHUNK = "dca"
NAMES = (SELF_EXTEND, DUAL_CHUNK)
#: what each engine has of Self-Extend: engine, how, since or until when
SELF_EXTEND_ENGINES = (
    ("transformers", "ropepatch.runtime_methods.self_extend(model, group=G, window=W)", "transformers 5"),
    ("llama.cpp", "llama-completion -m MODEL -c N -gan G -gaw W, W a multiple of G",
     "llama-server lost it with b3911 (October 2024); GGUFs whose magnitude is not 1 must not use it"),
    ("ropepatch", "audit REF --variant self-extend:group=G,window=W", "measures it beside the methods of files"),
)  # fmt: skip


def refuse_self_extend(ref: str, trained: int | None, factor: float | None, length: int | None) -> MethodUnsupported:
    """Why there is nothing to write, and the lines that still run it, with numbers where they follow."""
    from ropepatch.runtime_methods import advised

    group, window, tokens = "G", "W", "N"
    wanted = length or (round(factor * trained) if factor and trained else None)
    if trained and wanted and wanted > trained:
        how = advised(trained, wanted)
        group, window, tokens = str(how.group), str(-(-how.window // how.group) * how.group), str(wanted)
    name = ref.rstrip("/")
    gguf = name if name.endswith(".gguf") else "MODEL.gguf"
    lines = (
        f"in transformers ropepatch.runtime_methods.self_extend(model, group={group}, window={window})",
        f"llama-completion -m {gguf} -c {tokens} -gan {group} -gaw {window}, but no llama-server since b3911",
        f"ropepatch audit {name} --variant self-extend:group={group},window={window} measures it",
    )
    return MethodUnsupported(
        "self-extend computes attention twice, near and grouped: no key of any format says it, and no engine reads it "
        "from a file",
        where=ref,
        hint="; ".join(lines),
    )
