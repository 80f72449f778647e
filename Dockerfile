# Three images: cpu (the default: makes pictures on its own), gateway (before Triton; no torch, no weights), triton (export,
# and plans if its base is NVIDIA's). docs/deploy.md has the commands.
ARG BASE=python:3.11-slim-bookworm
ARG TRITON_BASE=${BASE}
# nothing at run time downloads, installs or tests; tokenizers asks for these and imports none of them
ARG NEEDLESS="huggingface-hub hf-xet filelock fsspec httpx2 httpcore2 truststore pyyaml tqdm setuptools pip"

FROM ${BASE} AS build-gateway
ARG PIP_ARGS=""
WORKDIR /src
COPY pyproject.toml README.md ./
COPY service service
RUN python3 -m venv /opt/darkroom \
 && /opt/darkroom/bin/pip install --no-cache-dir --disable-pip-version-check ${PIP_ARGS} ".[otel]"

FROM build-gateway AS slim-gateway
ARG NEEDLESS
RUN /opt/darkroom/bin/pip uninstall -y ${NEEDLESS} \
 && find /opt/darkroom/lib -type d -name tests -prune -exec rm -r {} +

FROM build-gateway AS slim-cpu
ARG NEEDLESS
RUN /opt/darkroom/bin/pip install --no-cache-dir --disable-pip-version-check ${PIP_ARGS} ".[embedded,otel]" \
 && /opt/darkroom/bin/pip uninstall -y ${NEEDLESS} \
 && find /opt/darkroom/lib -type d -name tests -prune -exec rm -r {} +

FROM ${BASE} AS base
RUN useradd --uid 10001 --user-group --create-home darkroom && install -d -o darkroom -g darkroom /cache
ENV PATH=/opt/darkroom/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    DARKROOM_HOST=0.0.0.0 \
    DARKROOM_CACHE_DIR=/cache \
    DARKROOM_MODEL_REPOSITORY=/model_repository
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=25s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health/ready', timeout=24)"]
CMD ["darkroom", "serve"]

FROM base AS gateway
COPY --from=slim-gateway /opt/darkroom /opt/darkroom
ENV DARKROOM_ENGINE=triton

# EXTRAS=[export] adds torch and diffusers: to export checkpoints there, or for the torch runtime
FROM ${TRITON_BASE} AS triton
ARG PIP_ARGS=""
ARG EXTRAS=""
WORKDIR /darkroom
COPY pyproject.toml README.md ./
COPY service service
COPY export export
RUN python3 -m venv --system-site-packages /opt/darkroom \
 && /opt/darkroom/bin/pip install --no-cache-dir --disable-pip-version-check ${PIP_ARGS} -e ".${EXTRAS}"
ENV PATH=/opt/darkroom/bin:$PATH
USER 10001
CMD ["tritonserver", "--model-repository=/model_repository", "--model-control-mode=explicit", "--load-model=*"]

FROM base AS cpu
COPY --from=slim-cpu /opt/darkroom /opt/darkroom
COPY model_repository /model_repository
