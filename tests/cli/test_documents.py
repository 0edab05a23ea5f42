"""Every JSON document that a command prints validates against its schema."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from ropepatch import schemas
from ropepatch.methods import REGISTRY
from tests.support.command import Ended
from tests.support.command import inside as ropepatch


def validate(document: object, name: str) -> None:
    assert isinstance(document, dict)
    assert document["schema"] == f"ropepatch.{name}/1"
    schemas.validator(name).validate(document)


def printed(ended: Ended, code: int = 0) -> dict[str, object]:
    assert ended.code == code, ended.err
    assert ended.err == ""
    document: dict[str, object] = ended.document
    return document


@pytest.mark.parametrize("name", schemas.names())
def test_schemas_are_schemas(name: str) -> None:
    """Each schema is valid JSON Schema 2020-12 and is found under its own name."""
    schema = schemas.load(name)

    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:ropepatch:schema:{name}:1"


def test_schema_refuses_what_it_does_not_know(model: Path) -> None:
    """A member that the schema does not name makes a profile invalid."""
    document = ropepatch("inspect", model, "--json").document
    document["groups"]["default"]["rope_thata"] = 1.0

    assert not schemas.validator("rope-profile").is_valid(document)


@pytest.mark.parametrize("kind", ["model", "folder"])
def test_inspect(kind: str, request: pytest.FixtureRequest) -> None:
    """inspect prints the profile with a summary of each group's frequencies."""
    document = printed(ropepatch("inspect", request.getfixturevalue(kind), "--json"))

    validate(document, "rope-profile")
    assert document["declared_context"] == 2048
    assert document["frequencies"]["default"]["pairs"] == 32  # type: ignore[index]
    assert document["frequencies"]["default"]["first"] == 1.0  # type: ignore[index]


def test_freqs(model: Path) -> None:
    """freqs prints each pair's frequency, and the length that was asked for."""
    document = printed(ropepatch("freqs", model, "--length", 4096, "--json"))

    validate(document, "freqs")
    assert document["length"] == 4096
    assert len(document["groups"]["default"]["inv_freq"]) == 32  # type: ignore[index]


def test_methods() -> None:
    """methods lists the registry."""
    document = printed(ropepatch("methods", "--json"))

    validate(document, "methods")
    assert [entry["name"] for entry in document["methods"]] == list(REGISTRY)  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", REGISTRY)
def test_explain(method: str) -> None:
    """explain has a document for each method, parameters with types among it."""
    from ropepatch.report import catalogue

    document = json.loads(json.dumps(catalogue.explain(method)))

    validate(document, "explain")
    assert {item["name"] for item in document["parameters"]} == {
        field.name for field in dataclasses.fields(REGISTRY[method])
    }


@pytest.mark.parametrize("name", ["gamma", "cost", "verdict"])
def test_explain_topics(name: str) -> None:
    """The plan's topics have documents of their own, and a text with every formula for people."""
    document = printed(ropepatch("explain", name, "--json"))
    text = ropepatch("explain", name, env={"COLUMNS": "400"}).out

    validate(document, "topic")
    for item in document["formulas"]:  # type: ignore[attr-defined]
        assert item["formula"] in text


@pytest.mark.parametrize("kind", ["model", "folder"])
def test_plan(kind: str, request: pytest.FixtureRequest) -> None:
    """plan prints what it would do; the command that it names does it."""
    path: Path = request.getfixturevalue(kind)
    document = printed(ropepatch("plan", path, "--length", 8192, "--json"))

    validate(document, "plan")
    assert document["verdict"] == "USABLE-WITH-CARE"
    command = str(document["command"]).split()
    assert command[:2] == ["ropepatch", "apply"]
    patch = printed(ropepatch(*command[1:], "--dry-run", "--json"))
    assert patch["after"]["declared_context"] == 8192  # type: ignore[index]
    assert patch["method"] == document["subject"]


def test_plan_exits_with_one_when_it_degrades(model: Path) -> None:
    """A verdict of DEGRADES is a finding: exit code 1, with the whole document all the same."""
    document = printed(ropepatch("plan", model, "--length", 8192, "--method", "none", "--json"), code=1)

    validate(document, "plan")
    assert document["verdict"] == "DEGRADES"


def test_target_gamma(folder: Path) -> None:
    """apply --method theta --target-gamma writes the designed base, and its record says what it rests on.

    γ 0.5 asks for less than the geometry does: a fifth of the angles stays unseen, and plan says DEGRADES.
    """
    planned = printed(ropepatch("plan", folder, "--length", 16384, "--target-gamma", 0.5, "--json"), code=1)
    patch = printed(ropepatch(*str(planned["command"]).split()[1:], "--dry-run", "--json"))

    base = planned["gamma"]["theta_design"]  # type: ignore[index]
    assert patch["parameters"]["default"] == {"method": "theta", "rope_theta": round(base)}  # type: ignore[index]
    assert any("heuristic" in note for note in patch["notes"])  # type: ignore[attr-defined]


def test_explain_prints_it() -> None:
    """The command prints the document of the method."""
    document = printed(ropepatch("explain", "yarn", "--json"))

    validate(document, "explain")
    assert document["name"] == "yarn"


