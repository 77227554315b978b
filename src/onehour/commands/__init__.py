"""The commands of the command line: each function is a command of its name; cli.py imports the one that is called."""
