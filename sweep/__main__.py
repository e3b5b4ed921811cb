"""Which model for my budget? Run the trials of sweep.yaml, then choose: `python -m sweep`, `python -m sweep choose`."""

import argparse
import sys
from pathlib import Path

from stages.lib.stage import one_line_errors

EPILOG = "Finished trials are not repeated; stop at any time, and the same command continues."


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m sweep", description=__doc__, epilog=EPILOG)
    parser.add_argument("--plan", type=Path, default=Path("sweep.yaml"), help="values to try (default: sweep.yaml)")
    parser.add_argument("--address", help="of a Ray cluster (default: this machine)")
    parser.add_argument("--cpus-per-trial", type=int, default=2, metavar="N")
    parser.add_argument("--gpus-per-trial", type=float, default=0, metavar="N")
    parser.add_argument("--git", help="repository that all nodes reach (default: this folder)")
    parser.add_argument("--storage", help="DVC remote that all nodes reach (default: a folder in .dvc/tmp)")
    parser.add_argument("--resume-dir", help="folder that all nodes reach, for unfinished training runs")
    commands = parser.add_subparsers(dest="command")
    choose = commands.add_parser("choose", help="name the model that fits a budget")
    choose.add_argument("--max-loss", type=float, metavar="POINTS", help="added top-1 error against base in fp32")
    choose.add_argument("--max-latency-ms", type=float, metavar="MS", help="of one image, on the machine of the sweep")
    choose.add_argument("--max-mb", type=float, metavar="MB", help="file size, in 10^6 bytes")
    args = parser.parse_args()
    with one_line_errors("sweep"):
        if args.command == "choose":
            from sweep.choose import choose_model

            print(choose_model(max_loss=args.max_loss, max_latency_ms=args.max_latency_ms, max_mb=args.max_mb))
        else:
            from sweep.driver import sweep

            failed = sweep(
                args.plan,
                address=args.address,
                cpus=args.cpus_per_trial,
                gpus=args.gpus_per_trial,
                git=args.git,
                storage=args.storage,
                resume=args.resume_dir,
            )
            sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
