"""Runs of the command line in forks of one process that has everything imported: what a kill leaves is what a real one would.

Commands are lines of JSON on standard input: {"all": [[word, ...], ...], "signals": [[seconds, number], ...], "tear_write": number};
the command lines run at the same time, the signals go to the first. The answer is a line {"status": [...], "seconds": ...}.
"""

import json
import os
import signal
import sys
import threading
import time


def child(words, tear):
    import noiser.storage as store
    from noiser.cli import main

    if tear is not None:
        real, count = os.write, 0

        def torn(descriptor, data):
            nonlocal count
            if bytes(data[:8]) != b'{"sum":"':
                return real(descriptor, data)
            count += 1
            if count == tear:
                real(descriptor, data[: len(data) * 2 // 3])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(descriptor, data)

        own = {name: getattr(os, name) for name in dir(os) if not name.startswith("__")}
        store.os = type("Torn", (), own | {"write": staticmethod(torn)})
    os.dup2(2, 1)  # standard output is for the answers
    sys.argv = ["noiser", *words]
    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1 if end.code else 0)
    os._exit(0)


def serve():
    import noiser.attribution.attribute
    import noiser.cli.reproduce
    import noiser.experiments.report.report
    import noiser.experiments.run  # noqa: F401

    for line in sys.stdin:
        wanted = json.loads(line)
        begin = time.perf_counter()
        pids = []
        for words in wanted["all"]:
            pids.append(os.fork())
            if not pids[-1]:
                os.setpgid(0, 0)
                child(words, wanted.get("tear_write"))
        timers = [threading.Timer(after, os.kill, (pids[0], number)) for after, number in wanted.get("signals", [])]
        for timer in timers:
            timer.start()
        ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        for timer in timers:
            timer.cancel()
        sys.stdout.write(json.dumps({"status": ended, "seconds": time.perf_counter() - begin}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()
