"""A plan as a brief that people read, decide on and keep: Markdown, or HTML that needs nothing but itself."""

from __future__ import annotations

import shlex

from ropepatch._version import __version__
from ropepatch.planner import verdict
from ropepatch.planner.plan import Plan
from ropepatch.report import brief_forms, brief_plots
from ropepatch.report.brief_forms import Block
from ropepatch.report.plan_tables import action, judged, merits, positions, price, runtimes, size, slow, tera
from ropepatch.report.text import clean, number, tokens

#: where the benchmark of the brief finds the server that the launch lines start
_SERVERS = {"vllm": 8000, "llama.cpp": 8080}


def written(plan: Plan, *, html: bool) -> str:
    """The brief as one text."""
    blocks = content(plan)
    title = f"{_name(plan)} at {plan.length:,} tokens"
    return brief_forms.html_page(title, blocks) if html else brief_forms.markdown(title, blocks)


def content(plan: Plan) -> list[Block]:
    """What the brief says, in order."""
    return [
        Block("lead", f"Proposed: {action(plan)}."),
        Block("verdict", plan.verdict, tuple((reason.text,) for reason in plan.reasons)),
        *([Block("p", f"Why this: {merits(plan)}.")] if plan.subject is not plan.methods[0] else []),
        Block("p", f"Costs: {price(plan)}."),
        Block("p", f"Judged: {judged(plan)}. A rule over factor and geometry, not a measurement."),
        *_today(plan),
        *_change(plan),
        *_expected(plan),
        *_cost(plan),
        *_training(plan),
        *_experiments(plan),
        *_rollback(plan),
        *_small_print(plan),
    ]


def _name(plan: Plan) -> str:
    return clean(plan.model.ref.rstrip("/").rsplit("/", 1)[-1] or plan.model.ref)


def _today(plan: Plan) -> list[Block]:
    profile, start = plan.model.profile, plan.to_json_start()
    group = profile.groups[plan.start.group]
    rotates = f"{group.rotary_dim} of {group.head_dim} dimensions rotate"
    scaling = group.scaling.to_json()["method"]
    rows = (
        ("what", "value"),
        ("checkpoint", clean(plan.model.ref)),
        ("format", f"{profile.source.format}, {clean(profile.source.architecture)}"),
        ("trained context", tokens(profile.trained_context)),
        ("declared context", tokens(profile.declared_context)),
        ("rope group", f"{plan.start.group}: base {number(group.rope_theta, 9)}, {rotates}, scaling {scaling}"),
        ("starts from", f"{plan.start.context:,} tokens ({plan.start.origin})"),
        ("no full turn", slow(start)),
    )
    return [Block("h2", "Where the model is today"), Block("table", rows=rows)]


def _change(plan: Plan) -> list[Block]:
    blocks = [Block("h2", "The proposed change")]
    if plan.subject.patch is None:
        return [*blocks, Block("p", "None: the file stays as it is.")]
    edits = [(clean(edit.name), _value(edit.before), _value(edit.after)) for edit in plan.subject.patch.edits]
    blocks.append(Block("table", rows=(("key", "before", "after"), *edits)))
    if plan.command:
        blocks.append(Block("code", plan.command))
    return blocks


def _value(value: object) -> str:
    from ropepatch.report.text import short

    data = getattr(value, "data", None)
    return "absent" if value is None else short(data, 90)


