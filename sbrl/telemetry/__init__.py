"""What a role says of itself: metrics and logs. May import sbrl.storage, and sbrl.config for Weights & Biases."""
