"""`sbrl tune`: a joint search of settings with Optuna."""
