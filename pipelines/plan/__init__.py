"""What a run will do, decided before it begins: inputs, weights, requests, estimates."""
