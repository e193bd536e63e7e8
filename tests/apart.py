"""What may end the process runs in one of its own.

A kernel with a planted fault may write anywhere: on a GPU that is an illegal access, in the
emulator damage to the tests' own process, seen or unseen. So it works on a copy of it.
"""

from __future__ import annotations

import faulthandler
import os
import traceback
from collections.abc import Callable


def is_true_or_ends(question: Callable[[], bool]) -> bool:
    """The answer of a copy of this process; true too where the copy does not live to give it."""
    child = os.fork()
    if child == 0:
        answer = 2
        try:
            faulthandler.disable()  # its crash is an answer, no news
            answer = int(question())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(answer)
    status = os.waitpid(child, 0)[1]
    code = os.waitstatus_to_exitcode(status)
    assert code != 2, "the question raised an error"
    return code != 0
