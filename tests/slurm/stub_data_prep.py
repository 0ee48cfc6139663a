"""A `data_prep` that says how it was called: `--exit-code C` with `--exit-slice I/N` ends that slice with C."""

from __future__ import annotations

import sys


def main() -> int:
    words = sys.argv[1:]
    print("data_prep", *words, flush=True)
    if "--exit-slice" in words and words[words.index("--slice") + 1] == words[words.index("--exit-slice") + 1]:
        return int(words[words.index("--exit-code") + 1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
