"""`--min-yield`: the least share of the listed rows that must become samples. Without a single one a command fails."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from data_prep.accounts.accounting import Account
from data_prep.errors import YieldError
from data_prep.output.job import Folder, Job
from samples.quote import quote

REASONS_SHOWN = 3
SHOWN = 45
"""Characters of an image's name or of a detail in the message, which shows three."""
_HINTS = {
    "missing_file": "copy them there, or add to --images, and give the command again: it reads them",
    "outside_images": "--strip-prefix takes off what precedes the images' paths in --images",
    "caption_not_text": "--caption-col names the column of the captions",
    "empty_caption": "--caption-col names the column of the captions",
    "bad_url": "--url-col names the column of the URLs",
}


def check_yield(verb: str, kept: int, listed: int, least: float, reasons: Mapping[str, str], hint: str) -> None:
    """Compare what was kept with `--min-yield`.

    Args:
        verb: begins the message, as in `pack kept`.
        reasons: reasons of rows that were not kept, the commonest first, each with the text to show for it.
    Raises: YieldError below the least share, and for nothing kept.
    """
    if kept and kept >= least * listed:
        return
    why = "; ".join(reasons.values())
    share = f"{verb} {kept} of {listed} ({kept / listed if listed else 0:.1%})"
    below = f", less than --min-yield {least:g}" if kept else ""
    accept = f"; --min-yield {math.floor(1000 * kept / listed) / 1000:g} accepts it as it is" if kept else ""
    raise YieldError(f"{share}{below}{f': {why}' if why else ''}", hint + accept)


def check_job_yield(folder: Folder, job: Job, account: Account, least: float) -> None:
    """`check_yield` for a whole job, with an example of each reason from its failures.

    Shards and manifest stay as they are: their content is true.

    Raises: YieldError.
    """
    if account.kept and account.kept >= least * account.listed:
        return
    counts = dict(sorted(account.failed.items(), key=lambda item: (-item[1], item[0]))[:REASONS_SHOWN])
    examples = _examples(folder, job, set(counts))
    shown = {reason: f"{count} {reason}{examples.get(reason, '')}" for reason, count in counts.items()}
    cures = [_HINTS[reason] for reason in counts if reason in _HINTS][:1]
    hint = "; ".join([*cures, f"every row's reason is in {folder.failures}"])
    check_yield(f"{job.kind} kept", account.kept, account.listed, least, shown, hint)


def _examples(folder: Folder, job: Job, wanted: set[str]) -> dict[str, str]:
    """The first row with each reason; reads until all are found."""
    found: dict[str, str] = {}
    for shard in range(job.num_shards):
        path = folder.failures / f"{job.shard_name(shard)}.jsonl"
        if len(found) == len(wanted):
            break
        if not path.exists():
            continue
        with path.open("rb") as lines:
            for failure in map(json.loads, lines):
                if failure["reason"] in wanted and failure["reason"] not in found:
                    what = quote(failure["url"] or failure["detail"], SHOWN)
                    found[failure["reason"]] = f" (row {failure['row']}: {what})"
    return found
