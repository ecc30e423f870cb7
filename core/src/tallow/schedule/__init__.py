"""Scheduling: a Graph becomes a Program of ordered steps over planned memory."""
