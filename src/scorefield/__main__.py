"""python -m scorefield: the command line."""

from scorefield.cli.app import main

main()
