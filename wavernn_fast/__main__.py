"""`python -m wavernn_fast` is the command `wavernn-fast`."""

from .cli import main

if __name__ == "__main__":
    main(prog_name="wavernn-fast")
