"""python -m onehour is the command onehour."""

from onehour.cli import main

main()