def _expected(plan: Plan) -> list[Block]:
    now, then = plan.methods[0].geometry, plan.subject.geometry
    rows: list[tuple[str, ...]] = [
        ("at the new length", "as it is", plan.subject.method),
        ("angles never trained", f"{now.angles_outside:.1%}", f"{then.angles_outside:.1%}"),
        ("pairs that meet them", str(now.leaving_pairs), str(then.leaving_pairs)),
        ("step between neighbours", f"×{now.neighbour_ratio:.3g}", f"×{then.neighbour_ratio:.3g}"),
        ("factor on attention logits", f"×{now.logit_ratio:.3g}", f"×{then.logit_ratio:.3g}"),
        ("effective base (fit)", _number(now.base_fitted), _number(then.base_fitted)),
        ("first negative Σcos", tokens(now.first_zero) if now.first_zero else "none",
         tokens(then.first_zero) if then.first_zero else "none"),
    ]  # fmt: skip
    if plan.subject is plan.methods[0]:
        rows = [row[:2] for row in rows]
    blocks = [Block("h2", "What to expect"), Block("table", rows=tuple(rows))]
    blocks += [Block("plot", svg, ((caption,),)) for svg, caption in brief_plots.plots(plan)]
    blocks += [Block("h2", "Risks"), Block("list", rows=tuple((text,) for text in _risks(plan)))]
    if len(plan.methods) > 1:
        table = [("method", "never trained", "step", "logits", "written as", "runtimes")]
        for item in plan.methods:
            found = item.geometry
            how = runtimes(item) if item.refused is None else item.refused
            table.append(
                (
                    item.method,
                    f"{found.angles_outside:.1%}",
                    f"×{found.neighbour_ratio:.3g}",
                    f"×{found.logit_ratio:.3g}",
                    item.written or "no",
                    how,
                )
            )
        blocks += [Block("h2", "All methods at this factor"), Block("table", rows=tuple(table))]
    return blocks


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:,.0f}" if value < 1e12 else f"{value:.4g}"


def _risks(plan: Plan) -> list[str]:
    group = plan.model.profile.groups[plan.start.group]
    risks = [reason.text for reason in plan.reasons if reason.verdict != verdict.HEALTHY]
    if plan.subject.patch is not None and plan.subject.patch.after.groups[plan.start.group].scaling.static:
        risks.append("the change is static: short inputs are rotated by the new frequencies as well")
    if group.scaled and plan.start.existing == "replace":
        risks.append("a model that was trained with the scaling in the file loses it")
    risks += [f"{name}: {what}" for name, what in plan.subject.differing.items()]
    risks.append(positions(plan))
    return list(dict.fromkeys([*risks, *plan.notes]))


def _cost(plan: Plan) -> list[Block]:
    blocks = [Block("h2", "Cost")]
    cost = plan.cost
    if cost is None:
        return [*blocks, Block("p", f"Not known: {plan.cost_unknown}.")]
    rows: list[tuple[str, ...]] = [("", *cost.kv_bytes)]
    if cost.kv_bytes_before:
        rows.append((f"KV cache at {plan.start.context:,}", *map(size, cost.kv_bytes_before.values())))
    rows.append((f"KV cache at {plan.length:,}", *map(size, cost.kv_bytes.values())))
    if cost.batch > 1:
        rows.append((f"of {cost.batch} sequences", *map(size, cost.kv_batch_bytes.values())))
    blocks.append(Block("table", rows=tuple(rows)))
    if cost.weight_bytes is not None:
        blocks.append(Block("p", f"Weights: {size(cost.weight_bytes)} ({cost.weight_source})."))
    if cost.prefill_flops is not None:
        grown = f", {cost.prefill_growth:.3g} times that of the starting context" if cost.prefill_growth else ""
        share = f" ({cost.attention_share:.0%} of it attention)" if cost.attention_share is not None else ""
        blocks.append(Block("p", f"Reading one full prompt: {tera(cost.prefill_flops)}{share}{grown}."))
    if cost.gpus:
        table = [("card", "cards", *(f"sequences, {kind}" for kind in cost.kv_bytes))]
        for fit in cost.gpus:
            table.append((fit.name, str(fit.cards or "more than 8"), *(f"{n:,}" for n in fit.sequences.values())))
        blocks.append(Block("table", rows=tuple(table)))
    return [*blocks, *([Block("list", rows=tuple((note,) for note in cost.notes))] if cost.notes else [])]


def _training(plan: Plan) -> list[Block]:
    if plan.verdict not in (verdict.FINETUNE, verdict.DEGRADES):
        return []
    if not plan.recipes:
        return [Block("h2", "Training"), Block("p", f"No published run of {plan.subject.method} is known here.")]
    rows = [("run", "lengths", "steps", "rate", "batch", "data", "source")]
    rows += [(r.model, r.lengths, r.steps, r.rate, r.batch, r.sequence, r.source) for r in plan.recipes]
    text = "Published runs to start from; ropepatch has repeated none of them."
    return [Block("h2", "Training"), Block("p", text), Block("table", rows=tuple(rows))]


