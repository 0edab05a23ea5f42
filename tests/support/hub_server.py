"""A Hub on the loopback: the JSON that the unmodified huggingface_hub client speaks, in front of :mod:`hub_store`.

It counts requests and bytes, can be told to fail (`Fault`), and knows private and gated repositories and tokens that
may only read. Large files are handed out as the real one does it: by a redirect to another host, with ranges.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.hub_store import Entry, Repo, Store, blob_oid

#: token to user; a reader's token may not write
TOKENS = {"hf_testwriter0000000000000000000001": "org", "hf_testreader0000000000000000000002": "reader"}
WRITER, READER = TOKENS
#: what a job proves itself with, and the token that it gets for its identity
JOB, EXCHANGED = "job-request-token", "hf_jwt_test0000000000000000000000003"
TOKENS[EXCHANGED] = "org"


@dataclass(frozen=True)
class Request:
    """One request that was answered."""

    method: str
    path: str
    range: str | None
    status: int
    sent: int
    received: int


@dataclass
class Fault:
    """What goes wrong with requests that match; `cut` ends the connection after that many bytes of the answer."""

    method: str
    path: str
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "injected"
    times: int = 1
    cut: int | None = None
    #: answer ranges with the whole file, as a server without ranges does
    whole: bool = False
    #: what happens just before the request is answered as ever
    act: Callable[[], object] | None = None


class Refused(Exception):
    """An answer that is an error, with the Hub's own header for its kind."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class HubServer:
    """The server; `store` is what it holds, `log` what it was asked."""

    def __init__(self, root: Path) -> None:
        self.store = Store(root)
        self.log: list[Request] = []
        self.faults: list[Fault] = []
        self._chunks = 0
        #: chunks come by HTTP to this server, as they do to the real one; they cannot be read back then
        self.wire = False
        server = self

        class Bound(_Handler):
            hub = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Bound)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._http.server_close()

    def reset(self) -> None:
        """Forget what was asked and what shall fail; repositories stay."""
        self.log.clear()
        self.faults.clear()

    def fail(self, method: str, path: str, status: int = 500, **options: Any) -> None:
        """Make the next requests fail whose method and path (a pattern) match."""
        self.faults.append(Fault(method, path, status, **options))

    def asked(self, pattern: str) -> list[Request]:
        """The requests whose `METHOD path` matches."""
        return [one for one in self.log if re.search(pattern, f"{one.method} {one.path}")]

    @property
    def sent(self) -> int:
        """Bytes of all answers since the last reset."""
        return sum(one.sent for one in self.log)

    @property
    def received(self) -> int:
        """Bytes of all requests since the last reset."""
        return sum(one.received for one in self.log)

    def traffic(self) -> dict[str, int]:
        """What was asked since the last question, for the tool that writes the page about the Hub."""
        told = {"requests": len(self.log), "down": self.sent, "up": self.received}
        grown = self.store.cas_bytes()
        told["chunks"], self._chunks = grown - self._chunks, grown
        self.reset()
        return told

    def env(self, home: Path, token: str | None = WRITER, *, xet: bool = True) -> dict[str, str]:
        """What a client process needs to talk to this server and to nobody else."""
        found = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        found |= {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "", "HF_TOKEN": token or "", "DO_NOT_TRACK": "1"}
        return found | ({} if xet else {"HF_HUB_DISABLE_XET": "1"})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the log is for tests."""

    def _answer(self) -> None:
        self.path, _, query = self.path.partition("?")
        self.query = urllib.parse.parse_qs(query, keep_blank_values=True)
        self.sent, self.received, self.status = 0, 0, 0
        self._read = False
        fault = self._fault()
        try:
            if fault is not None and fault.act is not None:
                fault.act()
            elif fault is not None and fault.cut is None and not fault.whole:
                self._body()
                raise Refused(fault.status, fault.message, None)
            self._cut, self._whole = (fault.cut, fault.whole) if fault else (None, False)
            self._route()
        except Refused as error:
            headers = {"X-Error-Message": str(error), **({"X-Error-Code": error.code} if error.code else {})}
            headers |= fault.headers if fault else {}
            self._json({"error": str(error)}, error.status, headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        finally:
            got = self.headers.get("Range")
            with self.hub.store.lock:
                self.hub.log.append(Request(self.command, self.path, got, self.status, self.sent, self.received))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _answer

    def _fault(self) -> Fault | None:
        with self.hub.store.lock:
            for fault in self.hub.faults:
                if fault.times and re.search(fault.method, self.command) and re.search(fault.path, self.path):
                    fault.times -= 1
                    return fault
        return None

    def _blocks(self) -> Iterator[bytes]:
        """The body as it comes in."""
        if self._read:
            return
        self._read = True
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.received += size
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left and (block := self.rfile.read(min(left, 1 << 20))):
            left -= len(block)
            self.received += len(block)
            yield block

    def _body(self) -> bytes:
        return b"".join(self._blocks())

    def _json(self, document: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        for _ in self._blocks():
            pass
        data = json.dumps(document).encode()
        self._send(status, {"Content-Type": "application/json", **(headers or {})}, iter([data]), len(data))

    def _send(self, status: int, headers: dict[str, str], blocks: Iterator[bytes], size: int) -> None:
        self.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(size), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for block in blocks:
            cut = getattr(self, "_cut", None)
            if cut is not None and self.sent + len(block) > cut:
                self.wfile.write(block[: cut - self.sent])
                self.sent = cut
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.wfile.write(block)
            self.sent += len(block)

    @property
    def _user(self) -> str | None:
        return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def _repo(self, name: str, *, write: bool = False, content: bool = False) -> Repo:
        repo = self.hub.store.repos.get(name)
        if repo is None or (repo.private and self._user != name.split("/")[0]):
            raise Refused(404 if self._user else 401, "Repository not found", "RepoNotFound")
        if content and repo.gated and self._user != "org":
            raise Refused(403 if self._user else 401, "Access to this repository is restricted", "GatedRepo")
        if write and self._user != name.split("/")[0]:
            raise Refused(403 if self._user else 401, "You don't have the rights to write to this repository")
        return repo

    def _commit(self, repo: Repo, revision: str) -> str:
        sha = repo.commit_of(urllib.parse.unquote(revision))
        if sha is None:
            raise Refused(404, "Revision not found", "RevisionNotFound")
        return sha

    def _route(self) -> None:
        for method, pattern, handler in _ROUTES:
            if self.command in method and (match := re.fullmatch(pattern, self.path)):
                handler(self, **{key: urllib.parse.unquote(value) for key, value in match.groupdict().items() if value})
                return
        raise Refused(404, f"the test Hub has no {self.command} {self.path}")

    # reading

    def whoami(self) -> None:
        """Who the token belongs to."""
        if self._user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        self._json({"type": "user", "name": self._user, "orgs": [], "auth": {"type": "access_token"}})

    def id_token(self) -> None:
        """What GitHub gives a job that may have an identity: a token for an audience."""
        if self.headers.get("Authorization") != f"Bearer {JOB}":
            raise Refused(401, "not a job that may ask for an identity")
        self._json({"value": f"job for {self.query['audience'][0]}"})

    def exchange(self) -> None:
        """A job's identity for a short-lived token that may write to one repository (RFC 8693)."""
        asked = json.loads(self._body())
        wanted = {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
            "subject_token": f"job for {self.hub.endpoint}",
        }
        if {name: asked.get(name) for name in wanted} != wanted or asked.get("resource") not in self.hub.store.repos:
            raise Refused(400, "no trusted publisher")
        self._json({"access_token": EXCHANGED, "token_type": "bearer", "expires_in": 3600})

    def info(self, repo: str, rev: str = "main") -> None:
        """What is known of a repository at a revision."""
        found = self._repo(repo)
        sha = self._commit(found, rev)
        blobs = "blobs" in self.query
        files = []
        for path, entry in sorted(found.commits[sha].items()):
            listed: dict[str, Any] = {"rfilename": path}
            if blobs:
                listed |= {"size": entry.size, "blobId": entry.oid}
                if entry.sha256:
                    listed["lfs"] = {"sha256": entry.sha256, "size": entry.size, "pointerSize": 134}
            files.append(listed)
        document = {"id": repo, "modelId": repo, "sha": sha, "private": found.private, "tags": [], "siblings": files}
        self._json({**document, "gated": "manual" if found.gated else False, "disabled": False, "downloads": 0})

    def tree(self, repo: str, rev: str, path: str = "") -> None:
        """The files below a folder."""
        found = self._repo(repo, content=True)
        files = found.commits[self._commit(found, rev)]
        below = f"{path.strip('/')}/" if path.strip("/") else ""
        self._json([entry.document(name) for name, entry in sorted(files.items()) if name.startswith(below)])

    def paths_info(self, repo: str, rev: str) -> None:
        """What is known of some files."""
        found = self._repo(repo)
        files = found.commits[self._commit(found, rev)]
        wanted = urllib.parse.parse_qs(self._body().decode()).get("paths", [])
        listed = [files[path].document(path) for path in wanted if path in files]
        folders = [path for path in wanted if any(name.startswith(f"{path}/") for name in files)]
        self._json([*listed, *({"type": "directory", "path": p, "oid": "0" * 40, "size": 0} for p in folders)])

    def resolve(self, repo: str, rev: str, path: str) -> None:
        """A file: here when small, by a redirect when large."""
        found = self._repo(repo, content=True)
        sha = self._commit(found, rev)
        entry = found.commits[sha].get(path)
        if entry is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": sha, "ETag": f'"{entry.oid}"'}
        if entry.sha256 is None:
            self._file(entry, headers)
            return
        headers |= {"X-Linked-ETag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
        if entry.xet:
            token = f"{self.hub.endpoint}/api/models/{repo}/xet-read-token/{sha}"
            headers |= {"X-Xet-Hash": entry.xet, "Link": f'<{token}>; rel="xet-auth"'}
        signed = urllib.parse.quote(f"{repo}/{sha}/{path}", safe="")
        headers["Location"] = f"http://localhost:{self.hub.port}/cdn/{signed}"
        self._send(302, headers, iter(()), 0)

    def cdn(self, signed: str) -> None:
        """A large file's bytes; another host, which must never see a token."""
        if self.headers.get("Authorization"):
            raise Refused(400, "a token was sent to another host")
        org, name, sha, path = signed.split("/", 3)
        entry = self.hub.store.repos[f"{org}/{name}"].commits[sha][path]
        self._file(entry, {"ETag": f'"{entry.sha256}"'})

    def _file(self, entry: Entry, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        headers["Accept-Ranges"] = "bytes"
        if wanted is None or self._whole:
            self._send(200, headers, self.hub.store.read(entry, 0, entry.size), entry.size)
            return
        start = int(wanted[1])
        end = min(int(wanted[2]) + 1 if wanted[2] else entry.size, entry.size)
        if start >= entry.size:
            raise Refused(416, "Range not satisfiable")
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{entry.size}"
        self._send(206, headers, self.hub.store.read(entry, start, end), end - start)

    def xet_token(self, repo: str, rev: str, right: str) -> None:
        """Where chunks are kept, and the right to read or write there."""
        proposed = "create_pr" in self.query and rev == "None"
        self._repo(repo, write=right == "write" and not proposed, content=True)
        place = f"{self.hub.endpoint}/cas" if self.hub.wire else self.hub.store.cas_url
        token = {"accessToken": "cas", "exp": int(time.time()) + 3600, "casUrl": place}
        headers = {"X-Xet-Cas-Url": token["casUrl"], "X-Xet-Access-Token": "cas"}
        self._json(token, headers={**headers, "X-Xet-Token-Expiration": str(token["exp"])})

    # chunks

    def chunk(self, chunk: str) -> None:
        """Which chunks are known, told by one of them."""
        found = self.hub.store.listing(chunk)
        if found is None:
            raise Refused(404, "not a chunk that is known")
        self._send(200, {"Content-Type": "application/octet-stream"}, iter([found]), len(found))

    def block(self, name: str) -> None:
        """New chunks."""
        self.hub.store.keep("xorbs", f"default.{name}", self._body())
        self._json({"was_inserted": True})

    def shard(self) -> None:
        """The list of them, and what files they make."""
        data = self._body()
        self.hub.store.keep("shards", f"sent-{hashlib.sha256(data).hexdigest()}.mdb", data)
        self._json({"result": 1})

    # writing

    def create(self) -> None:
        """A new repository."""
        asked = json.loads(self._body())
        if self._user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        owner = asked.get("organization") or self._user
        name = f"{owner}/{asked['name']}"
        url = {"url": f"{self.hub.endpoint}/{name}", "name": name, "id": name}
        with self.hub.store.lock:
            if owner != self._user or self._user == "reader":
                raise Refused(403, f"You don't have the rights to create a model under the namespace {owner}")
            if name in self.hub.store.repos:
                self._json({**url, "error": "You already created this model repo"}, 409)
                return
            private = asked.get("private") or asked.get("visibility") == "private"
            repo = self.hub.store.repos[name] = Repo(name, private=bool(private))
            readme = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
            repo.add("main", {".gitattributes": Entry(len(readme), blob_oid(readme), readme)}, "initial commit")
        self._json(url)

    def branch(self, repo: str, branch: str) -> None:
        """A branch at a commit."""
        found = self._repo(repo, write=True)
        if branch in found.branches:
            raise Refused(409, f"Reference already exists: {branch}")
        start = json.loads(self._body() or b"{}").get("startingPoint") or "main"
        found.branches[branch] = self._commit(found, start)
        self._json({})

    def delete(self) -> None:
        """Remove a repository."""
        asked = json.loads(self._body())
        name = f"{asked.get('organization') or self._user}/{asked['name']}"
        self._repo(name, write=True)
        del self.hub.store.repos[name]
        self._json({})

    def delete_branch(self, repo: str, branch: str) -> None:
        """Remove a branch."""
        del self._repo(repo, write=True).branches[branch]
        self._json({})

    def validate(self) -> None:
        """A card's front matter."""
        text = json.loads(self._body())["content"]
        wrong = text.startswith("---") and "\n---" not in text[3:]
        errors = [{"message": "front matter does not end"}] if wrong else []
        self._json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def preupload(self, repo: str, rev: str) -> None:
        """Which of some files are large."""
        found = self._repo(repo, write="create_pr" not in self.query, content=True)
        files = found.commits[self._commit(found, rev)]
        answers = []
        for item in json.loads(self._body())["files"]:
            large = item["path"].endswith((".safetensors", ".gguf", ".bin", ".pth", ".pt")) or item["size"] > 10 << 20
            answer = {"path": item["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            old = files.get(item["path"])
            answers.append({**answer, **({"oid": old.sha256 or old.oid} if old else {})})
        self._json({"files": answers, "commitOid": self._commit(found, rev)})

    def batch(self, repo: str) -> None:
        """Where large files are to be sent."""
        self._repo(repo, content=True)
        objects = []
        for item in json.loads(self._body())["objects"]:
            answer: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
            if self.hub.store.large(item["oid"]) is None:
                answer["actions"] = {
                    "upload": {"href": f"{self.hub.endpoint}/lfs/{item['oid']}"},
                    "verify": {"href": f"{self.hub.endpoint}/lfs-verify"},
                }
            objects.append(answer)
        self._json({"transfer": "basic", "objects": objects}, headers={"Content-Type": "application/vnd.git-lfs+json"})

    def put(self, sha256: str) -> None:
        """A large file arrives."""
        if not self.hub.store.receive(sha256, self._blocks()):
            raise Refused(400, "other bytes than the name says")
        self._json({})

    def verify(self) -> None:
        """Whether a large file has arrived whole."""
        asked = json.loads(self._body())
        found = self.hub.store.large(asked["oid"])
        if found is None or found.size != asked["size"]:
            raise Refused(404, "not here")
        self._json({})

    def duplicate(self, repo: str) -> None:
        """Give another repository the right to name this one's large files."""
        source = self._repo(repo, content=True)
        asked = json.loads(self._body())
        target = self._repo(asked["target"]["name"], write=True)
        if source.region != target.region:
            raise Refused(400, "Source and target repositories must be in the same storage region")
        failed = []
        for item in asked["files"]:
            if item["sha256"] in source.owns:
                target.owns.add(item["sha256"])
            else:
                failed.append({"sha256": item["sha256"], "error": "not found"})
        self._json({"failed": failed})

    def commit(self, repo: str, rev: str) -> None:
        """One commit: all of it or nothing."""
        pull = "create_pr" in self.query
        found = self._repo(repo, write=not pull, content=True)
        with self.hub.store.lock:
            head = self._commit(found, rev)
            files, summary = dict(found.commits[head]), ""
            for line in self._body().splitlines():
                item = json.loads(line)
                value = item["value"]
                if item["key"] == "header":
                    summary = value["summary"]
                    if value.get("parentCommit") not in (None, head):
                        raise Refused(412, "A commit has happened since. Please refresh and try again.")
                elif item["key"] == "file":
                    data = base64.b64decode(value["content"])
                    files[value["path"]] = Entry(len(data), blob_oid(data), data)
                elif item["key"] == "lfsFile":
                    files[value["path"]] = self._named(found, value["oid"])
                elif item["key"] == "deletedFile":
                    files.pop(value["path"], None)
            branch = urllib.parse.unquote(rev)
            if pull:
                found.pulls += 1
                branch = f"refs/pr/{found.pulls}"
            sha = found.add(branch, files, summary)
        answer = {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{sha}"}
        pr = {"pullRequestUrl": f"{self.hub.endpoint}/{repo}/discussions/{found.pulls}"} if pull else {}
        self._json({**answer, **pr})

    def _named(self, repo: Repo, sha256: str) -> Entry:
        """A large file that a commit names: it must have arrived, or have been duplicated."""
        entry = self.hub.store.large(sha256)
        elsewhere = any(sha256 in other.owns for other in self.hub.store.repos.values())
        if entry is None or (sha256 not in repo.owns and elsewhere and not self._arrived(sha256)):
            raise Refused(400, f"LFS object {sha256} is not known to {repo.name}")
        repo.owns.add(sha256)
        return entry

    def _arrived(self, sha256: str) -> bool:
        """Whether a client sent these bytes (again), which gives it the right to name them."""
        return bool(self.hub.asked(r"GET .*/xet-write-token/|POST .*objects/batch"))


_R = r"(?P<repo>[^/]+/[^/]+)"
_ROUTES: tuple[tuple[str, str, Callable[..., None]], ...] = (
    ("GET", r"/api/whoami-v2", _Handler.whoami),
    ("GET", r"/ci/id-token", _Handler.id_token),
    ("POST", r"/oauth/token", _Handler.exchange),
    ("GET HEAD", rf"/api/models/{_R}", _Handler.info),
    ("GET HEAD", rf"/api/models/{_R}/revision/(?P<rev>[^/]+)", _Handler.info),
    ("GET", rf"/api/models/{_R}/tree/(?P<rev>[^/]+)(?P<path>/.*)?", _Handler.tree),
    ("POST", rf"/api/models/{_R}/paths-info/(?P<rev>[^/]+)", _Handler.paths_info),
    ("GET HEAD", rf"/{_R}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", _Handler.resolve),
    ("GET HEAD", r"/cdn/(?P<signed>.+)", _Handler.cdn),
    ("GET", rf"/api/models/{_R}/xet-(?P<right>read|write)-token/(?P<rev>[^/]+)", _Handler.xet_token),
    ("GET", r"/cas/v1/chunks/default/(?P<chunk>[0-9a-f]{64})", _Handler.chunk),
    ("POST", r"/cas/v1/xorbs/default/(?P<name>[0-9a-f]{64})", _Handler.block),
    ("POST", r"/cas/v1/shards", _Handler.shard),
    ("POST", r"/api/repos/create", _Handler.create),
    ("DELETE", r"/api/repos/delete", _Handler.delete),
    ("POST", rf"/api/models/{_R}/branch/(?P<branch>[^/]+)", _Handler.branch),
    ("DELETE", rf"/api/models/{_R}/branch/(?P<branch>[^/]+)", _Handler.delete_branch),
    ("POST", r"/api/validate-yaml", _Handler.validate),
    ("POST", rf"/api/models/{_R}/preupload/(?P<rev>[^/]+)", _Handler.preupload),
    ("POST", rf"/{_R}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", r"/lfs/(?P<sha256>[0-9a-f]{64})", _Handler.put),
    ("POST", r"/lfs-verify", _Handler.verify),
    ("POST", rf"/api/models/{_R}/lfs-files/duplicate", _Handler.duplicate),
    ("POST", rf"/api/models/{_R}/commit/(?P<rev>[^/]+)", _Handler.commit),
)
