"""Tools that tests share, imported as `from tests.support.ranks import run_ranks`. No tests live here."""
