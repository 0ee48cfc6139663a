"""The output folder: the job it belongs to, its parts, and where it is stored.

job            the output folder, and that one process at a time writes to it
ownership      what is ours to delete or replace
part_progress  what a running part says of itself
parts          a job cut into parts, for several machines
storage        an output folder on a disk or in a store: what differs
system_files   what macOS, Windows and file servers put beside one's own files
"""
