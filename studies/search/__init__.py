"""`sbrl tune`: a joint search of settings by Optuna."""
