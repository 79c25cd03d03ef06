FROM python:3.11-slim-bookworm AS wheel
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/dist.txt requirements/
RUN pip install --require-hashes -r requirements/dist.txt
COPY pyproject.toml README.md LICENSE ./
COPY cards cards
COPY wif_store wif_store
RUN python -m hatchling build --target wheel --directory /dist

FROM python:3.11-slim-bookworm
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# torch brings its own CUDA libraries: the host has the driver. The lock before torch, as in the Makefile.
COPY requirements/container.txt requirements/torch.txt /requirements/
RUN pip install --require-hashes --no-deps -r /requirements/container.txt \
 && pip install -r /requirements/torch.txt
# Without an index: whatever the extras ask for and the lock does not hold ends the build.
COPY --from=wheel /dist /dist
RUN pip install --no-index "$(echo /dist/*.whl)[build,ray]"

RUN useradd --create-home --uid 1000 builder \
 && install --directory --owner builder /huggingface /stores
ENV HF_HOME=/huggingface
VOLUME /huggingface
USER 1000
WORKDIR /stores
ENTRYPOINT ["wif-store"]
