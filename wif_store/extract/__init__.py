"""Extraction: a model and texts in, log-likelihoods and residuals out, as numpy records.

The only room with torch and transformers. May import the store, records, tasks, format and storage rooms.
"""

import os

from wif_store.errors import ModelError, first_line

# oneDNN keeps the kernels of a thousand shapes, and torch keeps them a second time. A forward pass has eight
# shapes, and the next one has others, so old kernels would only fill memory. Both libraries read these
# variables once, when they are first used: they must be set before torch is imported.
for _variable in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_variable, "16")

try:
    import torch as _torch  # noqa: F401
    import transformers as _transformers  # noqa: F401
except ImportError as _error:
    _msg = (
        f"running a model needs torch and transformers ({first_line(_error)}); "
        "run: pip install 'wif-store[build]'"
    )
    raise ModelError(_msg) from None
