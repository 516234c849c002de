"""`sbrl train`: a whole run as processes on this machine. May import anything in sbrl but sbrl.cli."""
