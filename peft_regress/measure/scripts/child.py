"""`python -m peft_regress.measure.scripts.child REQUEST`: run a script as Python would, watched."""

import runpy
import sys
from pathlib import Path

import msgspec

from peft_regress.mixing.mixture import mixture_of_environment


def main(path: str) -> None:
    """Run the script of a request. What was seen is written whatever ends it."""
    # torch may be what is mixed.
    from peft_regress.measure.scripts.observation import WatchRequest
    from peft_regress.measure.scripts.watcher import WatchEnded, Watcher

    request = msgspec.json.decode(Path(path).read_bytes(), type=WatchRequest)
    watcher = Watcher(request)
    watcher.start()
    sys.argv = [request.script, *request.args]
    try:
        if request.is_module:
            sys.path[0] = str(Path.cwd())
            runpy.run_module(request.script, run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = str(Path(request.script).resolve().parent)
            runpy.run_path(request.script, run_name="__main__")
    except WatchEnded:
        return
    except BaseException as error:
        # Written before it is known whether it was the end of a script or an error: both count.
        watcher.write(error)
        raise
    watcher.write()


if __name__ == "__main__":
    with mixture_of_environment():
        main(sys.argv[1])
