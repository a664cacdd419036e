"""An interpreter that serves several tests: it runs the code that it reads.

A line of input is a JSON list: code, its file name, and whether to run it in a fork,
which finds what is named in the arguments of this script imported and nothing else. A
line of output is a JSON list: whether no exception left the code, and what was printed.
"""

import contextlib
import gc
import importlib
import io
import json
import os
import signal
import sys
import traceback
import types

SECONDS = 300


def run(code, name):
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            exec(compile(code, name, "exec"), vars(module))
            passed = True
        except BaseException:
            traceback.print_exc()
            passed = False
    return json.dumps([passed, printed.getvalue()])


def main():
    # As `python -c` has it.
    sys.path[0] = ""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()
    gc.set_threshold(20_000)
    for line in sys.stdin:
        code, name, fork = json.loads(line)
        signal.alarm(SECONDS)
        if not fork:
            print(run(code, name), flush=True)
        elif child := os.fork():
            os.waitpid(child, 0)
        else:
            print(run(code, name), flush=True)
            os._exit(0)
        signal.alarm(0)


main()
