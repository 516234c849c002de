"""The other roles, one package each. They import sbrl, and never each other."""
