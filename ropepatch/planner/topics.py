"""What ``ropepatch explain gamma``, ``explain cost`` and ``explain verdict`` say."""

from __future__ import annotations

from typing import Any

from ropepatch.dialects import dual_chunk
from ropepatch.methods import runtime_only
from ropepatch.planner import gamma, verdict
from ropepatch.search import settings

SCHEMA = "ropepatch.topic/1"
#: by name: title, formulas (what, formula), what is known, sources
_TOPICS: dict[str, tuple[str, tuple[tuple[str, str], ...], tuple[str, ...], tuple[str, ...]]] = {
    "gamma": (
        "γ, the designed base and the published planner",
        (
            ("law", "mean attention at distance d ∝ d^(-γ); below 1 attention looks far, above 1 it is local"),
            ("γ_Padé", "(2 - z)/(2 + z), z = L√2/θ: the [1,1] Padé approximant of e^(-z)"),
            ("θ_design", "L√2 (1+γ) / (2(1-γ)): the base that has γ at length L"),
            ("d_horizon", "θ(1-γ)√2/(1+γ), for 0 < γ < 1"),
            ("published verdict", "γ_eff ≤ 0.2 DEGRADES, s > 4 NEEDS-FINETUNE, γ_eff ≥ 0.6 HEALTHY, else with care"),
            ("what that is", "T/θ ≥ 0.9428 DEGRADES, s > 4 NEEDS-FINETUNE, T/θ ≤ 0.3536 HEALTHY, else with care"),
        ),
        (
            gamma.STANDING,
            *gamma.TAUTOLOGIES,
            "what holds: γ grows with θ, falls with L, and θ_design is the exact inverse",
            "its author reports errors of about a fifth; models of one base and length measure 0.51 to 1.02",
            "its passkey data has nothing retrieved at any distance, so the horizon was never confirmed",
            "ropepatch takes no verdict from it; apply --method theta --target-gamma G --length N tries it",
        ),
        ("Thermodynamic Attention Framework, Zenodo 19826343 and 20314038", "repository karlesmarin/tafagent"),
    ),
    "cost": (
        "what a length costs",
        (
            ("KV cache", "Σ over layers: h_kv (d_k + d_v) · min(L, window) · bytes an element"),
            ("latent cache (MLA)", "Σ over layers: (kv_lora_rank + qk_rope_head_dim) · L · bytes an element"),
            ("bytes an element", "f16 2; q8_0 34/32; q4_0 18/32 (blocks of 32 with one half float of scale)"),
            ("weights", "sizes of the tensors; without them parameters · bytes of dtype"),
            ("prefill", "2 · active weights · L + Σ over layers: 2 h (d_k + d_v) · pairs of query and key, in FLOPs"),
            ("pairs", "L(L+1)/2; with a window W below L: W(W+1)/2 + (L - W) W"),
            ("cards", "the fewest of 1, 2, 4 and 8 with 0.9 · memory ≥ weights/cards + KV/min(cards, h_kv)"),
            ("sequences", "⌊(0.9 · memory - weights/cards) · min(cards, h_kv) / KV of one sequence⌋"),
        ),
        (
            "the KV cache grows in proportion to the length, attention in prefill with its square",
            "active weights: of experts those that a token uses, the embeddings left out",
            "a latent cache cannot be split by heads: every card holds all of it",
            "the tenth that is left of a card is for activations; how much they take is the engine's matter",
            "layers of linear attention, convolutions and state spaces keep one state whatever the length",
        ),
        ("ggml block types: ggml-common.h", "card memory: what the drivers report"),
    ),
    "search": (
        "how ropepatch search looks for factors",
        (
            ("longrope", "1 ≤ f[i] ≤ 1.25 s on a grid of 0.01, f[i] ≤ f[i+1]"),
            ("longrope2", "from a critical pair c on s ≤ f[i] ≤ 2 s, f[i] ≤ f[i+1]; below it f[i] = f[c]^(i/c)"),
            ("critical pair", "c from ⌈d/2 · log_θ(T/20π)⌉ (ten turns over T) to ⌈d/2 · log_θ(T/2π)⌉ (one turn)"),
            ("needle", "mean log-probability of the answer's tokens; the block at the start in every other text"),
            ("ppl", "mean log-probability of all tokens of windows from the first half of --text"),
            *((row, f"{meaning}; {source}") for row, (_, _, meaning, source) in settings.KNOWN.items()),
        ),
        (
            "a generation keeps the best as parents; children are mutants and crossings; none is tried twice",
            "the best are scored again on other texts: of many, the best by few texts is partly the luckiest",
            "a mutation draws factors again between their neighbours, so that the order holds",
            "the starts are fitted into the space: longrope2 shares its own eight, from s to 1.66 s",
            "the short list is searched at T with factors up to 1.25, or all ones as LongRoPE2 has it",
            "one attention factor goes with both lists: runtimes apply it at every length",
            "LongRoPE also leaves the first tokens unscaled; no file can say that, so it is not searched",
            "held-out needles have other keys, values and distractors than those that candidates are scored on",
            "scores keep six digits and batches are cut alike, so that ray and one process choose the same",
        ),
        ("LongRoPE, arXiv 2402.13753, and its released code", "LongRoPE2, arXiv 2502.20082, and its authors' code"),
    ),
    "self-extend": (
        "grouped and neighbour attention, at run time only",
        (
            ("near, distance < W", "rotated as trained"),
            ("far", "query at ⌊p/G⌋ + W - ⌊W/G⌋, key at ⌊p/G⌋; both kinds of score in one softmax"),
            ("reach", "(T - W) G + W tokens"),
            ("choosing", "W + (N - W)/G below half to two thirds of T; ropepatch takes W = T/4 and two thirds"),
            *((engine, f"{how} ({when})") for engine, how, when in runtime_only.SELF_EXTEND_ENGINES),
        ),
        (
            "no format has a key for it and no engine reads it from a file: apply refuses it, and audit compares it",
            "nothing is trained; near tokens keep their distance, so that short inputs within W see no change at all",
            "the decoder of ropepatch and the attention interface of transformers compute it as whole matrices",
        ),
        ("Self-Extend, arXiv 2401.01325", "llama.cpp pull request 9860 took it out of the server"),
    ),
    "dca": (
        "dual chunk attention, where an engine reads dual_chunk_attention_config",
        (
            ("chunk", "positions restart every chunk_size - local_size tokens; chunk_size is T, local_size T/4"),
            ("same chunk", "rotated as trained"),
            ("chunk before", "query at min(p + chunk, chunk_size)"),
            ("farther", "query at the largest trained distance"),
            *((engine, f"reads it for {', '.join(kinds)}") for engine, kinds in dual_chunk.READERS.items()),
        ),
        (
            "SGLang: --attention-backend dual_chunk_flash_attn",
            "vLLM reads it below 0.11, with its old engine; from 0.11 on a config with the key does not load",
            "every other engine ignores the key: apply --method dca asks with --for which one shall read it",
        ),
        ("ChunkLlama, arXiv 2402.17463", "vLLM pull requests 11844 and 25351"),
    ),
    "verdict": (
        "the rules of ropepatch plan",
        tuple((f"{rule}: {asks}", f"{condition} ({ground})") for rule, asks, condition, ground in verdict.RULES),
        (
            "a policy over the factor and the exact geometry, not a measurement: ropepatch audit measures",
            "every rule that applies gives a verdict with its reason, and the gravest counts",
            f"from lightest to gravest: {', '.join(verdict.VERDICTS)}; plan exits with 1 for the last",
        ),
        (),
    ),
}  # fmt: skip
NAMES = tuple(_TOPICS)


def explain(name: str) -> dict[str, Any]:
    """A topic as the JSON that ``schemas/topic.schema.json`` describes."""
    title, formulas, known, sources = _TOPICS[name]
    return {
        "schema": SCHEMA,
        "name": name,
        "title": title,
        "formulas": [{"name": what, "formula": formula} for what, formula in formulas],
        "known": list(known),
        "sources": list(sources),
    }
