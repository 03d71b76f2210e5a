"""A real S3-compatible server on this machine, for tests of buckets."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.storage.s3 import BucketAddress

KEYS = ("test-key", "test-secret", None)


@dataclass(frozen=True)
class BucketServer:
    """A running server; `client` is Amazon's own library, to look behind ours."""

    endpoint: str
    client: Any

    def address(self, bucket: str, prefix: str = "") -> BucketAddress:
        """A bucket of this server, made if need be."""
        self.client.create_bucket(Bucket=bucket)
        return BucketAddress(bucket=bucket, prefix=prefix, endpoint=self.endpoint, credentials=KEYS)

    def put(self, bucket: str, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=name, Body=content)

    def names(self, bucket: str) -> list[str]:
        """Every object of a bucket."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


@contextmanager
def bucket_server() -> Iterator[BucketServer]:
    """A server in this process, which forgets everything in the end."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    access, secret, _ = KEYS
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name="us-east-1",
    )
    try:
        yield BucketServer(endpoint=endpoint, client=client)
    finally:
        server.stop()


@contextmanager
def signature_server(folder: Path, *, access: str, secret: str) -> Iterator[str]:
    """The address of a server in a process of its own that looks at signatures; folders of `folder` are its buckets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(folder)]
    process = subprocess.Popen(
        [sys.executable, "-m", "nanio", *words],
        env={**os.environ, "NANIO_ACCESS_KEY": access, "NANIO_SECRET_KEY": secret},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
