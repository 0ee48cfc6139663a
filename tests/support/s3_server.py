"""A real S3 server on loopback (moto's), for code that reaches it over HTTP like any other store."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import fsspec
import pytest
from moto.server import ThreadedMotoServer

BUCKET = "bucket"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The URI of an empty bucket. Its endpoint and credentials are set in the environment, also for child processes."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "nobody")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        for proxy in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            environment.delenv(proxy, raising=False)
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        fsspec.filesystem("s3").mkdir(BUCKET)
        try:
            yield f"s3://{BUCKET}"
        finally:
            fsspec.get_filesystem_class("s3").clear_instance_cache()
            server.stop()
