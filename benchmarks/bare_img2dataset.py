"""img2dataset as it is, by its own `download()`: what benchmarks.download compares data_prep with.

python benchmarks/bare_img2dataset.py LIST.tsv OUT IMAGE_SIZE SHARD_SIZE PROCESSES THREADS
"""

from __future__ import annotations

import importlib
import os
import sys

# As on a machine that only downloads: webdataset imports torch if it is installed, which would slow only this side.
# This stands at the top because the workers that it spawns import this file first.
sys.modules["torch"] = None  # type: ignore[assignment]
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # otherwise it asks the package index for its newest version


def main() -> None:
    urls, out, image_size, shard_size, processes, threads = sys.argv[1:]
    # `import img2dataset.main as main` would import the function of that name.
    importlib.import_module("img2dataset.main").download(
        url_list=urls,
        input_format="tsv",
        url_col="url",
        caption_col="caption",
        output_folder=out,
        output_format="webdataset",
        image_size=int(image_size),
        resize_mode="keep_ratio",
        resize_only_if_bigger=True,
        encode_quality=95,
        number_sample_per_shard=int(shard_size),
        processes_count=int(processes),
        thread_count=int(threads),
        timeout=10,
        retries=2,
        extract_exif=False,
        compute_hash="sha256",
        enable_wandb=False,
    )


if __name__ == "__main__":
    main()
