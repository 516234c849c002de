"""The other roles, a package each, which import sbrl and never each other."""
