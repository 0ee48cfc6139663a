# The whole project with the versions of requirements.lock: makes shards, trains on GPUs or on the CPU, evaluates, exports.
#
#   docker build --tag albef-pipeline .
#   docker run --rm --gpus all --shm-size 16g --user "$(id -u):$(id -g)" --volume "$PWD:/work" albef-pipeline \
#     torchrun --nproc-per-node 8 -m pipeline pretrain albef_4m --run-dir runs/albef_4m
#
# Without `--gpus all` it runs on the CPU. The data workers hand images over through /dev/shm, of which a container has
# 64 MiB unless --shm-size says otherwise (docs/stopping.md). Relative paths are those of the mounted folder.
# With apptainer, which is what most clusters have: docs/slurm.md, "In a container".
FROM python:3.11-slim-bookworm

# torch's wheels bring CUDA's libraries, so the host's driver is all a GPU needs. gcc and make are what a C extension that
# comes as source, and the Makefile, need.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc git libc6-dev make \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/albef
# The packages first: this layer is built again only when the lock changes.
COPY requirements.lock .
RUN pip install --no-cache-dir --requirement requirements.lock

COPY . .
RUN pip install --no-cache-dir --no-deps --editable .

# Not root. `docker run --user "$(id -u):$(id -g)"` makes files in the mounted folder yours; such a user has neither a
# name nor a home here, so both are set.
ENV HOME=/tmp USER=albef PYTHONUNBUFFERED=1
USER 1000:1000
WORKDIR /work
CMD ["albef-pipeline", "--help"]