def _experiments(plan: Plan) -> list[Block]:
    blocks = [
        Block("h2", "Experiments to run"),
        Block("p", "1. Does it still find things? Retrieval by length and depth, against the unpatched model:"),
        Block("code", audit_command(plan)),
        Block("p", "Stop here where the baseline passes and the new lengths do not."),
        Block("p", "2. What does it cost on your own traffic? Start the server:"),
    ]
    servers = [line for line in plan.launch if line.runtime in _SERVERS and line.text]
    for line in servers:
        blocks.append(Block("code", line.text))
        blocks += [Block("list", rows=tuple((f"avoid {text}",) for text in line.avoid))] if line.avoid else []
    blocks += [
        Block("p", "and replay prompts of yours, short and long ones as they come (traffic.jsonl: one {\"prompt\": …} "
                   "a line; as many at once as you serve), reading latency as percentiles, not as a mean:"),
        *(Block("code", benchmark_command(plan, line.runtime)) for line in servers or ()),
    ]  # fmt: skip
    if not servers:
        blocks.append(Block("code", benchmark_command(plan, "vllm")))
    text = "Compare p50, p95 and p99 of time to first token and per output token with the unpatched server's."
    return [*blocks, Block("p", text)]


def audit_command(plan: Plan) -> str:
    """The audit of the proposal beside the file as it is."""
    below = sorted({max(1, plan.start.context // 2), plan.start.context, plan.length})
    between = plan.start.context * 2
    lengths = sorted({*below, *([between] if between < plan.length else [])})
    parts = ["ropepatch", "audit", plan.model.ref]
    if plan.subject.patch is not None and plan.subject.factor is not None and plan.start.existing == "error":
        parts += ["--method", plan.subject.method, "--factor", f"{plan.subject.factor:.9g}"]
    elif plan.subject.patch is not None:
        parts[2] = _output(plan)
    parts += ["--lengths", ",".join(map(str, lengths)), "--task", "passkey,multikey,absent", "--journal", "audit.jsonl"]
    return shlex.join(parts)


def benchmark_command(plan: Plan, runtime: str) -> str:
    """Latency percentiles of a running server on prompts from a file."""
    address = ["--base-url", f"http://localhost:{_SERVERS[runtime]}", "--model", _output(plan)]
    if runtime != "vllm":
        address = ["--backend", "openai", *address, "--tokenizer", "TOKENIZER"]
    percentiles = ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,90,95,99"]
    data = ["--dataset-name", "custom", "--dataset-path", "traffic.jsonl", "--no-oversample"]
    data += ["--max-concurrency", str(plan.cost.batch if plan.cost else 1)]
    return shlex.join(["vllm", "bench", "serve", *address, *data, *percentiles])


def _output(plan: Plan) -> str:
    if plan.subject.patch is None:
        return plan.model.ref
    from ropepatch import output

    return str(output.default_output(plan.subject.patch))


def _rollback(plan: Plan) -> list[Block]:
    if plan.subject.patch is None:
        return []
    text = "The input is never changed, and its manifest puts it together again from the output, byte for byte:"
    return [
        Block("h2", "Rollback"),
        Block("p", text),
        Block("code", shlex.join(["ropepatch", "revert", _output(plan)])),
    ]


def _small_print(plan: Plan) -> list[Block]:
    law = plan.gamma
    published = law["published"]
    after = "" if law["after"] is None else f", {law['after']:.3f} with {plan.subject.method}"
    text = (
        f"γ_Padé is {law['trained']:.3f} as trained and {law['before']:.3f} at the length{after}; the base for "
        f"γ {law['target']:g} would be {law['theta_design']:,.0f}, and the published planner says "
        f"{published['verdict']}. This is a {law['standing']}; ropepatch explain gamma shows why it ranks no method."
    )
    made = f"Written by ropepatch {__version__} from metadata alone; nothing here was measured."
    return [Block("h2", "γ, for reference"), Block("p", text), Block("p", made)]
