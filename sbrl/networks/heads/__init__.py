"""One file a head: what an algorithm learns of each action. Imports as sbrl.networks."""
