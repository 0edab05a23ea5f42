"""What llama.cpp reads of RoPE, for every architecture that it knows.

One row an architecture, named as `general.architecture` names it. Read in the sources of llama.cpp 0.6.0 (October
2026): `llama_model_rope_type` and `load_hparams` in src/llama-model.cpp, and each architecture's keys, tensors and
graph in src/models/. Where that function names a layout that the graph does not use (`bert`, `starcoder`,
`deepseek2-ocr`), the row says what the graph does. Keys that no column mentions (`rope.freq_base`,
`rope.scaling.type`, `.factor`, `.attn_factor`, `.original_context_length`, `context_length`) are read for all.

Columns of the table:

`pairs`    which values the graph rotates together: `norm` adjacent ones, `neox` the two halves, `mrope` halves by
           sections, `imrope` sections interleaved, `none` no rotation at all
`factors`  per-pair frequency factors: `-` the loader knows no such tensor (adding one makes the load fail),
           `F` rope_freqs.weight, `L` rope_factors_long.weight and rope_factors_short.weight,
           `Fc` the latter two when rope.scaling.type is longrope, else the former,
           `x` a tensor is accepted and then ignored
`rot`      `head` rope.dimension_count must equal the head dimension (the load fails or the process aborts),
           `any` it may be smaller; `fixed` the graph rotates by constants, whatever the file says
`betas`    `yes` rope.scaling.yarn_beta_fast and yarn_beta_slow are read; elsewhere they stay 32 and 1
`logmul`   rope.scaling.yarn_log_multiplier: `-` not read, `raw` mscale_all_dim itself, `tenth` 0.1 of it and the graph
           multiplies the softmax scale as well, `zero` the graph does so too, with a multiplier that no key sets
`swa`      scaling of the sliding layers: `-` none slide, `same` they take the file's factor and attn_factor, `one`
           they take attn_factor alone, `off` neither
`base`     base of the sliding layers without rope.freq_base_swa: `copy` of rope.freq_base, or `10000`;
           `main` always rope.freq_base, whatever rope.freq_base_swa says; `need` the key is required
`nope`     layers that are not rotated, so that no patch reaches them: `-` none, `full` the full-attention layers of a
           model that has sliding ones, `4th` every fourth layer, `key` as the file says
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FREQS = "rope_freqs.weight"
LONG = "rope_factors_long.weight"
SHORT = "rope_factors_short.weight"


@dataclass(frozen=True)
class Row:
    """What llama.cpp reads for one architecture; the module's docstring explains the values."""

    arch: str
    pairs: Literal["norm", "neox", "mrope", "imrope", "none"]
    factors: Literal["-", "F", "L", "Fc", "x"]
    rot: Literal["head", "any", "fixed", "-"]
    betas: bool
    log_mul: Literal["-", "raw", "tenth", "zero"]
    swa: Literal["-", "same", "one", "off"]
    swa_base: Literal["-", "copy", "10000", "main", "need"]
    nope: Literal["-", "full", "4th", "key"]
    note: str

    @property
    def rotates(self) -> bool:
        """Whether the graph rotates anything."""
        return self.pairs != "none"

    @property
    def scales_softmax(self) -> bool:
        """Whether the graph multiplies the softmax scale by a magnitude of the scaling, besides cos and sin."""
        return self.log_mul in ("tenth", "zero")

    @property
    def fixed(self) -> bool:
        """Whether the graph rotates by constants, so that nothing in a file changes its angles."""
        return self.rot == "fixed"

    @property
    def needs_sections(self) -> bool:
        """Whether the loader stops without four M-RoPE sections."""
        return "rope.dimension_sections required" in self.note

    def factor_tensors(self, scaling_type: str | None = None) -> tuple[str, ...]:
        """Names of the factor tensors that take effect when `rope.scaling.type` is `scaling_type` (None: absent)."""
        long_short = self.factors == "L" or (self.factors == "Fc" and scaling_type == "longrope")
        if long_short:
            return (LONG, SHORT)
        return (FREQS,) if self.factors in ("F", "Fc") else ()


