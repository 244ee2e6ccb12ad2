"""The decisions about the door of a namespace: whether there is one, and what it is made of."""
