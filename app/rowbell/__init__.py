"""Notifications driven by change data capture: commit a row, and the person it is for sees it."""
