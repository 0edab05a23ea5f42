"""What the test Hub keeps: repositories, commits and objects; large files lie in hf_xet's own local store or as files.

The bookkeeping is this project's; chunking, deduplication and reconstruction of large files are done by the real Xet
client (`local://` is the store that its own tests use).
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: what the Hub keeps as large files, by name; everything else is a file of git
LARGE = (".safetensors", ".gguf", ".bin", ".pth", ".pt")
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Entry:
    """A file of a commit: `data` for git's own, `sha256` (and `xet`) for large ones."""

    size: int
    oid: str
    data: bytes | None = None
    sha256: str | None = None
    xet: str | None = None

    def document(self, path: str) -> dict[str, object]:
        """As the Hub lists it."""
        listed: dict[str, object] = {"type": "file", "path": path, "size": self.size, "oid": self.oid}
        if self.sha256:
            listed["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": 134}
        if self.xet:
            listed["xetHash"] = self.xet
        return listed


@dataclass
class Repo:
    """A repository: branches to commits, commits to files."""

    name: str
    private: bool = False
    gated: bool = False
    region: str = "us"
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, Entry]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    #: sha256 of large files that the repository may name in a commit
    owns: set[str] = field(default_factory=set)
    pulls: int = 0

    def commit_of(self, revision: str) -> str | None:
        """The commit that a branch or a commit's own name stands for."""
        return self.branches.get(revision, revision if revision in self.commits else None)

    def add(self, branch: str, files: dict[str, Entry], message: str) -> str:
        """A new commit at the head of ``branch``."""
        seed = f"{self.name}/{branch}/{len(self.commits)}/{message}"
        sha = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[sha], self.messages[sha] = files, message
        self.branches[branch] = sha
        return sha


