"""Torsos, heads, policy, their serialization. May import torch, sbrl.config and sbrl.envs.spec."""
