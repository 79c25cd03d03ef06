"""The only room with torch and transformers: a model in, numpy records out."""

import os

# oneDNN keeps the kernels of a thousand shapes. Hardly any batch has the shape of another, so they only fill
# memory, for as long as a build has new ones: docs/performance.md. It asks once, when it is first used.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
