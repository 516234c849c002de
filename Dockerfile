# Two images from one file, each with the one entry point `sbrl`:
#   --target cpu       every role but the learner
#   --target learner   the learner, whose torch may be a CUDA build: --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
# Built with one torch they share all their layers. `make image` builds both and tries them.

# A package index that pip asks beside its own for constraints.txt's torch (see PyTorch's "Get started"); empty: only pip's own.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu

# By its digest for builds that are the same next year: --build-arg BASE=debian:bookworm-slim@sha256:...
ARG BASE=debian:bookworm-slim


FROM $BASE AS base
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3.11 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/ldconfig/* /var/log/*.log /var/log/apt
# /tmp is the one folder that has to be writable. The code's bytecode is in the image, and nothing adds to it. The user id has no
# name in the image, and some libraries ask for one.
ENV PATH=/opt/sbrl/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp USER=sbrl \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1


# All packages but torch and SBRL itself, in /opt/sbrl. pip works from outside, so that it is not in there.
FROM base AS packages
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends binutils python3.11-venv \
    && python3.11 -m venv /opt/pip \
    && python3.11 -m venv --without-pip /opt/sbrl
# Settings of pip that a build may be given: scripts/pip_mounts.py.
ENV PIP_CONFIG_FILE=/dev/pip/pip.conf \
    PIP="/opt/pip/bin/pip --python /opt/sbrl/bin/python --no-cache-dir --disable-pip-version-check" \
    PACKAGES=/opt/sbrl/lib/python3.11/site-packages \
    COMPILE="/opt/sbrl/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash"
WORKDIR /build
# Each by its hash, so that what is installed is what was tested.
COPY image-wheels.txt ./
# Without headers, tests, symbols (a third of the largest libraries), and a C++ parser that TensorFlow asks for and does not load.
# Some packages carry templates that are no Python.
RUN $PIP install --no-compile --no-deps --require-hashes --requirement image-wheels.txt \
    && rm -rf $PACKAGES/tensorflow/include $PACKAGES/clang $PACKAGES/libclang-* \
    && find $PACKAGES -type d -name tests -prune -exec rm -rf {} + \
    && find $PACKAGES -name '*.pyi' -delete \
    && strip --strip-unneeded $PACKAGES/tensorflow/libtensorflow_*.so.2 \
    && ($COMPILE $PACKAGES || true)


FROM packages AS torch
ARG TORCH_INDEX
COPY constraints.txt ./
# Without headers, tests, symbols, and all programs but the one that `import torch` looks for.
RUN $PIP install --no-compile --constraint constraints.txt ${TORCH_INDEX:+--extra-index-url $TORCH_INDEX} \
        --target /opt/torch torch \
    && cd /opt/torch && rm -rf bin torch/include torch/test torch/share \
    && find . -type d -name tests -prune -exec rm -rf {} + \
    && find torch/bin -type f ! -name torch_shm_manager -delete \
    && find . -name '*.pyi' -delete \
    && strip --strip-unneeded torch/lib/libtorch_cpu.so \
    && ($COMPILE . || true)


FROM packages AS program
COPY . .
RUN $PIP install --no-compile --no-deps --no-build-isolation --target /opt/program . \
    && mv /opt/program/bin /opt/program-bin \
    && /opt/sbrl/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/program


FROM base AS runtime
COPY --from=packages /opt/sbrl /opt/sbrl
COPY --from=torch /opt/torch /opt/sbrl/lib/python3.11/site-packages
COPY --from=program /opt/program /opt/sbrl/lib/python3.11/site-packages
COPY --from=program /opt/program-bin /opt/sbrl/bin
WORKDIR /tmp
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
ENTRYPOINT ["sbrl"]
CMD ["--help"]


FROM runtime AS learner
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG BASE
LABEL org.opencontainers.image.title="sbrl-learner" \
      org.opencontainers.image.description="SBRL's learner: small-batch reinforcement learning" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED" \
      org.opencontainers.image.base.name="$BASE"


FROM runtime AS cpu
ARG VERSION=unknown
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG BASE
LABEL org.opencontainers.image.title="sbrl" \
      org.opencontainers.image.description="SBRL's actors, replay, coordinator, evaluator and controller" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED" \
      org.opencontainers.image.base.name="$BASE"