class Store:
    """All repositories and objects of one test Hub, below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cas = root / "cas"
        self.cas.mkdir(parents=True)
        (root / "lfs").mkdir()
        self.repos: dict[str, Repo] = {}
        self.files: dict[str, Path] = {}
        self.lock = threading.RLock()
        self._count = itertools.count()
        self.machine = self.cas

    @property
    def cas_url(self) -> str:
        """Where hf_xet finds the store, seen from the machine that is the client now."""
        return f"local://{self.machine}"

    def another_machine(self) -> None:
        """From now on clients are on a machine that has never sent or fetched anything.

        hf_xet keeps what a machine knows (lists of chunks, notes of uploads) beside a local store. So each machine sees
        the same store from a folder of its own; the first is the one that :meth:`seed` works on.
        """
        self.machine = self.root / f"machine-{next(self._count)}"
        (self.machine / "xet").mkdir(parents=True)
        (self.machine / "xet" / "xorbs").symlink_to(self.cas / "xet" / "xorbs", target_is_directory=True)

    def broken_off(self, file: Path, size: int) -> None:
        """The client's machine began to send a file and broke off after ``size`` bytes.

        The blocks have arrived and no list names them, and the machine has its notes of them. hf_xet writes these every
        20 s and does not remove them when such an upload ends well. They are made here in a store of their own.
        """
        import hf_xet

        other = self.root / f"broken-off-{next(self._count)}"
        config = hf_xet.XetConfig().with_config("data.session_xorb_metadata_flush_interval", "0s")
        commit = hf_xet.XetSession(config).new_upload_commit(endpoint=f"local://{other}")
        with open(file, "rb") as stream:
            commit.start_upload_bytes(stream.read(size)).result()
        commit.wait_to_finish()
        for kept, machine in (("shard-session/xorb_metadata", self.machine), ("xorbs/xorbs", self.cas)):
            shutil.copytree(other / "xet" / kept, machine / "xet" / kept, dirs_exist_ok=True)

    def listing(self, chunk: str) -> bytes | None:
        """The list that has a chunk, as a server of chunks tells it."""
        wanted = struct.pack("<4Q", *(int(chunk[n : n + 16], 16) for n in range(0, 64, 16)))
        lists = (path.read_bytes() for path in (self.cas / "xet" / "xorbs" / "shards").glob("*.mdb"))
        return next((data for data in lists if wanted in data), None)

    def keep(self, kind: str, name: str, data: bytes) -> None:
        """Keep a block of chunks or a list that came by HTTP; lists are known by other names than the store's own."""
        folder = self.cas / "xet" / "xorbs" / kind
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)

    def cas_bytes(self) -> int:
        """What clients have put into the store of chunks: the blocks, and the lists of what is in them."""
        kept = self.cas / "xet" / "xorbs"
        found = (path for folder in ("xorbs", "shards") for path in (kept / folder).rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in found)

    def seed(self, name: str, files: dict[str, bytes | Path], **options: object) -> Repo:
        """A repository that is there from the beginning; large files go into both stores."""
        repo = self.repos.setdefault(name, Repo(name, **options))  # type: ignore[arg-type]
        entries = dict(repo.commits.get(repo.branches.get("main", ""), {}))
        for path, content in files.items():
            entries[path] = self._seeded(repo, path, content)
        repo.add("main", entries, "initial commit")
        return repo

    def sparse(self, name: str, path: str, file: Path) -> Repo:
        """Add a file to a repository as it lies on disk, with a digest that nobody has computed: it may be sparse."""
        repo = self.repos.setdefault(name, Repo(name))
        sha256 = hashlib.sha256(str(file).encode()).hexdigest()
        self.files[sha256] = file
        repo.owns.add(sha256)
        entries = dict(repo.commits.get(repo.branches.get("main", ""), {}))
        entries[path] = Entry(file.stat().st_size, pointer_oid(sha256, file.stat().st_size), sha256=sha256)
        repo.add("main", entries, "initial commit")
        return repo

    def _seeded(self, repo: Repo, path: str, content: bytes | Path) -> Entry:
        if not path.endswith(LARGE):
            data = content if isinstance(content, bytes) else content.read_bytes()
            return Entry(len(data), blob_oid(data), data)
        if isinstance(content, bytes):
            file = self.root / "lfs" / f"seed-{next(self._count)}"
            file.write_bytes(content)
        else:
            file = content
        import hf_xet

        commit = hf_xet.XetSession().new_upload_commit(endpoint=f"local://{self.cas}")
        handle = commit.start_upload_file(str(file))
        commit.wait_to_finish()
        info = handle.result().xet_info
        self.files[info.sha256] = file
        repo.owns.add(info.sha256)
        return Entry(info.file_size, pointer_oid(info.sha256, info.file_size), sha256=info.sha256, xet=info.hash)

    def large(self, sha256: str) -> Entry | None:
        """A large file that has arrived by either way."""
        xet = xet_hashes(self.cas).get(sha256)
        if sha256 in self.files:
            size = self.files[sha256].stat().st_size
        elif xet is not None:
            size = xet[1]
        else:
            return None
        return Entry(size, pointer_oid(sha256, size), sha256=sha256, xet=xet[0] if xet else None)

    def read(self, entry: Entry, start: int, end: int) -> Iterator[bytes]:
        """The bytes of a file from ``start`` to ``end``."""
        if entry.data is not None:
            yield entry.data[start:end]
            return
        assert entry.sha256 is not None
        file = self.files.get(entry.sha256)
        if file is not None:
            with open(file, "rb") as stream:
                stream.seek(start)
                while start < end and (block := stream.read(min(_BLOCK, end - start))):
                    start += len(block)
                    yield block
            return
        import hf_xet

        group = hf_xet.XetSession().new_download_stream_group(endpoint=self.cas_url)
        yield from group.download_stream(hf_xet.XetFileInfo(entry.xet, entry.size), start=start, end=end)

    def receive(self, sha256: str, blocks: Iterator[bytes]) -> bool:
        """Keep an LFS upload; False when its bytes are others than its name says."""
        digest, file = hashlib.sha256(), self.root / "lfs" / f"put-{next(self._count)}"
        with open(file, "wb") as stream:
            for block in blocks:
                digest.update(block)
                stream.write(block)
        if digest.hexdigest() != sha256:
            os.unlink(file)
            return False
        self.files[sha256] = file
        return True


def blob_oid(data: bytes) -> str:
    """git's name for a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def pointer_oid(sha256: str, size: int) -> str:
    """git's name for the text that stands in for a large file."""
    return blob_oid(f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode())


def xet_hashes(cas: Path) -> dict[str, tuple[str, int]]:
    """sha256 to Xet hash and size of every file whose record lies in the store's shards."""
    found: dict[str, tuple[str, int]] = {}
    for shard in cas.rglob("*.mdb"):
        data = shard.read_bytes()
        at = 48
        while at + 48 <= len(data) and data[at : at + 32] != b"\xff" * 32:
            flags, count = struct.unpack_from("<II", data, at + 32)
            size = sum(struct.unpack_from("<I", data, at + 48 * (1 + n) + 36)[0] for n in range(count))
            rest = at + 48 * (1 + count * (2 if flags >> 31 & 1 else 1))
            if flags >> 30 & 1:
                found[_words(data[rest : rest + 32])] = (_words(data[at : at + 32]), size)
                rest += 48
            at = rest
    return found


def _words(data: bytes) -> str:
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", data))
