"""A local server that speaks S3, for tests of what lies at a URL."""

from collections.abc import Iterator
from contextlib import contextmanager

import boto3
import pytest
from moto.server import ThreadedMotoServer

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "planted-secret"}
BUCKET = "bucket"


@contextmanager
def serving() -> Iterator[tuple[str, boto3.session.Session]]:
    """URL of a folder in a bucket, and a client that looks at it."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}/runs?scheme=http&endpoint_override={host}:{port}&region=us-east-1", client
    server.stop()
