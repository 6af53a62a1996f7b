"""What lies on disk: stores, table schemas, manifests, pictures, people."""
