"""Built-in devices, metrics and loaders, brought through the same hooks as anyone's."""
