"""Opens every file of a folder and says what came of it, a line of JSON each.

Run as a program, so that what crashes, or runs code of a file, does it here:

    python reader.py FOLDER

A file that grows the process beyond `ROOM` bytes fails by MemoryError, which is no refusal.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from pathlib import Path

ROOM = 1 << 30
# What a loader of tensors has no business with.
WATCHED = re.compile(
    r"(os\.(system|exec|posix_spawn|spawn|fork|remove|rename|mkdir|rmdir|putenv|kill)|subprocess\.|"
    r"socket\.|shutil\.|ctypes\.dlopen|pty\.|exec$|code\.__new__|cpython\.run)"
)

events: list[str] = []


def watch(event: str, arguments: tuple) -> None:
    writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
    if writes or WATCHED.match(event):
        events.append(f"{event} {arguments!r}"[:200])


def virtual_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def outcome(path: Path) -> dict[str, object]:
    from wavernn_fast import checkpoints
    from wavernn_fast.errors import ModelError

    events.clear()
    try:
        checkpoints.load(path)
        result = {"outcome": "loaded", "message": ""}
    except ModelError as error:
        result = {"outcome": "refused", "message": str(error)[:2000]}
    except BaseException as error:
        result = {"outcome": type(error).__name__, "message": str(error)[:2000]}
    return {"file": path.name, "events": list(events), **result}


def main() -> None:
    folder = Path(sys.argv[1])
    import encodings.cp437  # of names in archives  # noqa: F401

    import safetensors  # noqa: F401

    outcome(folder / "sound.pt")  # all that is imported late is imported now
    outcome(folder / "sound_legacy.pt")
    resource.setrlimit(resource.RLIMIT_AS, (virtual_bytes() + ROOM,) * 2)
    sys.addaudithook(watch)
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".pt", ".safetensors", ".bin")):
        print(json.dumps(outcome(path)), flush=True)


if __name__ == "__main__":
    main()
