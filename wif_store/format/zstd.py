"""zstd as Python has it since 3.14, and as its backport brings it before."""

import sys

if sys.version_info >= (3, 14):
    from compression.zstd import CompressionParameter, Strategy, ZstdCompressor, zstd_version
else:
    from backports.zstd import CompressionParameter, Strategy, ZstdCompressor, zstd_version

__all__ = ["CompressionParameter", "Strategy", "ZstdCompressor", "zstd_version"]
