"""Passes: functions from Graph to Graph, one file each; `pipeline` says which run in what order."""
