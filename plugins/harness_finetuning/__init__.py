"""Fine-tuning methods: each file is one method and one plugin."""
