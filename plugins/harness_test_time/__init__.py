"""Test-time methods and controls: each file is one method and one plugin."""
