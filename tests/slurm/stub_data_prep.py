"""A `data_prep` that prints how it was called: `--exit-code C` with `--exit-part I/N` ends that part with C."""

from __future__ import annotations

import sys


def main() -> int:
    words = sys.argv[1:]
    print("data_prep", *words, flush=True)
    if "--exit-part" in words and words[words.index("--part") + 1] == words[words.index("--exit-part") + 1]:
        return int(words[words.index("--exit-code") + 1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
