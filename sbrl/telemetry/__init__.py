"""What a role reports about itself: metrics and logs. May import sbrl.storage, and sbrl.config for Weights & Biases."""
