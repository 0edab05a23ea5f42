"""The scalar types that llama.cpp's loader demands of rope keys, and what else of them makes it refuse a file.

`GGUFMeta::GKV::get_kv` (src/llama-model-loader.cpp) stops on any other type; a key that an architecture does not
ask for may hold anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ropepatch.runtimes.llama_cpp_table import Row

SECTIONS = "rope.dimension_sections"
LOG_MULTIPLIER = "rope.scaling.yarn_log_multiplier"
#: the scalar type of each key without the architecture, and who asks for it: a name of `_ASKS`
_TABLE = """
context_length                       UINT32   all
rope.dimension_count                 UINT32   all
rope.dimension_count_swa             UINT32   all
rope.freq_base                       FLOAT32  all
rope.freq_base_swa                   FLOAT32  sliding
rope.scale_linear                    FLOAT32  without-factor
rope.scaling.type                    STRING   all
rope.scaling.factor                  FLOAT32  all
rope.scaling.attn_factor             FLOAT32  all
rope.scaling.original_context_length UINT32   all
rope.scaling.finetuned               BOOL     all
rope.scaling.alpha                   FLOAT32  all
rope.scaling.yarn_log_multiplier     FLOAT32  log-multiplier
rope.scaling.yarn_ext_factor         FLOAT32  grok
rope.scaling.yarn_attn_factor        FLOAT32  grok
rope.scaling.yarn_beta_fast          FLOAT32  betas
rope.scaling.yarn_beta_slow          FLOAT32  betas
"""
TYPES: dict[str, tuple[str, str]] = {
    key: (kind, asks) for key, kind, asks in (line.split() for line in _TABLE.strip().splitlines())
}
_ASKS: dict[str, Callable[[Row], bool]] = {
    "all": lambda row: True,
    "without-factor": lambda row: True,
    "sliding": lambda row: row.swa_base in ("copy", "10000", "need"),
    "log-multiplier": lambda row: row.log_mul in ("raw", "tenth"),
    "grok": lambda row: row.arch == "grok",
    "betas": lambda row: row.betas,
}


def asked(row: Row | None, key: str) -> bool:
    """Whether the loader looks at a key for an architecture; keys that are not in the table are."""
    if row is None or key not in TYPES:
        return row is not None or TYPES.get(key, ("", "all"))[1] == "all"
    return _ASKS[TYPES[key][1]](row)


def used(row: Row | None, key: str) -> bool:
    """Whether a key that is looked at also changes what is computed: `rope.scaling.alpha` does for few."""
    if key == "rope.scaling.alpha":
        return row is not None and "rope.scaling.alpha" in row.note
    return asked(row, key)


def wrong_types(row: Row, type_of: Callable[[str], str | None]) -> Iterator[tuple[str, str, str]]:
    """Keys whose type the loader refuses: key, type in the file, type demanded.

    Args:
        row: the architecture.
        type_of: the name of a key's value type, None when it is not in the file; keys without the architecture.
    """
    for key, (wanted, asks) in TYPES.items():
        have = type_of(key)
        # freq_base and the like may be one number a layer: an array, whose elements nobody here checks
        if have in (None, wanted, "ARRAY") or not asked(row, key):
            continue
        if asks == "without-factor" and type_of("rope.scaling.factor") is not None:
            continue
        yield key, str(have), wanted


def refusals(row: Row, type_of: Callable[[str], str | None], rotary: int, head: int) -> Iterator[str]:
    """Why the loader refuses a file, one sentence each; nothing where its keys let it pass.

    Args:
        row: the architecture.
        type_of: as in :func:`wrong_types`.
        rotary: the dimensions that rotate.
        head: the head's dimensions.
    """
    if type_of("context_length") is None:
        yield "context_length is not there, without which llama.cpp will refuse the file"
    for key, have, wanted in wrong_types(row, type_of):
        yield f"{key} is a {have}; llama.cpp wants a {wanted} and will refuse the file"
    if row.rot == "head" and rotary != head:
        partly = f"{rotary} of the head's {head} dimensions rotate"
        yield f"{partly}; llama.cpp takes {row.arch} only with all of them and will refuse the file"
    if type_of(SECTIONS) is None and row.needs_sections:
        yield f"{SECTIONS} is not there, without which llama.cpp will refuse the file"
