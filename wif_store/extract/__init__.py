"""The only room with torch and transformers: a model in, numpy records out."""
