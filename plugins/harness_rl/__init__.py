"""Reinforcement learning and preference optimisation: each file is one method and one plugin."""
