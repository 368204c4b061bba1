"""Every benchmark, one after the other, each in a process of its own. Run: make bench, or python -m benchmarks"""

import subprocess
import sys
import time

COMMANDS = (
    ("benchmarks.packing",),
    ("benchmarks.rglf", "--shape", "anchor"),
    ("benchmarks.rglf", "--shape", "anchor-32k", "--stages", "4", "--rounds", "1"),
    ("benchmarks.inference",),
    ("benchmarks.feedback",),
)
"""Modules and their arguments; add a line for a new one. Together they are to take less than 15 minutes."""


def main() -> None:
    for command in COMMANDS:
        begin = time.perf_counter()
        print(f"\n## python -m {' '.join(command)}\n", flush=True)
        subprocess.run([sys.executable, "-m", *command], check=True)
        print(f"\n{time.perf_counter() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
