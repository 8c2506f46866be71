"""Several real servers under load while they die, come back, are restarted and exchanged: what callers notice.

    scripts/balance                  three parts, about ten minutes on two quiet cores
    scripts/balance --only nginx     these parts alone

Three servers on the small checkpoints answer steady calls, behind nginx with the configuration of deploy/nginx, and
behind the client's own round robin. One is killed, comes back, a fourth is added, and each is restarted. Then two
servers of one version are exchanged for two of another one, and back. Everything is on loopback, and ends by itself.

Exit status: 0 all bounds kept, 1 one missed, 2 a part failed.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.balance import lost, upgrade
from bench.balance.job import Job
from bench.load.options import QUICK, add_output
from bench.speed import report
from bench.speed.recording import all_kept, recorded
from bench.speed.results import Result

PARTS: dict[str, Callable[[Job], Result]] = {
    "nginx": lost.by_nginx,
    "client": lost.by_client,
    "upgrade": upgrade.run,
}
SUBJECT, TITLE = "small", "Several servers on one machine, small checkpoints"
REMARK = (
    "Servers, nginx and callers share the cores, so times say how they change, not how fast a server is. A call is lost"
    " when the client, with its retries, has no answer for its caller."
)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    output = options.output / SUBJECT
    chosen = [name for name in PARTS if name in (options.only or PARTS)]
    settings = {"quick": options.quick, "next": str(options.next_repository or "")}
    for name in chosen:
        folder = Path(tempfile.mkdtemp(prefix="florence2-sam2-balance-"))
        job = Job(folder, options.quick, options.next_repository)
        recorded(name, settings, functools.partial(PARTS[name], job), lambda: None).write(output)
        shutil.rmtree(folder, ignore_errors=True)
    parts = all_kept(output, PARTS, settings)
    now = [ran for ran in parts if ran.piece in chosen]
    print(report.terminal(f"{TITLE}{f' ({QUICK})' if options.quick else ''}", now))
    print(f"\nall values: {output}", file=sys.stderr)
    if not (options.no_results or options.quick):
        missing = [name for name in PARTS if name not in [ran.piece for ran in parts]]
        if missing:
            print(f"{options.results} stays as it is: no result yet of {', '.join(missing)}", file=sys.stderr)
        else:
            body = report.section(TITLE, parts, kind="balance", remark=REMARK)
            report.write_section(options.results, SUBJECT, body, "balance")
            print(f"written into {options.results}", file=sys.stderr)
    if any(ran.error for ran in now):
        return 2
    return int(any(row.met is False for ran in now for row in ran.result.rows))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/balance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--next-repository",
        type=Path,
        metavar="FOLDER",
        help="an export to upgrade to (default: one made of the packaged models, with other weights)",
    )
    add_output(parser, "balance-output")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
