"""An S3 server on the loopback interface, and a Ray that can speak to it."""

from __future__ import annotations

import hashlib
import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import fsspec
import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

BUCKET = "stores"


@contextmanager
def s3_server() -> Iterator[str]:
    """Serve S3 with one empty bucket; yields its URL. The environment points every client to it."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    mine = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    try:
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir(BUCKET)
        yield f"s3://{BUCKET}"
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        server.stop()


def objects(url: str) -> dict[str, str]:
    """Every object below a URL by its SHA-256."""
    fs, root = fsspec.url_to_fs(url, skip_instance_cache=True)
    return {p.removeprefix(f"{root}/"): hashlib.sha256(fs.cat_file(p)).hexdigest() for p in fs.find(root)}


def worker_processes() -> list[psutil.Process]:
    """The processes of all Ray workers that this process has started, oldest first."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if any("ray::Worker" in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue  # it has ended meanwhile
    return sorted(found, key=lambda p: p.create_time())
