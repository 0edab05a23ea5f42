"""The GGUF scanner and its splices against the gguf library's reader, on random files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFEndian, GGUFReader, GGUFValueType, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from ropepatch.containers import gguf, gguf_rewrite
from ropepatch.errors import InputError
from ropepatch.storage.files import write_spliced
from ropepatch.storage.splice import Splice, invert
from tests.support import raw_gguf as raw
from tests.support.strategies import GgufFile, gguf_files, gguf_values, key_names

Array = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One folder for all examples of a property."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def values_of(shape: tuple[int, ...], seed: int) -> Array:
    """Random numbers that belong to a tensor."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write(path: Path, content: GgufFile) -> Path:
    """The file by the gguf library's own writer, then cut and relabelled as the content says."""
    path.unlink(missing_ok=True)
    writer = GGUFWriter(path, "llama", endianess=GGUFEndian.BIG if content.big else GGUFEndian.LITTLE)
    if content.alignment is not None:
        writer.add_custom_alignment(content.alignment)
    for name, (kind, value) in content.keys.items():
        if kind == "ARRAY":
            writer.add_key_value(name, value[1], GGUFValueType.ARRAY, sub_type=GGUFValueType[value[0]])
        else:
            writer.add_key_value(name, value, GGUFValueType[kind])
    for index, (name, shape) in enumerate(content.tensors.items()):
        writer.add_tensor(name, values_of(shape, index))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = bytearray(path.read_bytes())
    data[4:8] = content.version.to_bytes(4, "big" if content.big else "little")
    path.write_bytes(bytes(data))
    if content.tensors and content.unpadded:
        header = gguf.scan(path)
        end = max(header.data_offset + info.offset + info.size for info in header.tensors.values())
        path.write_bytes(bytes(data[:end]))
    elif content.trailing:
        path.write_bytes(bytes(data) + content.trailing)
    return path


def read(path: Path) -> tuple[dict[str, tuple[str, Any]], dict[str, Array]]:
    """Keys with their types, and tensors, as the gguf library reads them; copied, so that the file is let go."""
    reader = GGUFReader(path)
    keys = {}
    for name, field in reader.fields.items():
        if name.startswith("GGUF."):
            continue
        kind = field.types[0].name
        keys[name] = (kind, (field.types[1].name, field.contents())) if kind == "ARRAY" else (kind, field.contents())
    tensors = {
        t.name: np.array(t.data, dtype=np.float32).reshape([int(n) for n in t.shape[::-1]]) for t in reader.tensors
    }
    return keys, tensors


def comparable(keys: dict[str, tuple[str, Any]]) -> dict[str, tuple[str, Any]]:
    """Single precision as the file keeps it."""

    def single(kind: str, value: Any) -> Any:
        return float(np.float32(value)) if kind == "FLOAT32" else value

    out = {}
    for name, (kind, value) in keys.items():
        if kind == "ARRAY":
            out[name] = (kind, (value[0], [single(value[0], item) for item in value[1]]))
        else:
            out[name] = (kind, single(kind, value))
    return out


@given(gguf_files())
def test_scan_sees_what_the_library_sees(folder: Path, content: GgufFile) -> None:
    """Keys, types, values, alignment, tensor shapes and tensor bytes are those of the gguf library, in file order."""
    path = write(folder / "m.gguf", content)
    header = gguf.scan(path)
    keys, tensors = read(path)
    assert header.version == content.version
    assert header.endian == (">" if content.big else "<")
    assert header.alignment == (content.alignment or 32)
    assert list(header.keys) == list(keys)
    assert {name: header.type_of(name) for name in header.keys} == {name: kind for name, (kind, _) in keys.items()}
    for name, (kind, value) in keys.items():
        if kind == "ARRAY":
            assert header.get(name).count == len(value[1])
            if value[0] != "STRING":
                assert header.array(name) == value[1]
        else:
            assert header.get(name) == value
    assert list(header.tensors) == list(tensors)
    for name, data in tensors.items():
        np.testing.assert_array_equal(header.read_f32(name), data)
        np.testing.assert_array_equal(data, values_of(content.tensors[name], list(content.tensors).index(name)))


