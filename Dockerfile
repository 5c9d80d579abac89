# Altgate's images, one a target:
#   gateway  the gateway, without PyTorch: --build-arg GATEWAY=gateway-otel adds OpenTelemetry
#   blip     the same with BLIP's engine: --build-arg TORCH=cpu, or cuda
#   vllm     vLLM's own image with CogVLM's plugin and our launcher
# All run as user 10001, need nothing of their file system but /tmp to be writable, and are told to end by SIGTERM. What
# they depend on lies below our code, so that a change of code is built in seconds.
#
# A pip.conf for an index of one's own comes as the secret `pip`, which stays out of every layer.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0

FROM ${PYTHON_IMAGE} AS python
ENV PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Our code lies beside what it depends on, in a layer of its own.
RUN useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin altgate && \
    python3 -B -m venv --without-pip /opt/altgate && \
    echo /opt/altgate/code > "$(echo /opt/altgate/lib/python3*/site-packages)/altgate.pth"

FROM python AS gateway-dependencies
ARG GATEWAY=gateway
COPY requirements/${GATEWAY}.txt /requirements/
# --no-deps: the list is complete, and leaves out what only Litestar's command line and test client would import.
# Extension modules are published with symbols for debuggers, and pip would compile itself into the image: both are large.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    PYTHONDONTWRITEBYTECODE=1 pip --python /opt/altgate/bin/python install --quiet --only-binary :all: --no-deps \
        --require-hashes -r /requirements/${GATEWAY}.txt && \
    apt-get update -qq && apt-get install -qq --yes --no-install-recommends binutils && \
    find /opt/altgate/lib -name '*.so' -not -path '*.libs/*' -exec strip --strip-unneeded {} + && \
    apt-get purge -qq --yes --auto-remove binutils && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*

FROM python AS blip-dependencies
ARG TORCH=cpu
ARG TORCH_INDEX=
COPY requirements/blip-${TORCH}.txt /requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    PYTHONDONTWRITEBYTECODE=1 pip --python /opt/altgate/bin/python install --quiet --only-binary :all: --no-deps \
        --require-hashes ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -r /requirements/blip-${TORCH}.txt || { \
    echo "altgate: what stands above could not be installed. If it is torch: its build for CPUs lies on PyTorch's own index," \
        "whose address pytorch.org shows under 'Get started' for pip and CPU: --build-arg TORCH_INDEX=https://..." \
        "Or take the build with CUDA, which runs on CPUs as well and is several times as large: --build-arg TORCH=cuda" >&2; exit 1; }

FROM python AS code
COPY requirements/build.txt /requirements/
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv --without-pip /opt/build && \
    pip --python /opt/build/bin/python install --quiet --only-binary :all: --require-hashes \
        -r /requirements/build.txt
COPY pyproject.toml README.md LICENSE /source/
COPY prompts /source/prompts
COPY engines /source/engines
COPY gateway /source/gateway
RUN pip --python /opt/build/bin/python wheel --quiet --no-index --no-deps --no-build-isolation \
        --wheel-dir /wheel /source && \
    pip --python /opt/altgate/bin/python install --quiet --no-index --no-deps --target /code /wheel/*.whl && \
    cp -a /code /code-without-models && rm -r /code-without-models/engines/demo/checkpoint

FROM gateway-dependencies AS gateway
ENV PATH=/opt/altgate/bin:/opt/altgate/code/bin:$PATH ALTGATE_SERVER__HOST=0.0.0.0
RUN install --directory /etc/altgate
COPY --from=code /code-without-models /opt/altgate/code
WORKDIR /etc/altgate
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "-P", "-m", "engines.health", "8000"]
ENTRYPOINT ["altgate"]
CMD ["serve"]

FROM blip-dependencies AS blip
ENV PATH=/opt/altgate/bin:/opt/altgate/code/bin:$PATH HF_HOME=/weights
RUN install --directory --owner=10001 --group=10001 /weights
COPY --from=code /code /opt/altgate/code
USER 10001:10001
EXPOSE 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s CMD ["python", "-P", "-m", "engines.health", "8001"]
ENTRYPOINT ["python", "-P", "-m", "engines.blip", "--host=0.0.0.0", "--port=8001"]
CMD ["--model=demo", "--source=/opt/altgate/code/engines/demo/checkpoint", "--threads=1"]

FROM ${VLLM_IMAGE} AS vllm
USER root
RUN useradd --uid 10001 --no-create-home --home-dir /cache --shell /usr/sbin/nologin altgate && \
    install --directory --owner=10001 --group=10001 /weights /cache
ENV PYTHONUNBUFFERED=1 PYTHONPATH=/opt/altgate/code HF_HOME=/weights HOME=/cache XDG_CACHE_HOME=/cache
COPY --from=code /code /opt/altgate/code
USER 10001:10001
EXPOSE 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=1800s CMD ["python3", "-P", "-m", "engines.health", "8001"]
ENTRYPOINT ["python3", "-P", "-m", "engines.vllm", "--host=0.0.0.0", "--port=8001"]
