# shellcheck shell=bash
# Copy to slurm/site.sh, which git ignores, and keep what your cluster needs. The scripts read it before they start.
#
# module load python/3.11 cuda/13
# export PYTHON=/shared/envs/albef/bin/python
# export NCCL_SOCKET_IFNAME=ib0        # the interface the nodes meet on, when NCCL picks the wrong one
# export HF_HUB_OFFLINE=1              # compute nodes without internet
#
# Account and partition are sbatch's business; set them once in your shell's start file:
#   export SBATCH_ACCOUNT=... SBATCH_PARTITION=...
