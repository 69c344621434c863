"""The few routes of the hub that huggingface_hub speaks, on the loopback, and its cache laid by hand."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub:
    """What a hub holds: `repos` by name, and everything that was sent and fetched."""

    def __init__(self):
        self.repos, self.large, self.requests, self.sent, self.failing = {}, {}, [], [], None

    def make(self, name, files=(), private=False, gated=False):
        """A repository with one commit."""
        self.repos[name] = {"private": private, "gated": gated, "commits": {}, "refs": {}}
        return self.commit(name, {".gitattributes": b""} | dict(files))

    def commit(self, name, files, gone=()):
        """One commit on main; returns its hash."""
        repo = self.repos[name]
        tree = dict(repo["commits"].get(repo["refs"].get("main"), {})) | files
        tree = {path: data for path, data in tree.items() if path not in gone}
        text = json.dumps([len(repo["commits"]), {k: digest(v) for k, v in tree.items()}])
        sha = hashlib.sha1(text.encode()).hexdigest()
        repo["commits"][sha], repo["refs"]["main"] = tree, sha
        return sha

    def files(self, name):
        """Of main."""
        repo = self.repos[name]
        return repo["commits"][repo["refs"]["main"]]


def digest(data):
    return hashlib.sha256(data).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, content=b"", **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
            self.server.hub.sent.append((self.path, len(data)))

    def missing(self, code, status=404):
        self.answer(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def handle_any(self):
        hub, data = self.server.hub, self.body()
        hub.requests.append((self.command, self.path, data, self.headers.get("Authorization")))
        path = self.path.partition("?")[0]
        if hub.failing:
            return self.answer(hub.failing, {"error": "failing"})
        if path == "/api/repos/create":
            return self.create(json.loads(data))
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if path.startswith("/lfs/"):
            hub.large[path.removeprefix("/lfs/")] = data
            return self.answer(200)
        found = re.match(r"/(?:api/models/)?([^/]+/[^/]+?)(\.git)?(?:/(.*))?$", path)
        name, rest = found[1], (found[3] or "").split("/")
        repo = hub.repos.get(name)
        if repo is None:
            return self.missing("RepoNotFound")
        if repo["gated"]:
            return self.missing("GatedRepo", 403)
        return self.of_repo(hub, name, repo, rest, data)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def create(self, wanted):
        if not self.headers.get("Authorization"):
            return self.answer(401, {"error": "who are you"})
        name = (
            f"{wanted['organization']}/{wanted['name']}"
            if wanted.get("organization")
            else wanted["name"]
        )
        self.server.hub.make(name, private=bool(wanted.get("private")))
        return self.answer(200, {"url": f"{self.server.address}/{name}", "name": name})

    def of_repo(self, hub, name, repo, rest, data):
        if rest[0] == "info":  # large files: where to put them
            asked = json.loads(data)["objects"]
            put = [
                {**one, "actions": {"upload": {"href": f"{self.server.address}/lfs/{one['oid']}"}}}
                for one in asked
            ]
            return self.answer(200, {"transfer": "basic", "objects": put})
        if rest[0] == "preupload":
            kinds = [
                {"path": f["path"], "shouldIgnore": False,
                 "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in json.loads(data)["files"]
            ]  # fmt: skip
            return self.answer(200, {"files": kinds})
        if rest[0] == "commit":
            return self.take(hub, name, data)
        revision = rest[1] if len(rest) > 1 else "main"
        sha = repo["refs"].get(revision, revision)
        tree = repo["commits"].get(sha)
        if tree is None:
            return self.missing("RevisionNotFound")
        if rest[0] in ("", "revision"):
            siblings = [{"rfilename": path} for path in tree]
            facts = {"id": name, "sha": sha, "private": repo["private"], "siblings": siblings}
            return self.answer(200, facts)
        if rest[0] == "tree":
            rows = [
                {"type": "file", "path": path, "size": len(one), "oid": digest(one)[:40]}
                for path, one in tree.items()
            ]
            return self.answer(200, rows)
        content = tree.get("/".join(rest[2:]))
        if content is None:
            return self.missing("EntryNotFound")
        return self.answer(200, content, ETag=f'"{digest(content)}"', X_Repo_Commit=sha)

    def take(self, hub, name, data):
        """The lines of a commit."""
        files, gone = {}, []
        for line in map(json.loads, data.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                gone.append(value["path"])
        sha = hub.commit(name, files, gone)
        url = f"{self.server.address}/{name}/commit/{sha}"
        return self.answer(200, {"commitUrl": url, "commitOid": sha, "success": True})


@contextmanager
def serving():
    """A hub, and its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.hub, server.address = Hub(), f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.hub, server.address
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def lay_cache(cache, name, files, commit="a" * 40):
    """A snapshot as the hub's client lays it: links into blobs.  Returns its folder."""
    repo = Path(cache) / ("models--" + name.replace("/", "--"))
    snapshot = repo / "snapshots" / commit
    for folder in (snapshot, repo / "blobs", repo / "refs"):
        folder.mkdir(parents=True, exist_ok=True)
    (repo / "refs" / "main").write_text(commit)
    for path, data in files.items():
        (repo / "blobs" / digest(data)).write_bytes(data)
        (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
        up = "../" * (2 + path.count("/"))
        (snapshot / path).symlink_to(f"{up}blobs/{digest(data)}")
    return snapshot
