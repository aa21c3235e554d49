# The kit in a container: JupyterLab on its first notebook, real Triton servers inside.
#     make image                                  # or: docker build --tag triton-crash-kit .
#     docker run --rm --shm-size=1g -p 127.0.0.1:8888:8888 triton-crash-kit
# The first study fetches the servers that it runs (60 to 100 MB each); an image that has some:
#     docker build --build-arg RELEASES="23.10 24.05 24.10" --tag triton-crash-kit .
#
# Debian 12, since its Python 3.11 is the one that all servers from 23.07 on have a stub for, and
# it is the kit's own Python as well. Packages come from Debian and, by the hashes in
# requirements.lock, from the Python package index.
FROM debian:bookworm-slim AS base
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        ca-certificates libpython3.11 make python3 python3-venv tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --shell /bin/bash kit \
    && install --directory --owner=kit --group=kit \
        /opt/triton-crash-kit /var/cache/triton-crash-kit
ENV TRITON_CRASH_KIT_CACHE=/var/cache/triton-crash-kit \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1
WORKDIR /opt/triton-crash-kit
USER kit

FROM base
# An index of your own for the packages: --build-arg PIP_INDEX_URL=...
ARG PIP_INDEX_URL
ARG RELEASES=""
COPY --chown=kit:kit . .
RUN mkdir --parents studies reports \
    && make setup \
    && rm -rf "$HOME/.cache" \
    && for release in $RELEASES; do .venv/bin/python -c "import sys; \
from kit.servers.prepare import prepare; from kit.study.releases import get_release; \
prepare([get_release(sys.argv[1])])" "$release"; done
EXPOSE 8888
ENTRYPOINT ["tini", "--"]
# The port is published on the loopback of the machine (compose.yaml, and the command above), and
# the address that JupyterLab prints has its token.
CMD ["make", "lab", "ARGS=--ip=0.0.0.0 --port=8888 --no-browser"]
