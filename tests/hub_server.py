"""A Hub on the loopback interface: the part of the Hub's HTTP API that its clients use, kept in memory.

The real `huggingface_hub`, `transformers` and `datasets` talk to it through `HF_ENDPOINT` (and
`HF_HUB_DISABLE_XET=1`, so that they upload by LFS). As on the Hub, large files lie apart from the repository and are
reached by a redirect, a commit takes effect as a whole, and a private repository looks absent to strangers.
"""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import re
import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

LFS_ENDINGS = (".safetensors", ".parquet", ".png", ".bin", ".zip")
LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "other"}
SERVER_VERSION = "2025-01-01T00:00:00.000Z"


@dataclass
class File:
    """The content of one file of a commit."""

    content: bytes
    is_lfs: bool

    @property
    def oid(self) -> str:
        """As git names a blob; of a large file, its pointer's."""
        blob = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        oid = hashlib.sha256(self.content).hexdigest()
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(self.content)}\n".encode()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.oid

    def entry(self, path: str) -> dict:
        entry = {"type": "file", "oid": self.oid, "size": len(self.content), "path": path}
        if self.is_lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return entry


@dataclass
class Commit:
    oid: str
    title: str
    files: dict[str, File]
    parent: str | None


@dataclass
class Repository:
    kind: str
    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    uploaded: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.commit("main", "initial commit", {".gitattributes": File(b"*.safetensors filter=lfs\n", False)})

    @property
    def owner(self) -> str:
        return self.name.split("/")[0]

    def resolve(self, revision: str) -> Commit | None:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        return self.commits.get(oid)

    def commit(self, branch: str, title: str, files: dict[str, File]) -> Commit:
        parent = self.branches.get(branch)
        listing = "".join(f"{path}{file.oid}" for path, file in sorted(files.items()))
        oid = hashlib.sha1(f"{len(self.commits)}{parent}{title}{listing}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, title, files, parent)
        self.branches[branch] = oid
        return self.commits[oid]


class ApiError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class HubServer:
    """`with HubServer(tokens={"hf_x": "user"}, organizations={"org": {"user"}}) as hub:` then `hub.url`.

    Attributes:
        requests: (method, path) of each request, in order.
        cut_off: repositories whose large files break off half-way through their upload.
    """

    def __init__(self, tokens: dict[str, str], organizations: dict[str, set[str]] | None = None):
        self.tokens = tokens
        self.organizations = organizations or {}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large_files: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.cut_off: set[str] = set()
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        # Under another name, as on the Hub: clients treat a redirect to a foreign host differently.
        self.storage_url = f"http://localhost:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def files(self, name: str, kind: str = "model", revision: str = "main") -> dict[str, bytes]:
        """The files of a repository, without the one that it is born with."""
        commit = self.repositories[kind, name].resolve(revision)
        return {path: file.content for path, file in commit.files.items() if path != ".gitattributes"}

    def may_write(self, user: str | None, owner: str) -> bool:
        return user is not None and (user == owner or user in self.organizations.get(owner, ()))


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    # ---- Requests ----

    def do_GET(self):
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def _answer(self):
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        with self.hub.lock:
            self.hub.requests.append((self.command, url.path))
        upload = re.fullmatch("/uploads/[a-z]+/(?P<name>.+)/[0-9a-f]+", url.path)
        if upload and upload["name"] in self.hub.cut_off:
            self.rfile.read(int(self.headers["Content-Length"]) // 2)
            self.close_connection = True
            return
        self.body = self._read_body()
        try:
            for method, pattern, answer in _ROUTES:
                if match := re.fullmatch(pattern, url.path):
                    if self.command in method.split():
                        with self.hub.lock:
                            answer(self, **{key: unquote(value or "") for key, value in match.groupdict().items()})
                        return
            raise ApiError(404, f"{self.command} {url.path} is not known here")
        except ApiError as error:
            headers = {"X-Error-Message": error.message}
            if error.code:
                headers["X-Error-Code"] = error.code
            self._send_json({"error": error.message}, error.status, headers)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send(self, content: bytes, status: int = 200, headers: dict | None = None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, str(value))
        if "Content-Length" not in (headers or {}):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _send_json(self, value, status: int = 200, headers: dict | None = None):
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    # ---- Who may do what ----

    def _user(self) -> str | None:
        authorization = self.headers.get("Authorization")
        if authorization is None:
            return None
        user = self.hub.tokens.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise ApiError(401, "Invalid credentials in Authorization header")
        return user

    def _repository(self, kind: str, name: str, write: bool = False) -> Repository:
        kind = {"": "model"}.get(kind, kind.rstrip("s/"))
        user, repository = self._user(), self.hub.repositories.get((kind, name))
        writer = repository is not None and self.hub.may_write(user, repository.owner)
        if repository is None or (repository.private and not writer):
            raise ApiError(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and not writer:
            if user is None:
                raise ApiError(401, "Invalid username or password.")
            raise ApiError(403, f"You don't have the rights to write to {name}")
        return repository

    def _commit(self, repository: Repository, revision: str) -> Commit:
        commit = repository.resolve(revision)
        if commit is None:
            raise ApiError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # ---- Accounts and repositories ----

    def who_am_i(self):
        user = self._user()
        if user is None:
            raise ApiError(401, "Invalid username or password.")
        orgs = [{"name": name} for name, members in self.hub.organizations.items() if user in members]
        self._send_json({"name": user, "type": "user", "orgs": orgs, "auth": {"accessToken": {"role": "write"}}})

    def create_repository(self):
        wish = json.loads(self.body)
        user = self._user()
        if user is None:
            raise ApiError(401, "Invalid username or password.")
        owner, kind = wish.get("organization") or user, wish.get("type") or "model"
        name = f"{owner}/{wish['name']}"
        if not self.hub.may_write(user, owner):
            raise ApiError(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        url = f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}"
        if (kind, name) in self.hub.repositories:
            self._send_json({"error": "You already created this repo", "url": url}, 409)
            return
        private = wish.get("visibility") == "private" or bool(wish.get("private"))
        self.hub.repositories[kind, name] = Repository(kind, name, private)
        self._send_json({"url": url, "name": name, "id": name})

    def information(self, kind, name, revision="main"):
        repository = self._repository(kind, name)
        commit = self._commit(repository, revision or "main")
        siblings = [
            {"rfilename": path, "size": len(file.content), "blobId": file.oid} for path, file in commit.files.items()
        ]
        self._send_json(
            {
                "id": name,
                "modelId": name,
                "author": repository.owner,
                "sha": commit.oid,
                "private": repository.private,
                "gated": False,
                "disabled": False,
                "lastModified": SERVER_VERSION,
                "createdAt": SERVER_VERSION,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": siblings,
            }
        )

    def references(self, kind, name):
        repository = self._repository(kind, name)

        def listed(references, folder):
            return [
                {"name": key, "ref": f"refs/{folder}/{key}", "targetCommit": oid} for key, oid in references.items()
            ]

        heads, tags = listed(repository.branches, "heads"), listed(repository.tags, "tags")
        self._send_json({"branches": heads, "tags": tags, "converts": [], "pullRequests": []})

    def create_branch(self, kind, name, branch):
        repository = self._repository(kind, name, write=True)
        if branch in repository.branches:
            raise ApiError(409, "Reference already exists")
        start = json.loads(self.body or b"{}").get("startingPoint", "main")
        repository.branches[branch] = self._commit(repository, start).oid
        self._send_json({})

    def create_tag(self, kind, name, revision):
        repository = self._repository(kind, name, write=True)
        repository.tags[json.loads(self.body)["tag"]] = self._commit(repository, revision).oid
        self._send_json({})

    def commits(self, kind, name, revision):
        repository = self._repository(kind, name)
        history, commit = [], self._commit(repository, revision)
        while commit is not None:
            history.append({"id": commit.oid, "title": commit.title, "date": SERVER_VERSION, "message": ""})
            commit = repository.commits.get(commit.parent)
        self._send_json(history)

    # ---- Reading ----

    def tree(self, kind, name, revision, path=""):
        commit = self._commit(self._repository(kind, name), revision)
        prefix = f"{path.strip('/')}/" if path.strip("/") else ""
        inside = {name: file for name, file in commit.files.items() if name.startswith(prefix)}
        if prefix and not inside:
            raise ApiError(404, f"{path} does not exist", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        entries = {}
        for name, file in inside.items():
            folders = name[len(prefix) :].split("/")[:-1]
            for depth in range(1, len(folders) + 1) if recursive else range(1, min(len(folders), 1) + 1):
                folder = prefix + "/".join(folders[:depth])
                entries[folder] = {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40}
            if recursive or not folders:
                entries[name] = file.entry(name)
        self._send_json(list(entries.values()))

    def paths_information(self, kind, name, revision):
        commit = self._commit(self._repository(kind, name), revision)
        if self.headers.get("Content-Type", "").startswith("application/json"):
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode())["paths"]
        entries = []
        for path in paths:
            if path in commit.files:
                entries.append(commit.files[path].entry(path))
            elif any(name.startswith(f"{path}/") for name in commit.files):
                entries.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
        self._send_json(entries)

    def resolve(self, kind, name, revision, path):
        commit = self._commit(self._repository(kind, name), revision)
        headers = {"X-Repo-Commit": commit.oid}
        file = commit.files.get(path)
        if file is None:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self._send(b"Entry not found", 404, headers)
        elif file.is_lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": len(file.content)}
            self._send(b"", 302, {**headers, "Location": f"{self.hub.storage_url}/large-files/{file.sha256}"})
        else:
            self._send_content(file.content, {**headers, "ETag": f'"{file.etag}"'})

    def large_file(self, oid):
        self._send_content(self.hub.large_files[oid], {"ETag": f'"{oid}"'})

    def _send_content(self, content: bytes, headers: dict):
        status, total = 200, len(content)
        if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = wanted[1], wanted[2]
            start = int(first) if first else max(total - int(last), 0)
            stop = min(int(last) + 1, total) if first and last else total
            if start >= total:
                self._send(b"", 416, {"Content-Range": f"bytes */{total}"})
                return
            status, content = 206, content[start:stop]
            headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{total}"}
        headers |= {"Accept-Ranges": "bytes", "Content-Length": len(content)}
        self._send(content, status, headers)

    # ---- Writing ----

    def preupload(self, kind, name, revision):
        self._commit(self._repository(kind, name, write=True), revision)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LFS_ENDINGS) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        self._send_json({"files": files})

    def lfs_batch(self, kind, name):
        repository = self._repository(kind, name, write=True)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in repository.uploaded:
                entry["actions"] = {
                    "upload": {"href": f"{self.hub.url}/uploads/{repository.kind}/{name}/{wanted['oid']}"},
                    "verify": {"href": f"{self.hub.url}/verify"},
                }
            objects.append(entry)
        self._send_json({"transfer": "basic", "objects": objects})

    def upload(self, kind, name, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise ApiError(400, "The content does not have the SHA-256 that was announced")
        self.hub.large_files[oid] = self.body
        self.hub.repositories[kind, name].uploaded.add(oid)
        self._send(b"")

    def verify(self):
        wanted = json.loads(self.body)
        content = self.hub.large_files.get(wanted["oid"])
        if content is None or len(content) != wanted["size"]:
            raise ApiError(404, "The file was not uploaded")
        self._send_json({})

    def create_commit(self, kind, name, revision):
        repository = self._repository(kind, name, write=True)
        files, title = dict(self._commit(repository, revision).files), ""
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, repository.branches[revision]):
                    raise ApiError(412, "A commit has happened since. Please refresh and try again.")
            elif operation["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), is_lfs=False)
            elif operation["key"] == "lfsFile":
                if value["oid"] not in repository.uploaded:
                    raise ApiError(400, f"The LFS object of {value['path']} was not uploaded")
                files[value["path"]] = File(self.hub.large_files[value["oid"]], is_lfs=True)
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
            elif operation["key"] == "deletedFolder":
                files = {path: file for path, file in files.items() if not path.startswith(value["path"])}
        commit = repository.commit(revision, title, files)
        url = f"{self.hub.url}/{name}/commit/{commit.oid}"
        self._send_json({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def validate_yaml(self):
        """Checks what needs no YAML parser: that the block is there and its licence known."""
        content = json.loads(self.body)["content"]
        block = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", content, re.DOTALL)
        problems = [] if block else ["The metadata block is missing"]
        license_name = re.search(r"^license: *(\S+)$", block[1], re.MULTILINE) if block else None
        if license_name and license_name[1] not in LICENSES:
            problems.append(f'"license" must be one of {sorted(LICENSES)}')
        if block and "\t" in block[1]:
            problems.append("YAML knows no tabs")
        if problems:
            self._send("\n".join(problems).encode(), 400)
        else:
            self._send_json({"errors": [], "warnings": []})


_KIND = "(?P<kind>models|datasets|spaces)"
_NAME = "(?P<name>[^/]+/[^/]+)"
_LINK = "/(?P<kind>datasets/|spaces/)?(?P<name>(?!api/)[^/]+/[^/]+)"
_REVISION = "(?P<revision>[^/]+)"
_ROUTES = (
    ("GET", "/api/whoami-v2", _Handler.who_am_i),
    ("POST", "/api/repos/create", _Handler.create_repository),
    ("POST", "/api/validate-yaml", _Handler.validate_yaml),
    ("GET", f"/api/{_KIND}/{_NAME}", _Handler.information),
    ("GET", f"/api/{_KIND}/{_NAME}/revision/{_REVISION}", _Handler.information),
    ("GET", f"/api/{_KIND}/{_NAME}/refs", _Handler.references),
    ("GET", f"/api/{_KIND}/{_NAME}/commits/{_REVISION}", _Handler.commits),
    ("GET", f"/api/{_KIND}/{_NAME}/tree/{_REVISION}(?P<path>/.*)?", _Handler.tree),
    ("POST", f"/api/{_KIND}/{_NAME}/paths-info/{_REVISION}", _Handler.paths_information),
    ("POST", f"/api/{_KIND}/{_NAME}/branch/(?P<branch>[^/]+)", _Handler.create_branch),
    ("POST", f"/api/{_KIND}/{_NAME}/tag/{_REVISION}", _Handler.create_tag),
    ("POST", f"/api/{_KIND}/{_NAME}/preupload/{_REVISION}", _Handler.preupload),
    ("POST", f"/api/{_KIND}/{_NAME}/commit/{_REVISION}", _Handler.create_commit),
    ("POST", f"{_LINK}\\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("GET HEAD", f"{_LINK}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
    ("GET HEAD", "/large-files/(?P<oid>[0-9a-f]+)", _Handler.large_file),
    ("PUT", f"/uploads/(?P<kind>[a-z]+)/{_NAME}/(?P<oid>[0-9a-f]+)", _Handler.upload),
    ("POST", "/verify", _Handler.verify),
)

__all__ = ["File", "HubServer"]
