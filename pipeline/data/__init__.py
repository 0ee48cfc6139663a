"""Shards to micro-batches: the loader, its worker processes, augmentation, collation.

The order is a pure function of (manifest, seed, epoch); nothing here depends on rank, worker or wall clock.
May import albef and `pipeline.config`; never the rest of `pipeline`.

bad_samples      counts bad samples, and stops when nothing can be read
collate          samples to a micro-batch
decode           the image of a sample, or why it cannot be used
lane_task        one lane's micro-batch, as a worker builds it
loader           the training data of one rank
randaugment      the original's ten operations
seeds            every random draw has a name that seeds it
shared_memory    what the workers need of /dev/shm, and errors when there is no room
socket_folder    where the workers' sockets lie, however long TMPDIR is
transforms       crop, flip, RandomAugment, normalisation
workers          the loader's worker processes: how they start, end and die
"""
