"""A package index for tests: tiny wheels, good and bad, served over HTTP as pip expects."""

import contextlib
import hashlib
import io
import socket
import tarfile
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fake_interpreters import wait_until

# Settings of a shell that must not reach a test.
_PIP_VARIABLES = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX", "PIP_CONSTRAINT")


def wheel_name(name, version):
    return f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


def wheel_bytes(name, version, *, source="", **said):
    """Make a wheel of one module, which has its version and a line of source."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f"__version__ = {version!r}\n{source}\n",
        f"{info}/METADATA": metadata(name, version, **said),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\n"
        "Tag: py3-none-any\n",
    }
    record = "".join(f"{path},,{len(text)}\n" for path, text in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for path, text in files.items():
            archive.writestr(zipfile.ZipInfo(path), text)
    return stream.getvalue()


def metadata(name, version, *, requires=(), requires_python=None):
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Python: {requires_python}"] if requires_python else []
    return "\n".join([*lines, *(f"Requires-Dist: {one}" for one in requires), ""])


def write_wheel(folder, name, version, *, source=""):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / wheel_name(name, version)
    file.write_bytes(wheel_bytes(name, version, source=source))
    return file


@dataclass(frozen=True, kw_only=True)
class _File:
    content: bytes
    metadata: bytes | None = None
    yanked: str | None = None
    requires_python: str | None = None


@dataclass
class PackageIndex:
    """What is served, and what was asked for."""

    url: str
    files: dict[str, dict[str, _File]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    """The paths, in order."""
    hangs_at: str | None = None
    """Never answer requests of paths with this end."""
    is_over: threading.Event = field(default_factory=threading.Event)

    def add(self, name, version, *, yanked=None, source="", content=None, **said):
        """Offer a wheel; `yanked` is the reason for which it was withdrawn."""
        file = _File(
            content=content or wheel_bytes(name, version, source=source, **said),
            metadata=metadata(name, version, **said).encode(),
            yanked=yanked,
            requires_python=said.get("requires_python"),
        )
        self._offer(name, wheel_name(name, version), file)
        return self

    def add_broken_wheel(self, name, version):
        """Offer a file that has a wheel's name and metadata, but is not a zip file."""
        return self.add(name, version, content=b"this is no zip")

    def add_failing_sdist(self, name, version):
        """Offer only a source archive, whose build fails for lack of a compiler."""
        files = {
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "failing"\n'
            'backend-path = ["."]\n',
            "failing.py": "raise RuntimeError('no compiler was found')\n",
            "PKG-INFO": metadata(name, version),
        }
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for path, text in files.items():
                member = tarfile.TarInfo(f"{name}-{version}/{path}")
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
        self._offer(name, f"{name}-{version}.tar.gz", _File(content=stream.getvalue()))
        return self

    def wait_for(self, end, *, seconds=120):
        """Wait until a path with this end was requested; the limit only ends an endless test."""
        wait_until(lambda: any(path.endswith(end) for path in self.requests), seconds=seconds)

    def downloads(self):
        """Return the names of the files that were fetched, without metadata files."""
        return [
            path.rpartition("/")[2]
            for path in self.requests
            if path.startswith("/files/") and not path.endswith(".metadata")
        ]

    def _offer(self, name, file_name, file):
        self.files.setdefault(name, {})[file_name] = file

    def answer(self, path):
        kind, _, rest = path.strip("/").partition("/")
        if kind == "simple" and rest in self.files:
            links = (_link(name, file) for name, file in self.files[rest].items())
            return "<!DOCTYPE html>\n{}\n".format("\n".join(links)).encode()
        if kind == "files":
            wants_metadata = rest.endswith(".metadata")
            for files in self.files.values():
                file = files.get(rest.removesuffix(".metadata"))
                if file is not None:
                    return file.metadata if wants_metadata else file.content
        return None


def _link(name, file):
    attributes = "" if file.metadata is None else ' data-core-metadata="true"'
    attributes += "" if file.yanked is None else f' data-yanked="{file.yanked}"'
    if file.requires_python is not None:
        quoted = file.requires_python.replace("<", "&lt;").replace(">", "&gt;")
        attributes += f' data-requires-python="{quoted}"'
    digest = hashlib.sha256(file.content).hexdigest()
    return f'<a href="/files/{name}#sha256={digest}"{attributes}>{name}</a>'


@contextlib.contextmanager
def served_index():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            index.requests.append(self.path)
            while index.hangs_at is not None and self.path.endswith(index.hangs_at):
                if index.is_over.wait(0.02):
                    return
            found = index.answer(self.path)
            with contextlib.suppress(ConnectionError):
                self._send(found)

        def _send(self, found):
            self.send_response(404 if found is None else 200)
            is_page = self.path.startswith("/simple")
            self.send_header("Content-Type", "text/html" if is_page else "application/octet-stream")
            self.send_header("Content-Length", str(len(found or b"")))
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *_):
            """Print nothing: `requests` has them."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index = PackageIndex(url=f"http://127.0.0.1:{server.server_address[1]}/simple")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield index
    finally:
        index.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()


def unused_url():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/simple"


def use_index(monkeypatch, url, cache):
    """Let pip ask only this index, without its own cache, and keep overlays in a folder."""
    for name in _PIP_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", url)
    # With 0 retries pip does not report that it could not connect.
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PEFT_REGRESS_CACHE", str(cache))
