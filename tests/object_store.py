"""A real S3 server on this machine, for runs that lie in an object store."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_MAX_ATTEMPTS": "1",
}


def serving() -> Iterator[ThreadedMotoServer]:
    """Start a server that the environment names, and stop it."""
    import s3fs

    # Its log would go to the standard error of whichever test made the first request.
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        yield server
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def new_bucket() -> str:
    """Make a bucket on the server that the environment names, and return its URL."""
    import s3fs

    assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1:")
    name = f"bucket-{uuid.uuid4().hex[:8]}"
    s3fs.S3FileSystem(use_listings_cache=False).mkdir(name)
    return f"s3://{name}"
