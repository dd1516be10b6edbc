"""A stand-in for the HTTP interface of the Hugging Face hub, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote


class Hub(ThreadingHTTPServer):
    """Repositories in memory: name -> file -> bytes.

    It answers the requests that make a repository, commit files, list and load them.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.status = 0
        """Answer everything with this status; 0 for none."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def send(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(self.server.status or status)
        for name, value in ({} if self.server.status else headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, hub = unquote(self.path.partition("?")[0]), self.server
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            hub.repositories.setdefault(name, {})
            hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.send({"url": f"{hub.address}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            self.send({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            self.send({"files": [{"path": file["path"], **regular} for file in files]})
        elif "/commit/" in path:
            name = "/".join(path.split("/")[3:5])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    hub.repositories[name][line["value"]["path"]] = content
            url = f"{hub.address}/{name}/commit/{SHA}"
            self.send({"commitUrl": url, "commitOid": SHA, "success": True})
        else:
            self.send({"error": "not found"}, 404)

    def do_GET(self) -> None:
        parts, hub = unquote(self.path.partition("?")[0]).strip("/").split("/"), self.server
        api = parts[:2] == ["api", "models"]
        name = "/".join(parts[2:4] if api else parts[:2])
        if name not in hub.repositories:
            self.send({"error": "no"}, 404, X_Error_Code="RepoNotFound")
        elif api:
            siblings = [{"rfilename": file} for file in hub.repositories[name]]
            self.send({"id": name, "sha": SHA, "siblings": siblings, "tags": []})
        else:  # /user/name/resolve/SHA/FILE
            content = hub.repositories[name]["/".join(parts[4:])]
            etag = hashlib.sha1(content).hexdigest()
            self.send(content, ETag=f'"{etag}"', X_Repo_Commit=SHA)

    do_HEAD = do_GET


SHA = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def local_hub() -> Iterator[Hub]:
    """A hub that runs while the context lasts."""
    hub = Hub()
    thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
