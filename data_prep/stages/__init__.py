"""The stages that commands run: download, pack, import, retry, verify.

download      a list of URLs to shards
import_tars   samples of ready-made tars to shards
local_images  where `pack` finds images, and prefixes of other machines
pack          local images to the same shards
retry         rounds of rows whose failure may be gone by now
tar_samples   reads ready-made tars: what each sample is, and where it lies
verify        opens every shard, checks every sample, writes the manifest
"""
