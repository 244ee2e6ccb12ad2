"""What runs from our own image: the steps of a model, and the sidecar of a training pod."""
