"""The command line: one file per verb. Importing it loads neither torch nor any verb."""