_TABLE = """
arch             pairs  factors rot  betas logmul swa  base  nope note
afmoe            neox   -       any  -     -      same copy  4th
apertus          neox   Fc      head -     -      -    -     -
arcee            norm   F       head -     -      -    -     -
arctic           norm   -       head -     -      -    -     -
arwkv7           none   -       -    -     -      -    -     -    recurrent
baichuan         norm   -       head -     -      -    -     -    the 40-layer 13B takes ALiBi, not RoPE
bailingmoe       norm   -       any  -     -      -    -     -
bailingmoe2      neox   -       any  -     -      -    -     -
bailingmoe3      norm   -       any  -     -      -    -     -    mrope with rope.dimension_sections
bert             none   -       -    -     -      -    -     -    learned positions
bitnet           neox   -       any  -     -      -    -     -
bloom            none   -       -    -     -      -    -     -    ALiBi
chameleon        norm   -       head -     -      -    -     -
chatglm          norm   -       any  -     -      -    -     -
clef             imrope -       any  -     -      -    -     -    rope.dimension_sections required
clip             none   -       -    -     -      -    -     -    no language model
codeshell        neox   -       head -     -      -    -     -
cogvlm           neox   x       head -     -      -    -     -
cohere2          norm   -       any  -     -      same main  full
cohere2moe       norm   -       head -     -      same main  full the leading dense layers rotate
command-r        norm   -       any  -     -      -    -     -
dbrx             neox   -       head -     -      -    -     -
deci             norm   Fc      head -     -      -    -     -
deepseek         norm   -       head -     -      -    -     -
deepseek2        norm   -       any  -     tenth  -    -     -    only the RoPE part of MLA heads rotates
deepseek2-ocr    neox   -       fixed -     -      -    -     -    scaling ignored; a base other than 10000 aborts
deepseek32       norm   -       any  -     tenth  -    -     -    the indexer rotates as neox
deepseek4        norm   -       any  -     -      one  main  -    factor on compressed layers only, with their own base
dflash           neox   F       any  -     -      same main  -    draft model; mrope with sections; norm for DeepSeek-V4
dots1            neox   -       head -     -      -    -     -
dots3note        norm   -       any  -     -      same need  -    the indexer rotates as neox
dream            neox   -       head -     -      -    -     -
eagle3           norm   F       any  -     -      -    -     -    draft model
ernie4_5         norm   -       head -     -      -    -     -
ernie4_5-moe     norm   -       head -     -      -    -     -
eurobert         neox   -       any  -     -      -    -     -
exaone           neox   F       head -     -      -    -     -
exaone-moe       neox   F       head -     -      same main  full
exaone4          neox   F       head -     -      same main  full only the 64-layer 32B has sliding layers
falcon           neox   -       head -     -      -    -     -
falcon-h1        neox   x       any  -     -      -    -     -
gemma            neox   -       any  -     -      -    -     -
gemma-embedding  neox   -       any  -     -      one  10000 -
gemma-embedding2 neox   -       any  -     -      one  10000 -
gemma2           neox   -       any  -     -      same copy  -
gemma3           neox   -       any  -     -      one  10000 -
gemma3n          neox   -       any  -     -      one  10000 -
gemma4           neox   F       any  -     -      one  10000 -    rope_freqs required; full-attention layers only
gemma4-assistant neox   F       any  -     -      one  10000 -    rope_freqs required; full-attention layers only
glm-dsa          norm   -       any  -     zero   -    -     -
glm4             norm   -       any  -     -      -    -     -    mrope with rope.dimension_sections
glm4moe          neox   -       any  -     -      -    -     -    mrope with rope.dimension_sections
glm5-next        none   -       -    -     -      -    -     -
gpt-oss          neox   -       head -     -      same copy  -
gpt2             none   -       -    -     -      -    -     -    learned positions
gptj             none   -       -    -     -      -    -     -    a name without a loader
gptneox          neox   -       any  -     -      -    -     -
granite          norm   Fc      head -     -      -    -     key  rope.scaling.finetuned false turns RoPE off
granite_swa      norm   Fc      head -     -      same main  key  attention.rope_pattern names the rotated layers
granitehybrid    norm   F       any  -     -      -    -     key  rope.scaling.finetuned false turns RoPE off
granitemoe       norm   Fc      head -     -      -    -     -
graniteswitch    norm   -       head -     -      -    -     key  rope.scaling.finetuned false turns RoPE off
grok             neox   -       head yes   -      -    -     -    betas default to 8 and 1; yarn_ext_factor is read
grovemoe         neox   -       head -     -      -    -     -
hrm_text         neox   -       any  -     -      -    -     -
hunyuan-dense    neox   -       head -     -      -    -     -    rope.scaling.alpha raises the base
hunyuan-moe      neox   -       head -     -      -    -     -
hunyuan_vl       neox   -       head -     -      -    -     -    rope.scaling.alpha raises the base; mrope if sections
hy_v3            neox   -       head -     -      -    -     -
hy_v4            norm   -       any  -     -      -    -     -
internlm2        norm   -       head -     -      -    -     -
jais             none   -       -    -     -      -    -     -    ALiBi
jais2            neox   -       head -     -      -    -     -
jamba            none   -       -    -     -      -    -     -
jina-bert-v2     none   -       -    -     -      -    -     -    ALiBi
jina-bert-v3     neox   -       any  -     -      -    -     -
k2-horizon       neox   -       any  yes   -      -    -     -
kimi-k3          none   -       -    -     -      -    -     -
kimi-linear      none   -       -    -     -      -    -     -
laguna           neox   -       any  -     -      off  copy  -
lfm2             neox   -       any  -     -      same main  -
lfm2moe          neox   -       any  -     -      same main  -
llada            norm   x       head -     -      -    -     -
llada-moe        neox   -       head -     -      -    -     -
llama            norm   Fc      head -     -      -    -     -
llama-embed      norm   Fc      head -     -      -    -     -
llama4           norm   F       head -     -      same copy  4th  every layer rotates if sliding_window is 0
maincoder        norm   -       head -     -      -    -     -
mamba            none   -       -    -     -      -    -     -    recurrent
mamba2           none   -       -    -     -      -    -     -    recurrent
maple            neox   -       any  -     -      same copy  full
mellum           neox   -       head -     -      off  main  -
mimo2            neox   -       any  -     -      one  10000 -
minicpm          norm   Fc      head -     -      -    -     -
minicpm3         neox   L       any  -     -      -    -     -    only the RoPE part of MLA heads rotates
minimax-01       neox   -       any  -     -      -    -     -
minimax-m2       neox   -       any  -     -      -    -     -
minimax-m3       neox   -       any  -     -      -    -     -
mistral3         norm   Fc      head yes   raw    -    -     -    query temperature steps at original_context_length
mistral4         norm   -       any  -     tenth  -    -     -    only the RoPE part of MLA heads rotates
modern-bert      neox   -       any  -     -      one  10000 -
mpt              none   -       -    -     -      -    -     -    ALiBi or learned positions
muse-glimmer     norm   -       any  -     -      one  copy  full
nanbeige         norm   F       any  -     -      -    -     -
nemotron         neox   -       any  -     -      -    -     -
nemotron_h       none   -       -    -     -      -    -     -
nemotron_h_moe   none   -       -    -     -      -    -     -
neo-bert         norm   -       any  -     -      -    -     -
nomic-bert       neox   -       any  -     -      -    -     -
nomic-bert-moe   neox   -       any  -     -      -    -     -
olmo             norm   -       head -     -      -    -     -
olmo2            neox   -       head -     -      off  main  -    OLMo 3
olmoe            neox   -       head -     -      -    -     -
openelm          neox   -       any  -     -      -    -     -
orion            neox   -       head -     -      -    -     -
paddleocr        mrope  -       head -     -      -    -     -
pangu-embedded   neox   x       head -     -      -    -     -
phi2             neox   -       any  -     -      -    -     -
phi3             neox   L       any  -     -      -    -     -    attention.sliding_window is ignored
phimoe           neox   L       any  -     -      -    -     -
plamo            neox   -       head -     -      -    -     -
plamo2           neox   -       any  -     -      -    -     -
plamo3           neox   -       any  -     -      one  10000 -
plm              norm   -       any  -     -      -    -     -    only the RoPE part of MLA heads rotates
pockettts        norm   -       head -     -      -    -     -
qwen             neox   -       any  -     -      -    -     -
qwen2            neox   -       head -     -      -    -     -
qwen2moe         neox   -       head -     -      -    -     -
qwen2vl          mrope  -       head -     -      -    -     -    rope.dimension_sections required
qwen3            neox   -       head -     -      -    -     -
qwen35           imrope -       any  -     -      -    -     -    rope.dimension_sections required
qwen35moe        imrope -       any  -     -      -    -     -    rope.dimension_sections required
qwen3moe         neox   -       head -     -      -    -     -
qwen3next        neox   -       any  -     -      -    -     -
qwen3tts         imrope -       head -     -      -    -     -    rope.dimension_sections required
qwen3vl          imrope -       head -     -      -    -     -    rope.dimension_sections required
qwen3vlmoe       imrope -       head -     -      -    -     -    rope.dimension_sections required
qwen4exp         imrope -       any  -     -      -    -     -    rope.dimension_sections required
refact           none   x       -    -     -      -    -     -    ALiBi
rnd1             neox   -       head -     -      -    -     -
rwkv6            none   -       -    -     -      -    -     -    recurrent
rwkv6qwen2       none   -       -    -     -      -    -     -    recurrent
rwkv7            none   -       -    -     -      -    -     -    recurrent
seed_oss         neox   -       head -     -      -    -     -
smallthinker     neox   -       head -     -      same copy  4th  every layer rotates if none slide
smollm3          norm   -       head -     -      -    -     4th
spark2_5         neox   -       any  -     -      same copy  -
stablelm         neox   -       any  -     -      -    -     -
starcoder        none   -       -    -     -      -    -     -    learned positions
starcoder2       neox   -       head -     -      -    -     -
step35           neox   Fc      any  -     -      one  10000 -    factors reach full-attention layers only
t5               none   -       -    -     -      -    -     -    relative position bias
t5encoder        none   -       -    -     -      -    -     -    relative position bias
talkie           neox   -       head -     -      -    -     -
wavtokenizer-dec none   -       -    -     -      -    -     -    no language model
xverse           norm   -       head -     -      -    -     -
"""

