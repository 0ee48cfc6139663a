"""Shards to micro-batches: the loader, its worker processes, augmentation, collation.

The order is a pure function of (corpus, seed, epoch); nothing here depends on rank, worker or wall clock.
May import albef and `pipeline.config`; never the rest of `pipeline`.

bad_samples      counts replaced samples, and ends the run when nothing can be read
collation        images in shared memory, texts padded to one of a few lengths
decode           the image of a sample, or the reason why it cannot be used
image_blocks     loads an evaluation's images, block by block
lane_task        one lane's micro-batch, as a worker builds it
loader           the training data of one rank
randaugment      the original's ten operations
seeds            every random draw is seeded by its name
shared_memory    how much of /dev/shm the workers need, and errors when it is full
socket_folder    a folder for the workers' sockets, also when TMPDIR is long
transforms       crop, flip, RandomAugment, normalisation
workers          the loader's worker processes: how they start, end and fail
"""
