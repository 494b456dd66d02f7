"""Ctrl-C while a command starts, works and ends."""

import signal
import subprocess
import sys
import time

# A process in the background may have been started with the signal ignored.
PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from fpemu.cli import process

def load():
    print("started", file=sys.stderr, flush=True)
    from {package}.cli.application import main
    return main

process.run("{package}", load)
"""
MOMENTS = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)  # seconds


def assert_interrupted_at_any_moment(package, *arguments):
    """Whenever a command is interrupted, it says so in one line and exits with 130."""
    program = PROGRAM.format(package=package)
    for moment in MOMENTS:
        with subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as command:
            assert command.stderr.readline() == "started\n"
            time.sleep(moment)
            command.send_signal(signal.SIGINT)
            try:
                _, errors = command.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                command.kill()
                raise
        if moment == 0 or command.returncode != 0:  # else it was quicker
            seen = command.returncode, errors
            assert seen == (130, f"{package}: interrupted\n"), f"{seen} after {moment} s"
