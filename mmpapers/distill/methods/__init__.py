"""Distillers that serve as baselines: one short file each."""
