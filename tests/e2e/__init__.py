"""`make e2e`: the chart's pods as containers that train, scale, fail and recover."""
