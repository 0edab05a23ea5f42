"""Model cards: the base's own text and front matter stay, the rest comes from the manifest and the evidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

import ropepatch
from ropepatch import manifest
from ropepatch.bundle import bundle_of
from ropepatch.card import model_card
from ropepatch.containers import front_matter
from ropepatch.errors import InputError
from ropepatch.report.card_section import BEGIN, END
from tests.support import tiny
from tests.support.command import ropepatch as run

SPEC = tiny.ModelSpec(layers=1, hidden=32, heads=1, kv_heads=1, head_dim=32, intermediate=32, vocab=8, context=256)
BASE = """---
license: other
license_name: tongyi-qianwen
license_link: https://example.org/LICENSE
language: no  # Norwegian, which YAML takes for false
base_model: org/grandparent
tags: [chat, yarn]
extra_gated_prompt: >-
  Say who you are:
  really
model-index:
- name: base
  results: []
---

# The base

Its own text, with `---` and a table | of | cells.
"""


def patched(folder: Path, kind: str = "hf") -> Path:
    """A patched tiny llama."""
    folder.mkdir(exist_ok=True)
    source = tiny.write_hf(folder / "model", SPEC) if kind == "hf" else tiny.write_gguf(folder / "model.gguf", SPEC)
    target = source.with_name(f"out{source.suffix}")
    ropepatch.open(source).patch("yarn", 4.0).write(target)
    return target


def record(output: Path) -> dict[str, Any]:
    return dict(manifest.read(bundle_of(output).manifest).document)


def parts(card: str) -> tuple[dict[str, Any], str]:
    """Front matter as any reader of cards sees it, without YAML's own booleans; and the body."""
    matter, body = front_matter.split(card)
    return yaml.load(matter, Loader=yaml.BaseLoader), body


def test_it_keeps_the_base_and_sets_what_is_its_own(tmp_path: Path) -> None:
    """Body, licence and unknown fields stay letter by letter; base, relation and tags are set; results go."""
    card = model_card(BASE, record(patched(tmp_path)), base_ref="hf://org/base@0123abc", repo="me/base-1k")

    matter, body = parts(card)
    assert body.endswith("# The base\n\nIts own text, with `---` and a table | of | cells.\n")
    assert body.startswith(f"{BEGIN}\n# base-1k\n\n[org/base](https://huggingface.co/org/base) with its rotary")
    assert matter["license"] == "other"
    assert matter["license_name"] == "tongyi-qianwen"
    assert "language: no  # Norwegian, which YAML takes for false\n" in card
    assert "extra_gated_prompt: >-\n  Say who you are:\n  really\n" in card
    assert "model-index" not in matter
    assert matter["base_model"] == "org/base"
    assert matter["base_model_relation"] == "finetune"
    assert matter["tags"] == ["chat", "yarn", "ropepatch", "long-context"]


def test_huggingface_hub_reads_it(tmp_path: Path) -> None:
    """The Hub's own client takes the card apart into the same fields."""
    from huggingface_hub import ModelCard

    card = ModelCard(model_card(BASE, record(patched(tmp_path)), base_ref="org/base", repo="me/base-1k"))

    assert card.data.base_model == "org/base"
    assert card.data.to_dict()["base_model_relation"] == "finetune"
    assert card.data.license_name == "tongyi-qianwen"
    assert "ropepatch" in card.data.tags
    assert "# The base" in card.text


@pytest.mark.parametrize("kind", ["hf", "gguf"])
def test_a_second_run_changes_nothing(kind: str, tmp_path: Path) -> None:
    """A card made from its own card is the same card: the section is replaced, not stacked."""
    document = record(patched(tmp_path, kind))
    first = model_card(BASE, document, base_ref="org/base", repo="me/base-1k")

    second = model_card(first, document, base_ref="org/base", repo="me/base-1k")

    assert second == first
    assert second.count(BEGIN) == second.count(END) == 1


def test_text_around_the_section_stays(tmp_path: Path) -> None:
    """What a person wrote before and behind the section is there after another run."""
    document = record(patched(tmp_path))
    first = model_card(BASE, document, base_ref="org/base", repo="me/base-1k")
    edited = first.replace(BEGIN, f"My words.\n\n{BEGIN}") + "\nMy last words.\n"

    second = model_card(edited, document, base_ref="org/base", repo="me/other")

    body = parts(second)[1]
    assert body.startswith(f"My words.\n\n{BEGIN}\n# other\n")
    assert body.endswith("\nMy last words.\n")


def test_a_gguf_stays_the_quantisation_of_its_model(tmp_path: Path) -> None:
    """A patched GGUF whose repository names the unquantised model is that model's quantisation."""
    document = record(patched(tmp_path, "gguf"))

    matter, body = parts(model_card(BASE, document, base_ref="org/base-GGUF", repo="me/base-1k-GGUF"))
    alone, _ = parts(model_card(None, document, base_ref="org/base-GGUF", repo="me/base-1k-GGUF"))

    assert (matter["base_model"], matter["base_model_relation"]) == ("org/grandparent", "quantized")
    assert (alone["base_model"], alone["base_model_relation"]) == ("org/base-GGUF", "finetune")
    assert "hf download me/base-1k-GGUF out.gguf --local-dir ." in body
    assert "llama-server -m out.gguf -c 1024" in body


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    """Without a statement and an audit the card says so; with them it shows their results."""
    output = patched(tmp_path)
    bare = ropepatch.card(output)
    statement = {
        "predicate": {
            "result": "PASSED",
            "ropepatch_checks": [{"name": "logits", "result": "PASSED", "detail": "changed at 900", "numbers": {}}],
            "ropepatch_environment": {"device": "cpu", "dtype": "float32", "engines": {"torch": "2.13"}},
        }
    }
    audit = {
        "lengths": [256, 1024],
        "depths": [0.0, 1.0],
        "samples": 8,
        "caveat": "lexical",
        "summaries": [
            {"task": "passkey", "variant": "none", "scores": {"256": 1.0, "1024": 0.0}},
            {"task": "passkey", "variant": "as it is", "scores": {"256": 0.875}},
        ],
    }
    (output / "ropepatch-verify.json").write_text(json.dumps(statement))
    (output / "ropepatch-audit.json").write_text(json.dumps(audit))

    measured = ropepatch.card(output)

    assert "Forward pass: not measured." in bare
    assert "## What it still finds\n\nNot measured." in bare
    assert "| logits | PASSED | changed at 900 |" in measured
    assert "| passkey | unpatched | 100% | 0% |\n| passkey | this model | 88% | not measured |" in measured
    assert "Not measured" not in measured


