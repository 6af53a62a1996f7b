"""What runs in actors, and how Ray Data runs it."""
