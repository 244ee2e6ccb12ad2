"""What happens to services, and what of it their clients notice."""