def test_engines_that_read_it_otherwise_are_named(tmp_path: Path) -> None:
    """The table tells the engines that compute other frequencies from those that agree."""
    card = ropepatch.card(patched(tmp_path))
    found = ropepatch.all_runtimes(ropepatch.open(tmp_path / "out"))

    rows = [line for line in card.splitlines() if line.startswith("| exllamav2 ")]
    assert [reading.same for reading in found.readings if reading.runtime == "exllamav2"] == [False]
    assert len(rows) == 1
    assert "**otherwise**: ×" in rows[0]
    assert any(line.startswith("| vllm ") and line.endswith(" the same |") for line in card.splitlines())


def test_names_of_strangers_do_nothing(tmp_path: Path) -> None:
    """Markup, links, control characters and our own markers in names are shown, not acted on."""
    document = record(patched(tmp_path, "gguf"))
    definition = document["predicate"]["buildDefinition"]
    name = f"a`b|<img src=x>{END}\x1b[31m[c](http://evil.example)\n# loud.gguf"
    definition["externalParameters"]["source"] = name
    definition["internalParameters"]["edits"][0]["file"] = name
    document["subject"] = [{"name": name, "digest": {}}]

    card = model_card(None, document, base_ref=None, repo="me/<b>x</b>")

    _, body = parts(card)
    assert body.count(END) == body.count(BEGIN) == 1
    assert "\x1b" not in card
    assert "# me" not in card
    assert "# &lt;b&gt;" not in card  # only what stands behind the slash is the title
    opening = body.splitlines()[3]
    assert opening.startswith("``a`b\\|<img src=x>")
    assert "\\x1b[31m[c](http://evil.example)\\x0a# loud.gguf`` with" in opening


def test_large_tables_of_results_do_not_cost_the_licence() -> None:
    """A base's results go before anything is parsed, however many there are, and the other fields stay."""
    results = "model-index:\n- name: base\n" + "  - value: 1\n" * 40000
    matter, body = front_matter.split(f"---\ntags: [a]\n{results}license: mit\n---\nbody\n", ["model-index"])

    assert (matter, body) == ("tags: [a]\nlicense: mit\n", "body\n")


@pytest.mark.parametrize(
    "card",
    [
        "",
        "no front matter\n",
        "---\n",
        "---\n- a list\n---\nbody\n",
        "---\na: [unclosed\n---\nbody\n",
        "---\n{license: mit, tags: [a]}\n---\nbody\n",
        "---\ntags: &t [a]\nother: *t\n---\nbody\n",
        "---\na: !!python/object/apply:os.system ['false']\n---\nbody\n",
        f"{BEGIN}\nunclosed\n",
        f"---\n{'[' * 3000}\n---\nbody\n",
        "\ufeff---\r\nlicense: mit\r\n---\r\nbody\r\n",
    ],
)
def test_odd_cards(card: str, tmp_path: Path) -> None:
    """Cards without, with broken and with hostile front matter come out as cards that can be read."""
    made = model_card(card, record(patched(tmp_path)), base_ref="org/base", repo="me/base-1k")

    matter, body = parts(made)
    assert matter["base_model"] == "org/base"
    assert matter["tags"][-3:] == ["ropepatch", "long-context", "yarn"]
    assert "body" not in card or body.endswith("body\n")
    assert "license: mit" not in card or matter["license"] == "mit"


def test_another_document_is_refused() -> None:
    """A document that is no manifest is one clear error."""
    with pytest.raises(InputError, match="is not a ropepatch manifest"):
        model_card(None, {"schema": "something"}, base_ref=None, repo="me/x")


def test_command_writes_over_nothing_but_its_own(tmp_path: Path) -> None:
    """-o brings the card of the folder up to date, and refuses a file that it did not make."""
    output = patched(tmp_path)
    readme = output / "README.md"
    readme.write_text(BASE)
    stranger = tmp_path / "notes.md"
    stranger.write_text("mine\n")

    first = run("card", output, "-o", readme, "--base-ref", "org/base", "--repo", "me/base-1k")
    again = run("card", output, "-o", readme, "--base-ref", "org/base", "--repo", "me/base-1k", "--json")
    refused = run("card", output, "-o", stranger)

    assert (first.code, first.out) == (0, f"wrote  {readme}\n")
    assert again.document["card"] == readme.read_text()
    assert readme.read_text().count(BEGIN) == 1
    assert "# The base" in readme.read_text()
    assert refused.code == 5
    assert stranger.read_text() == "mine\n"
    assert run("card", tmp_path / "model").code == 3
    assert run("card", output, "--base-ref", "nobody").code == 2
