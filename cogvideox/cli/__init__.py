"""The command line: `main` finds the verb, and every verb has one small file."""