@pytest.mark.parametrize("kind", ["model", "folder"])
def test_dry_run(kind: str, request: pytest.FixtureRequest) -> None:
    """apply --dry-run prints the patch and writes nothing."""
    path: Path = request.getfixturevalue(kind)
    document = printed(ropepatch("apply", "--method", "yarn", "--factor", 4, path, "--dry-run", "--json"))

    validate(document, "patch")
    assert document["after"]["declared_context"] == 8192  # type: ignore[index]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["model", "folder"])
def test_apply_and_revert(kind: str, request: pytest.FixtureRequest) -> None:
    """apply prints the output and its manifest, which stands beside it; revert prints what it restored."""
    path: Path = request.getfixturevalue(kind)
    document = printed(ropepatch("apply", "--method", "yarn", "--factor", 4, path, "--json"))

    validate(document, "apply")
    manifest = json.loads(Path(str(document["manifest_path"])).read_text("utf-8"))
    validate(manifest, "manifest")
    assert manifest == document["manifest"]

    restored = printed(ropepatch("revert", document["output"], "--json"))

    validate(restored, "revert")
    one, two = (p if p.is_file() else p / "config.json" for p in (path, Path(str(restored["output"]))))
    assert one.read_bytes() == two.read_bytes()


def test_second_patch_in_place_keeps_the_first_manifest(model: Path) -> None:
    """A manifest that holds an earlier one validates as well."""
    ropepatch("apply", "--method", "yarn", "--factor", 4, model, "--in-place")
    again = ("apply", "--method", "linear", "--factor", 2, "--existing", "replace", model, "--in-place", "--json")
    document = printed(ropepatch(*again))

    validate(document, "apply")
    inner = document["manifest"]["predicate"]["buildDefinition"]["internalParameters"]  # type: ignore[index]
    assert inner["ropepatch_previous"]["schema"] == "ropepatch.manifest/1"


def test_diff(model: Path) -> None:
    """diff prints both levels and exits with 1 when the effect differs."""
    ropepatch("apply", "--method", "yarn", "--factor", 4, model, "-o", model.with_name("b.gguf"))
    document = printed(ropepatch("diff", model, model.with_name("b.gguf"), "--json"), code=1)

    validate(document, "diff")
    assert (document["identical"], document["equivalent"], document["same_contexts"]) == (False, False, False)


def test_replay(model: Path) -> None:
    """replay prints the patch for the sibling, or the manifest of what it wrote, equal to a patch of its own."""
    sibling = model.with_name("sibling.gguf")
    sibling.write_bytes(model.read_bytes())
    written = printed(ropepatch("apply", "--method", "yarn", "--factor", 4, model, "--json"))
    planned = printed(ropepatch("replay", written["manifest_path"], sibling, "--dry-run", "--json"))
    validate(planned, "patch")
    document = printed(ropepatch("replay", written["manifest_path"], sibling, "--json"))

    validate(document, "apply")
    assert Path(str(document["output"])).name == "sibling-yarn-4x.gguf"
    assert Path(str(document["output"])).read_bytes() == Path(str(written["output"])).read_bytes()


def test_printed_patch_can_be_applied(model: Path) -> None:
    """What apply --dry-run --json printed does, given back to apply, what apply would have done."""
    plan = ropepatch("apply", "--method", "linear", "--factor", 2, model, "--dry-run", "--json").out
    model.with_name("patch.json").write_text(plan, encoding="utf-8")
    direct = printed(ropepatch("apply", "--method", "linear", "--factor", 2, model, "--json"))
    output = model.with_name("by-patch.gguf")
    printed(ropepatch("apply", model.with_name("patch.json"), model, "-o", output, "--json"))

    assert output.read_bytes() == Path(str(direct["output"])).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["inspect", "missing.gguf"], 3),
        (["inspect"], 2),
        (["no-such-command"], 2),
        (["apply", "--method", "yran", "--factor", "4", "missing.gguf"], 2),
        (["apply", "--factor", "four", "missing.gguf"], 2),
        (["apply", "--existing", "maybe", "missing.gguf"], 2),
        (["apply", "--method", "yarn", "--target-gamma", "0.5", "--length", "8192", "MODEL"], 2),
        (["apply", "--method", "theta", "--target-gamma", "0.5", "MODEL"], 2),
        (["apply", "--method", "theta", "--target-gamma", "2", "--length", "8192", "MODEL"], 2),
        (["apply", "--method", "theta", "--target-gamma", "0.1", "--length", "2048", "MODEL"], 2),
        (["plan", "MODEL"], 2),
        (["plan", "missing.gguf", "--length", "8192"], 3),
    ],
)
def test_errors_are_documents_too(arguments: list[str], code: int, tmp_path: Path, model: Path) -> None:
    """With --json an error is one JSON object on stderr, and nothing is on stdout."""
    ended = ropepatch(*(model if item == "MODEL" else item for item in arguments), "--json", cwd=tmp_path)

    assert (ended.code, ended.out) == (code, "")
    validate(ended.error, "error")
    assert ended.error["exit_code"] == code


def test_hostile_metadata_stays_json(hostile: Path) -> None:
    """Whatever a file says comes out as plain ASCII JSON with the value kept."""
    ended = ropepatch("inspect", hostile, "--json")

    assert ended.out.isascii()
    validate(ended.document, "rope-profile")
    assert "[bold]loud[/bold]" in next(iter(ended.document["unrecognised"].values()))
