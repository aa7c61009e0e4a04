"""Standard output whose reader has gone, as of `tglo ... | head -1`."""

import os
import select
import signal
import sys

STATUS = 128 + signal.SIGPIPE
"""What a shell reports of a program that SIGPIPE has ended."""


def reader_is_gone() -> bool:
    """Whether nobody reads standard output any more; what is left for it is then dropped."""
    try:
        number = sys.stdout.fileno()
    except (OSError, ValueError):  # a stand-in, or closed
        return False
    poll = select.poll()
    poll.register(number, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)  # or the interpreter's last flush would complain
    os.close(nowhere)
    return True