@st.composite
def changes(draw: st.DrawFn, content: GgufFile) -> tuple[dict[str, tuple[str, Any] | None], dict[str, Array]]:
    """Keys set, deleted and added, tensors replaced and added, in any combination."""
    keys: dict[str, tuple[str, Any] | None] = {}
    for name in content.keys:
        action = draw(st.sampled_from(["keep", "delete", "set"]))
        if action != "keep":
            keys[name] = None if action == "delete" else draw(gguf_values())
    for name in draw(st.lists(key_names(), max_size=3)):
        if name not in content.keys:
            keys[name] = draw(st.one_of(st.none(), gguf_values()))
    tensors = {}
    for name, shape in content.tensors.items():
        if draw(st.booleans()):
            tensors[name] = values_of(shape, draw(st.integers(100, 200)))
    for index in range(draw(st.integers(0, 2))):
        tensors[f"added.{index}"] = values_of((draw(st.integers(1, 40)),), 300 + index)
    return keys, tensors


@settings(max_examples=150)
@given(st.data(), gguf_files())
def test_splices_change_what_is_asked_and_nothing_else(folder: Path, data: st.DataObject, content: GgufFile) -> None:
    """After any edits the library reads the new values, every other key, tensor and trailing byte, and it inverts; a
    block size moves the data by whole blocks."""
    keys, tensors = data.draw(changes(content))
    source, target, back = folder / "source.gguf", folder / "target.gguf", folder / "back.gguf"
    write(source, content)
    before = source.read_bytes()
    old_keys, old_tensors = read(source)
    block = data.draw(st.sampled_from([0, 512, 4096]))
    old_header = gguf.scan(source)
    splices = gguf_rewrite.splices(old_header, keys, tensors, block=block)
    for path in (target, back):
        path.unlink(missing_ok=True)
    write_spliced(source, target, splices)

    new_keys, new_tensors = read(target)
    padding = new_keys.pop(gguf_rewrite.PAD, None)
    assert block or padding is None
    wanted = {k: v for k, v in {**old_keys, **keys}.items() if v is not None}
    assert comparable(new_keys) == comparable(wanted)
    assert list(new_keys) == list(wanted)
    assert list(new_tensors) == list({**old_tensors, **tensors})
    for name, value in {**old_tensors, **tensors}.items():
        np.testing.assert_array_equal(new_tensors[name], value)
    header = gguf.scan(target)  # our own scanner refuses offsets that are not cumulative
    assert header.version == content.version
    assert header.data_offset % header.alignment == 0
    if block and old_tensors:
        assert (header.data_offset - old_header.data_offset) % block == 0
    assert target.read_bytes().endswith(content.trailing)
    if any(name not in old_tensors for name in tensors):
        assert len(target.read_bytes()) - len(content.trailing) == header.data_offset + header.data_size

    assert source.read_bytes() == before
    write_spliced(target, back, invert(splices))
    assert back.read_bytes() == before
    assert [Splice.from_json(s.to_json()) for s in splices] == splices


def test_the_padding_of_one_change_is_the_room_of_the_next(tmp_path: Path) -> None:
    """The first change makes room for a block, later ones and their undoing move nothing until it is used up."""
    path = write(tmp_path / "m.gguf", GgufFile({}, {"t.a": (3,)}))
    start = gguf.scan(path).data_offset
    for number, moved in enumerate((4096, 4096, 4096, 8192)):
        change = {f"new.{number}": ("STRING", "x" * 1300)}
        splices = gguf_rewrite.splices(gguf.scan(path), change, {}, block=4096)
        write_spliced(path, path, splices, overwrite=True)
        assert gguf.scan(path).data_offset == start + moved
    delete = dict.fromkeys(f"new.{number}" for number in range(4))
    write_spliced(path, path, gguf_rewrite.splices(gguf.scan(path), delete, {}, block=4096), overwrite=True)
    assert gguf.scan(path).data_offset == start + 8192
    write_spliced(path, path, gguf_rewrite.splices(gguf.scan(path), {"one.more": ("UINT32", 1)}, {}), overwrite=True)
    assert gguf.scan(path).data_offset == start + 8192
    assert set(read(path)[0]) == {"general.architecture", "one.more", gguf_rewrite.PAD}


