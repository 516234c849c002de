def plan_study(*a, **k):
    return True