_WIDTH = len(_TABLE.strip().splitlines()[0].split()) - 1


def _parse(table: str) -> dict[str, Row]:
    """Rows by architecture; the first line names the columns, the note is the rest of a line."""
    rows: dict[str, Row] = {}
    for line in table.strip().splitlines()[1:]:
        arch, pairs, factors, rot, betas, log_mul, swa, base, nope, *note = line.split(maxsplit=_WIDTH)
        cells = {"pairs": pairs, "factors": factors, "rot": rot, "log_mul": log_mul, "swa": swa}
        rows[arch] = Row(
            arch,
            **cells,  # type: ignore[arg-type]
            betas=betas == "yes",
            swa_base=base,  # type: ignore[arg-type]
            nope=nope,  # type: ignore[arg-type]
            note="".join(note),
        )
    return rows


ARCHITECTURES: dict[str, Row] = _parse(_TABLE)
#: architectures that Ollama's converter names its own way and its loader translates
#: (llama/compat/llama-ollama-compat.cpp)
OLLAMA_NAMES = {"gptoss": "gpt-oss", "qwen25vl": "qwen2vl", "olmo3": "olmo2"}


def reads(architecture: str) -> Row | None:
    """What llama.cpp reads for an architecture, under its own name or Ollama's; None when it does not know it."""
    return ARCHITECTURES.get(OLLAMA_NAMES.get(architecture, architecture))
