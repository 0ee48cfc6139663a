"""The output folder: the job it belongs to, its parts, and its storage location.

job            the output folder and its job; one process at a time writes to it
ownership      what data_prep may delete or replace
part_progress  progress.json: what a running part reports
parts          a job cut into parts, for several machines
storage        reading and writing on a disk or in a store
system_files   what macOS, Windows and file servers put beside one's own files
"""