@given(gguf_files())
def test_no_change_means_no_splice(folder: Path, content: GgufFile) -> None:
    """Setting a key to what it is, deleting one that is not there, writing a tensor as it is: nothing to do."""
    header = gguf.scan(write(folder / "m.gguf", content))
    same = {name: value for name, value in content.keys.items() if value[0] != "ARRAY"}
    tensors = {name: header.read_f32(name) for name in header.tensors}
    assert gguf_rewrite.splices(header, {**same, "not.there": None}, tensors) == []


@pytest.mark.parametrize("endian", ["<", ">"])
def test_a_deletion_as_long_as_an_added_tensor_record_still_aligns(tmp_path: Path, endian: str) -> None:
    """A header that keeps its length by chance gets the padding that its new tensor needs, though it had none."""
    record = raw.tensor("rope_freqs.weight", [4], endian=endian)
    filler = raw.key("x", raw.STRING, b"", endian)
    filler = raw.key("x", raw.STRING, raw.text("y" * (len(record) - len(filler) - 8), endian), endian)
    assert len(filler) == len(record)
    path = tmp_path / "m.gguf"
    arch = raw.key("general.architecture", raw.STRING, raw.text("llama", endian), endian)
    path.write_bytes(raw.Parts(keys=[arch, filler], endian=endian, alignment=1).build())
    header = gguf.scan(path)
    assert header.infos_end == header.size
    assert header.data_offset > header.size
    factors = np.array([1, 2, 3, 4], np.float32)
    splices = gguf_rewrite.splices(header, {"x": None}, {"rope_freqs.weight": factors})
    write_spliced(path, tmp_path / "out.gguf", splices)
    np.testing.assert_array_equal(gguf.scan(tmp_path / "out.gguf").read_f32("rope_freqs.weight"), factors)
    np.testing.assert_array_equal(read(tmp_path / "out.gguf")[1]["rope_freqs.weight"], factors)


@pytest.mark.parametrize("value", [None, ("UINT32", 64)])
def test_the_alignment_is_not_changed(tmp_path: Path, value: tuple[str, Any] | None) -> None:
    """Changing `general.alignment` would put every tensor at a wrong offset: refused."""
    path = write(tmp_path / "m.gguf", GgufFile({}, {"t.a": (3,), "t.b": (5,)}, alignment=32))
    with pytest.raises(InputError, match=r"general\.alignment"):
        gguf_rewrite.splices(gguf.scan(path), {"general.alignment": value}, {})


def test_tensors_keep_type_and_shape(tmp_path: Path) -> None:
    """A replacement of another shape is refused, since everything behind it would move."""
    path = write(tmp_path / "m.gguf", GgufFile({}, {"t.a": (3,)}))
    with pytest.raises(InputError, match=r"tensor t\.a is not F32 of shape \(4,\)"):
        gguf_rewrite.splices(gguf.scan(path), {}, {"t.a": np.ones(4, np.float32)})


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("UINT32", -1),
        ("UINT32", 2**32),
        ("UINT8", 256),
        ("INT32", 2**31),
        ("FLOAT32", 1e39),
        ("UINT32", 1.5),
        ("BOOL", None),
    ],
)
def test_values_that_do_not_fit_their_type_are_refused(tmp_path: Path, kind: str, value: Any) -> None:
    """A number outside its type's range is refused with the key's name, never wrapped round."""
    header = gguf.scan(write(tmp_path / "m.gguf", GgufFile({}, {})))
    with pytest.raises(InputError, match="does not fit the type"):
        gguf_rewrite.splices(header, {"llama.context_length": (kind, value)}, {})


def test_a_long_array_is_not_read(tmp_path: Path) -> None:
    """An array beyond the limit is not turned into a list; its place and length are known all the same."""
    path = write(tmp_path / "m.gguf", GgufFile({"a": ("ARRAY", ("INT32", list(range(100))))}, {}))
    header = gguf.scan(path)
    assert header.array("a", limit=99) is None
    assert header.array("a", limit=100) == list(range(100))
    assert header.array("not.there") is None
    assert header.array("general.architecture") is None
