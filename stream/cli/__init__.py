"""The command `samstream`: a file a command. Imports everything below it."""
