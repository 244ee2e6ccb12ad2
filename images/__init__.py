"""The container images: one folder an image, built when their inputs change and only then."""
