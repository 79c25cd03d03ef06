r"""A loopback Hub: a real HTTP server on 127.0.0.1 for the unmodified Hugging Face clients.

It keeps real files, checks what it is sent, counts what passes and fails when told::

    with Hub(tmp_path) as hub:
        hub.seed("allenai/winogrande", "dataset", {"README.md": b"...", "train.parquet": path})
        hub.fail(r"PUT /cdn/", status=500, times=2)
        subprocess.run([sys.executable, "client.py"], env=hub.environ())
        assert hub.log.sent(r"GET /cdn/.*\.parquet") < 1000
        assert hub.repo("whyitfailed/gemma2-acts").read("README.md") == b"..."

Clients read ``HF_ENDPOINT`` when they are imported: run them in a process of their own with ``environ()``,
or pass ``HfApi(endpoint=hub.endpoint, token=hub.token)``. ``python -m tests.support.hub`` serves by hand.
"""

from tests.support.hub.faults import Entry, Fault
from tests.support.hub.records import Commit, File
from tests.support.hub.repos import Repo
from tests.support.hub.server import Hub
from tests.support.hub.wire import Account

__all__ = ["Account", "Commit", "Entry", "Fault", "File", "Hub", "Repo"]
