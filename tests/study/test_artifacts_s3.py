"""The artifact store over boto3, against a server of the test's own that speaks as much of S3 as is needed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from autoprune.errors import StudyError
from autoprune.study import artifact_store
from autoprune.study.artifact_store import ArtifactStore

pytest.importorskip("boto3", reason="boto3 is not installed (the extra s3)")


class Bucket(BaseHTTPRequestHandler):
    """One bucket: objects are put, got and deleted; one that is not there is said as S3 says it."""

    objects: dict[str, bytes]
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200)

    def do_GET(self) -> None:
        if self.path.partition("?")[0] in self.objects:
            self.answer(200, self.objects[self.path.partition("?")[0]])
        else:
            self.answer(404, b"<Error><Code>NoSuchKey</Code><Message>gone</Message></Error>")

    def do_DELETE(self) -> None:
        self.objects.pop(self.path, None)
        self.answer(204)

    def answer(self, code: int, content: bytes = b"") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def objects(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    found: dict[str, bytes] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Bucket,), {"objects": found}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in ("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    values = {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "s3cr3t-key", "DEFAULT_REGION": "us-east-1"}
    for name, value in {**values, "ENDPOINT_URL": f"http://127.0.0.1:{server.server_address[1]}"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield found
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_what_is_written_is_read_again_below_the_prefix(objects: dict[str, bytes]) -> None:
    store = ArtifactStore("s3://bucket/some/prefix/")
    store.check()
    assert objects == {}
    store.write("dense-1", b"weights" * 100)
    assert list(objects) == ["/bucket/some/prefix/dense-1"]
    assert ArtifactStore("s3://bucket/some/prefix").read("dense-1") == b"weights" * 100
    with pytest.raises(StudyError, match="is not in the artifact store 's3://bucket/other'"):
        ArtifactStore("s3://bucket/other").read("dense-1")


def test_a_server_that_cannot_be_reached_is_one_line_without_secrets(
    objects: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(artifact_store, "_SECONDS", 0.5)
    with pytest.raises(StudyError, match="'s3://bucket' cannot be written") as caught:
        ArtifactStore("s3://bucket").check()
    assert "s3cr3t-key" not in str(caught.value)
    assert "\n" not in str(caught.value)
