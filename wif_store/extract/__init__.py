"""The only room with torch and transformers: a model in, numpy records out."""

import os

# oneDNN keeps the kernels of a thousand shapes, and torch's own layer over it keeps them once more. A forward
# pass has eight, and hardly any has those of another, so they only fill memory, for as long as a build has
# new ones: docs/performance.md. Both ask once, when they are first used.
for _kept in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_kept, "16")
