"""The command line. May import anything in sbrl."""
