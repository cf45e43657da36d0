"""`python -m p2pnode` is the command line."""

from p2pnode.api.cli import main

main()
